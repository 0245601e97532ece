"""How much of its limits a token or a group has used: read for people, from what the scripts count."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from shared.keys import PREFIXES
from shared.protocol import DAY_MS
from shared.redis import RedisClient

WINDOW_SECONDS: Final = 61
"""A window has so many whole seconds (`shared/scripts/lib/limits.lua`)."""


async def limits_used(client: RedisClient, subjects: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return of each subject (a token's name, or `group:NAME`) what is used of each limit, by the limit's name.

    Only what has a limit is counted, so 0 may also mean that nobody counts. Slot time is in seconds. Raises
    RedisUnavailable or RedisRefused.
    """
    if not subjects:
        return {}
    seconds, micros = await client.call("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    found = await asyncio.gather(*(_used(client, subject, now_ms) for subject in subjects))
    return dict(zip(subjects, found, strict=True))


async def _used(client: RedisClient, subject: str, now_ms: int) -> dict[str, int]:
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    day, month = f"d{now_ms // DAY_MS}", f"m{now.year * 12 + now.month - 1}"
    window, jobs, waits, budget = await asyncio.gather(
        client.call("HGETALL", PREFIXES["window"] + subject),
        client.call("ZCOUNT", PREFIXES["token_jobs"] + subject, now_ms, "+inf"),
        client.call("ZCOUNT", PREFIXES["subject_waits"] + subject, now_ms, "+inf"),
        client.call("HMGET", PREFIXES["budget"] + subject, day + "t", month + "t", day + "s", month + "s"),
    )
    requests, tokens = _of_window(_fields(window), now_ms // 1000)
    day_tokens, month_tokens, day_ms, month_ms = (int(one or 0) for one in budget)
    return {
        "requests_per_minute": requests, "tokens_per_minute": tokens,
        "concurrent_jobs": int(jobs), "waiting_jobs": int(waits),
        "tokens_per_day": day_tokens, "tokens_per_month": month_tokens,
        "slot_seconds_per_day": day_ms // 1000, "slot_seconds_per_month": month_ms // 1000,
    }  # fmt: skip


def _fields(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, int]:
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): int(value) for name, value in pairs if name[:1] != b"p"}


def _of_window(fields: Mapping[str, int], second: int) -> tuple[int, int]:
    """Return the requests and tokens of a window's last 61 seconds, as the script that lets requests in counts them."""
    at = fields.get("at")
    if at is None:
        return 0, 0
    used = {"r": 0, "t": 0}
    for place in range(WINDOW_SECONDS):
        counted_at = at - (at - place) % WINDOW_SECONDS
        if counted_at > second - WINDOW_SECONDS:  # a clock that was set back counts all of it, as the script does
            for kind in used:
                used[kind] += fields.get(f"{kind}{place}", 0)
    return used["r"], used["t"]
