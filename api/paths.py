"""Where the API's endpoints are: each under its path alone and behind `/v1`, as clients are set up either way."""

from __future__ import annotations

PREFIXES = ("", "/v1")


def both(path: str) -> tuple[str, ...]:
    """Return the two places of an endpoint."""
    return tuple(prefix + path for prefix in PREFIXES)
