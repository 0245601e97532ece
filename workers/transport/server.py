"""A backend's base URL and its standing headers in; where to connect and what every request begins with out."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Server:
    """One server as every request to it names it."""

    scheme: str
    host: str
    """In ASCII, an IPv6 address without its brackets."""
    port: int
    path: str
    """What stands before every request's own path."""
    headers: tuple[tuple[str, str], ...]
    """Of every request, `host` first; sent as they are."""

    @property
    def is_tls(self) -> bool:
        """Whether it is to be called over TLS."""
        return self.scheme == "https"


def server_at(url: str, headers: Mapping[str, str]) -> Server:
    """Return the server of a base URL; a name and password in it become the header `authorization`."""
    parts = urlsplit(url)
    host = _ascii(parts.hostname or "")
    name = bracketed(host)
    standing = {"host": name if parts.port is None else f"{name}:{parts.port}", "accept-encoding": "identity"}
    if parts.username is not None:
        standing["authorization"] = basic(parts.username, parts.password)
    standing |= headers
    return Server(
        parts.scheme, host, parts.port or DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"), tuple(standing.items())
    )


def basic(user: str, password: str | None) -> str:
    """Return the value of a header that shows a URL's user and password."""
    return "Basic " + b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


def bracketed(host: str) -> str:
    """Return a host as it stands before `:port`."""
    return f"[{host}]" if ":" in host else host


def _ascii(host: str) -> str:
    """Return a host in ASCII; one that cannot be a name fails when it is looked up."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return "invalid.invalid"
