"""URLs of stores: which are understood, and what is wrong with one that is not."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

SCHEMES: Final = ("file", "s3", "gs", "az")


def store_url_problem(url: str) -> str | None:
    """Return what is wrong with a store's URL, None if nothing is."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        return f"must begin with {', '.join(f'{name}://' for name in SCHEMES[:-1])} or {SCHEMES[-1]}://"
    parts = urlsplit(url)
    if scheme == "file":
        return (
            None if not parts.netloc and parts.path.strip("/") else "must be an absolute folder, as file:///srv/files"
        )
    if parts.password:
        return "must hold no secrets: credentials come from the environment"
    return None if parts.netloc else f"must name a bucket, as {scheme}://bucket/prefix"
