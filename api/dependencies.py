"""What a handler may ask for, as annotated aliases."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from api.gateway import Gateway
from api.record import record_of
from shared.errors import PermissionDenied
from shared.roles import Role, is_allowed
from shared.token_settings import TokenSettings


async def _gateway(request: Request) -> Gateway:
    return cast(Gateway, request.scope["state"]["gateway"])


GatewayDep = Annotated[Gateway, Depends(_gateway)]


async def _token(request: Request, gateway: GatewayDep) -> TokenSettings:
    value = request.headers.get("authorization")
    token = await gateway.tokens.find(value.encode("latin-1") if value is not None else None)
    record_of(request.scope).is_of(token)
    return token


TokenDep = Annotated[TokenSettings, Depends(_token)]


def _needs(token: TokenSettings, role: Role) -> TokenSettings:
    if not is_allowed(token.role, role):
        raise PermissionDenied(f"This needs a token with the role `{role}`; this one has `{token.role}`.")
    return token


async def _viewer(token: TokenDep) -> TokenSettings:
    return _needs(token, "viewer")


async def _operator(token: TokenDep) -> TokenSettings:
    return _needs(token, "operator")


ViewerDep = Annotated[TokenSettings, Depends(_viewer)]
"""A token that may look at everybody's; an operator's is one."""
OperatorDep = Annotated[TokenSettings, Depends(_operator)]
"""A token that may change what runs."""
