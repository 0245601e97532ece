"""What a header counts against a limit of bytes, towards clients and towards backends."""

from __future__ import annotations

from typing import Final

FIELD_BYTES: Final = 32
"""Beside its name and value, as HTTP/2 counts (RFC 9113, 6.5.2): as objects the shortest take 50 times their bytes."""
