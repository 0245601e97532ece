"""The way in: a token whose role may look, for a session's cookie."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.gateway import Gateway
from api.record import record_of
from api.ui import session as sessions
from api.ui.rendering import rendered
from shared.errors import AqueductError, PermissionDenied, Unauthenticated
from shared.flower import PATH
from shared.roles import is_allowed
from shared.tokens import hash_token

COOKIE_PATH: Final = "/"
"""A cookie whose name begins with `__Host-` can have no other."""
FIRST: Final = "/ui/now"
_NEEDS: Final = (
    "This token may send requests and not look at this page: it needs the role `viewer` or `operator`. "
    "Ask your operator, or: aqueduct token set NAME --role viewer"
)


def is_secure(request: Request) -> bool:
    """Whether the browser came by https, to us or to a proxy that is believed."""
    return request.url.scheme == "https"


def cookie_name(request: Request) -> str:
    """Return the session cookie's name: over https one that no other host, and no page without TLS, can set."""
    return "__Host-aqueduct_ui" if is_secure(request) else "aqueduct_ui"


class LoginDesk:
    """Serves one request for `/ui/login`."""

    def __init__(self, request: Request, gateway: Gateway) -> None:
        self._request = request
        self._gateway = gateway

    def form(self) -> Response:
        """Return the empty form."""
        return self._page(self._request.query_params.get("next", ""))

    async def enter(self, form: FormData) -> Response:
        """Begin a session, or say why not. An unknown token waits as it does everywhere (`api/tokens.py`)."""
        given, onward = str(form.get("token", "")).strip(), str(form.get("next", ""))
        try:
            if not given:
                raise Unauthenticated("Enter your token.")
            token = await self._gateway.tokens.find(b"Bearer " + given.encode())
        except (Unauthenticated, PermissionDenied) as error:
            return self._page(onward, error)
        record_of(self._request.scope).is_of(token)
        if not is_allowed(token.role, "viewer"):
            return self._page(onward, PermissionDenied(_NEEDS))
        session = await sessions.begin(self._gateway.client, hash_token(given))
        response = RedirectResponse(_onward(onward), 303)
        response.set_cookie(
            cookie_name(self._request), session.id, sessions.LIFE_SECONDS, path=COOKIE_PATH,
            secure=is_secure(self._request), httponly=True, samesite="strict",
        )  # fmt: skip
        return response

    def _page(self, onward: str, error: AqueductError | None = None) -> Response:
        if error is not None:
            record_of(self._request.scope).error_code = error.code
        message = error.message if error is not None else ""
        text = rendered("login.html", error=message, onward=onward if onward and _onward(onward) == onward else "")
        return HTMLResponse(text, error.status if error is not None else 200)


def _onward(given: str) -> str:
    """Return where a login leads: below `/ui/` or to Flower, and nowhere else."""
    is_below = f"{given}/".startswith(("/ui/", f"{PATH}/"))
    is_ours = is_below and "\\" not in given and given.isprintable() and "//" not in given
    return given if is_ours else FIRST
