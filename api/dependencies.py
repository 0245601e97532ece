"""What a handler may ask for, as annotated aliases."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, cast
from urllib.parse import urlsplit

from fastapi import Depends, Request

from api.gateway import Gateway
from api.record import record_of
from shared.errors import PermissionDenied
from shared.roles import Role, is_allowed
from shared.token_settings import TokenSettings


async def _gateway(request: Request) -> Gateway:
    return cast(Gateway, request.scope["state"]["gateway"])


_HERE: Final = ("localhost", "localhost.localdomain")

GatewayDep = Annotated[Gateway, Depends(_gateway)]


async def _token(request: Request, gateway: GatewayDep) -> TokenSettings:
    value = request.headers.get("authorization")
    token = await gateway.tokens.find(value.encode("latin-1") if value is not None else None)
    record_of(request.scope).is_of(token)
    return token


def is_on_this_machine(request: Request) -> bool:
    """Whether the caller itself runs here, and not only a proxy that speaks for it, or a page under another name."""
    if any(name == "forwarded" or name.startswith("x-forwarded-") or name == "x-real-ip" for name in request.headers):
        return False
    return request.client is not None and _is_loopback(request.client.host) and all(map(_is_local, _hosts(request)))


def _hosts(request: Request) -> list[str]:
    """Return by what name the caller asks, none in HTTP/1.0. `request.url` puts ours for a Host that it cannot read."""
    return request.headers.getlist("host")


def _is_local(host: str) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname or ""
        is_plain = parts.netloc == host and "@" not in host and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False
    return is_plain and (name in _HERE or _is_loopback(name))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


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


async def _looker(request: Request, gateway: GatewayDep) -> None:
    if not is_on_this_machine(request):
        _needs(await _token(request, gateway), "viewer")


Looker = Depends(_looker)
"""Lets in who may look at everybody's, and whoever asks on the machine itself."""
OperatorDep = Annotated[TokenSettings, Depends(_operator)]
"""A token that may change what runs."""
