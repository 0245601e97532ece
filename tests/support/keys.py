"""The check that no test leaves Redis keys behind without a lifetime: memory that nobody would ever free."""

from __future__ import annotations

import re
from collections.abc import Iterable

import redis

ALLOWED_WITHOUT_LIFETIME: tuple[str, ...] = (
    r"_kombu\.binding.*",  # Celery's queue bindings: a few small sets
    r"aq:owners",  # API processes that were alive lately; the sweep clears it
    r"aq:tokens",  # created tokens
    r"aq:groups",  # created groups
    r"aq:audit",  # what operators did, the last 10,000
    r"unacked.*",
)
"""Patterns (whole key) of keys that may live for ever; each is bounded in number and size."""


def keys_without_lifetime(client: redis.Redis, allowed: Iterable[str] = ALLOWED_WITHOUT_LIFETIME) -> list[str]:
    """Return the keys that would stay for ever and are not on the list."""
    pattern = re.compile("|".join(f"(?:{entry})" for entry in allowed) or r"(?!)")
    names = [name if isinstance(name, bytes) else str(name).encode() for name in client.scan_iter(count=1000)]
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.ttl(name)
    lifetimes = pipeline.execute() if names else []
    forever = [name.decode(errors="replace") for name, seconds in zip(names, lifetimes, strict=True) if seconds == -1]
    return sorted(name for name in forever if not pattern.fullmatch(name))
