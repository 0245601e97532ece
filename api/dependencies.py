"""What a handler may ask for, as annotated aliases."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from api.gateway import Gateway
from api.record import record_of
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
