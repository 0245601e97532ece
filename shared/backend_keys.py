"""What a backend is called in Redis: a key that says nothing of its address, and stays while its place changes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from shared.backend_settings import BackendSettings


def key_of(backend: BackendSettings) -> str:
    """Return 12 hex digits, the same for the same URL and model's name there."""
    return hashlib.sha256(f"{backend.url}\n{backend.model or ''}".encode()).hexdigest()[:12]


def keys_of(backends: Sequence[BackendSettings]) -> str:
    """Return the keys of all, as scripts take them."""
    return " ".join(map(key_of, backends))
