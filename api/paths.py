"""Where the API's endpoints are: each under its path alone and behind `/v1`, as clients are set up either way.

What clients make of a base URL is forgiven where it is plain (`tidy`), and corrected where it is not (`meant`).
"""

from __future__ import annotations

import re
from typing import Final

from shared.kinds import KINDS

PREFIXES = ("", "/v1")
RESUME_PATH = "/chat/completions/{completion_id}/events"
"""Where a stored stream is read on."""

_SLASHES: Final = re.compile("//+")
_AT_ROOT: Final = ("/healthz", "/readyz", "/docs", "/openapi.json")
_MEANT: Final = re.compile(
    f"(?:{'|'.join(re.escape(path) for path in (*(kind.path for kind in KINDS.values()), *_AT_ROOT))}"
    "|/organization/usage/completions|/(?:models|files|uploads|batches|requests)(?:/.+)?|/chat/completions/chatcmpl-.+)$"
)
"""The end of a path that says which endpoint was looked for; the leftmost match is the longest."""


def both(path: str) -> tuple[str, ...]:
    """Return the two places of an endpoint."""
    return tuple(prefix + path for prefix in PREFIXES)


def tidy(path: str) -> str:
    """Return the path as it is routed: slashes in a row are one, and one at the end is none."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.removesuffix("/") or "/"


def meant(path: str) -> str | None:
    """Return where the endpoint is that an unknown path ends in, as from a base URL with `/v1` once too often."""
    found = _MEANT.search(path)
    if found is None:
        return "/v1" if path.endswith("/v1") else None
    return found[0] if found[0] in _AT_ROOT else f"/v1{found[0]}"
