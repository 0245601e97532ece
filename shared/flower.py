"""What an API process and Flower say to each other where the API serves Flower's pages."""

from __future__ import annotations

import hashlib
from typing import Final

from shared import keys

PATH: Final = "/flower"
"""Where API processes serve them."""
PREFIX_HEADER: Final = "x-forwarded-prefix"
PASS_HEADER: Final = "x-aqueduct-flower-pass"  # noqa: S105 - a name
PASS_SECONDS: Final = 30


def pass_key(given: str) -> str:
    """Return the key under which a pass is left in Redis: by its hash, so that what lists keys shows none."""
    return keys.flower_pass(hashlib.sha256(given.encode()).hexdigest())
