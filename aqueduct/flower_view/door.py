"""Who may look at Flower, and under which path it believes itself: the login, and the API in front of it.

A browser shows Flower's own login. An API process that serves Flower's pages to the sessions of `/ui` shows a pass
instead: a word of its own making that it has left in Redis a moment before, good for one request. So it needs no
password, and whoever can write one into Redis can read everything there anyway.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from base64 import b64decode
from typing import Any, Final

from aqueduct.flower_view.columns import STYLE
from shared.flower import PASS_HEADER, PATH, PREFIX_HEADER, pass_key
from shared.redis_sync import connect

log = logging.getLogger("aqueduct.flower")

POLICY: Final = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEAD_END: Final = b"</head>"
_INLINE: Final = b'<script type="text/javascript">'
"""The one script of Flower's that stands in a page."""


class Passes:
    """What API processes have left in Redis."""

    def __init__(self, redis_url: str) -> None:
        self._client = connect(redis_url)

    def use(self, given: str) -> bool:
        """Whether a pass is good; it is not any more from here on. False where Redis cannot be asked."""
        try:
            return self._client.getdel(pass_key(given)) is not None
        except Exception as error:  # Redis is away, or refuses: nobody is let in
            log.warning("a pass was not looked up: %s", type(error).__name__)
            return False


def open_door(login: str, passes: Passes) -> None:
    """Have every page ask for the login, or a pass, and name its links as the browser must ask for them.

    Logins are compared as bytes: Flower's own comparison fails with a traceback where one is not ASCII.
    """
    from flower.views import BaseHandler  # noqa: PLC0415 - keeps `--help` fast
    from tornado.web import HTTPError, RequestHandler  # noqa: PLC0415

    def current_user(handler: Any) -> bool:
        headers = handler.request.headers
        given = headers.get(PASS_HEADER)
        if not (passes.use(given) if given else is_login(headers.get("Authorization", ""), login)):
            raise HTTPError(401)
        return True

    def reverse_url(handler: Any, name: str, *arguments: Any) -> str:
        return _prefix(handler) + str(RequestHandler.reverse_url(handler, name, *arguments))

    def static_url(handler: Any, path: str, include_host: bool | None = None, **more: Any) -> str:
        return _prefix(handler) + str(RequestHandler.static_url(handler, path, include_host, **more))

    def render_string(handler: Any, template_name: str, **values: Any) -> bytes:
        text: bytes = RequestHandler.render_string(handler, template_name, **values | {"url_prefix": _prefix(handler)})
        nonce = secrets.token_urlsafe(16)
        handler.set_header("Content-Security-Policy", POLICY.format(nonce=nonce))
        text = text.replace(_INLINE, f'<script nonce="{nonce}">'.encode())
        return text.replace(_HEAD_END, f"<style>{STYLE}</style>".encode() + _HEAD_END, 1)

    for replacement in (reverse_url, static_url, render_string):
        setattr(BaseHandler, replacement.__name__, replacement)
    BaseHandler.get_current_user = current_user


def _prefix(handler: Any) -> str:
    """Return the path under which the browser has Flower: that of the API, or none. No other is believed."""
    return PATH if handler.request.headers.get(PREFIX_HEADER) == PATH else ""


def is_login(header: str, login: str) -> bool:
    """Tell whether an Authorization header is Basic and holds this `user:password`."""
    scheme, _, encoded = header.partition(" ")
    try:
        given = b64decode(encoded.strip(), validate=True)
    except ValueError:  # not ASCII, or no Base64
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(given, login.encode())
