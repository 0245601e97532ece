"""Whether a form was sent by one of our own pages."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

from shared.errors import PermissionDenied


def require_same_origin(request: Request) -> None:
    """Raise PermissionDenied for what another site's page has sent, and for what does not say whose it is.

    Browsers say where a form comes from in `Sec-Fetch-Site`, which a proxy's change of `Host` does not touch, on https
    and on the machine itself; elsewhere, and old ones, in `Origin`.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        is_ours = site == "same-origin"
    else:
        origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
        is_ours = bool(host) and _host_of(origin) == host.lower()
    if not is_ours:
        raise PermissionDenied("This form was sent by no page of this gateway. Open the page itself and send it there.")


def _host_of(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") else None
