"""How much of its limits a token or a group has used: read for people, from what the scripts count."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from shared.keys import PREFIXES
from shared.protocol import DAY_MS
from shared.redis import RedisClient

_MINUTE: Final = struct.Struct(">6d")
"""Its second; requests and tokens of the 61 up to it; until when places are promised; requests and tokens of it."""
_PERIOD: Final = struct.Struct(">3d")
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
    minute, window, jobs, waits, spent = await asyncio.gather(
        client.call("GET", PREFIXES["minute"] + subject),
        client.call("HGETALL", PREFIXES["seconds"] + subject),
        client.call("ZCOUNT", PREFIXES["token_jobs"] + subject, now_ms, "+inf"),
        client.call("ZCOUNT", PREFIXES["subject_waits"] + subject, now_ms, "+inf"),
        client.call("GET", PREFIXES["spent"] + subject),
    )
    requests, tokens = _of_window(minute, _fields(window), now_ms // 1000)
    day_tokens, month_tokens, day_ms, month_ms = spent_of(spent, now_ms)
    return {
        "requests_per_minute": requests, "tokens_per_minute": tokens,
        "concurrent_jobs": int(jobs), "waiting_jobs": int(waits),
        "tokens_per_day": day_tokens, "tokens_per_month": month_tokens,
        "slot_seconds_per_day": day_ms // 1000, "slot_seconds_per_month": month_ms // 1000,
    }  # fmt: skip


def spent_of(packed: bytes | None, now_ms: int) -> tuple[int, int, int, int]:
    """Return what is spent of budgets: tokens of this day and month (UTC), slot milliseconds of both.

    `packed` is what stands in Redis: periods, each with its tokens and slot ms. A month is below zero (`limits.lua`).
    """
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    known = {int(period): used for period, *used in _PERIOD.iter_unpack(packed or b"")}
    (day_tokens, day_ms), (month_tokens, month_ms) = (
        map(int, known.get(period, (0, 0))) for period in (now_ms // DAY_MS, 1 - now.year * 12 - now.month)
    )
    return day_tokens, month_tokens, day_ms, month_ms


def _fields(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, int]:
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): int(value) for name, value in pairs if name[:1] in (b"r", b"t")}


def _of_window(minute: bytes | None, fields: Mapping[str, int], second: int) -> tuple[int, int]:
    """Return the requests and tokens of a window's last 61 seconds, as the script that lets requests in counts them."""
    if minute is None:
        return 0, 0
    at, _, _, _, *own = map(int, _MINUTE.unpack(minute))
    used = {"r": 0, "t": 0}
    for place in range(WINDOW_SECONDS):
        counted_at = at - (at - place) % WINDOW_SECONDS
        if counted_at > second - WINDOW_SECONDS:  # a clock that was set back counts all of it, as the script does
            for kind, of_last in zip(used, own, strict=True):
                used[kind] += of_last if counted_at == at else fields.get(f"{kind}{place}", 0)
    return used["r"], used["t"]
