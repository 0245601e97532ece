"""What limits mean at admission: rows for the script in, headers and refusals out."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from shared.errors import InsufficientQuota, RateLimited
from shared.keys import PREFIXES
from shared.redis import RedisClient
from shared.room.limits_used import spent_of
from shared.room.scripts import ADMIT, AdmitReply, LimitRow
from shared.token_settings import TokenSettings

_BUDGETS_FROM: Final = 4
"""Before these stand the limits that hold for requests alone."""
_BUDGETS: Final = ("tokens_per_day", "tokens_per_month", "slot_seconds_per_day", "slot_seconds_per_month")
"""In the order of a row."""
_NAMES: Final = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    **{name: name.replace("_", " ") for name in _BUDGETS},
}


class Rate(NamedTuple):
    """A limit a minute, as it stands."""

    limit: int
    remaining: int
    reset_ms: int
    """Until all of it is free again."""


class Limits(NamedTuple):
    """What a token's requests must keep to."""

    rows: tuple[LimitRow, ...]
    """Of the token and of its group; nothing where they have none."""
    kept: tuple[bytes, ...]
    """The same as they travel."""
    are_minutely: bool
    """Whether one of them is of a minute."""


NO_LIMITS: Final = Limits((), (), are_minutely=False)


def limits_of(token: TokenSettings) -> Limits:
    """Return the limits of a token and of its group."""
    numbers, group = token.limit_numbers, token.in_group
    if group is None or not group.limit_numbers:
        return _limits(token.name, numbers) if numbers else NO_LIMITS
    return _limits(token.name, numbers, group.name, group.limit_numbers)


@lru_cache(maxsize=4096)  # asked for with every request
def _limits(name: str, numbers: tuple[int, ...], group: str = "", of_group: tuple[int, ...] = ()) -> Limits:
    rows = (LimitRow(name, *numbers),) if numbers else ()
    if of_group:
        rows = (*rows, LimitRow(f"group:{group}", *of_group))
    return Limits(
        rows,
        tuple(map(ADMIT.keep, rows)),
        are_minutely=any(row.requests_per_minute or row.tokens_per_minute for row in rows),
    )


def budget_rows(rows: Sequence[LimitRow]) -> list[LimitRow]:
    """Return what of these limits holds for batches too."""
    return [
        LimitRow(subject, *[0] * _BUDGETS_FROM, *numbers[_BUDGETS_FROM:])
        for subject, *numbers in rows
        if any(numbers[_BUDGETS_FROM:])
    ]


def promised_to(token: TokenSettings, body: bytes) -> str:
    """Return the name under which a place is promised to this token and body."""
    return f"{token.name}:{zlib.crc32(body):08x}{len(body):x}"


def rates_of(told: Sequence[int]) -> tuple[Rate | None, Rate | None]:
    """Return the limits a minute that a reply's `rates` tell, of requests and of tokens."""
    if not told:
        return None, None
    requests, tokens = Rate(*told[:3]), Rate(*told[3:])
    return requests if requests.limit else None, tokens if tokens.limit else None


def rate_headers(told: Sequence[int]) -> list[tuple[bytes, bytes]]:
    """Return the `x-ratelimit-*` headers of a reply's `rates`; durations as OpenAI writes them (`1s`, `6m0s`).

    Straight on, as it is a part of each answer where there are limits: what seldom differs is kept.
    """
    headers = list[tuple[bytes, bytes]]()
    if not told:
        return headers
    limit, remaining, reset_ms, token_limit, remaining_tokens, tokens_reset_ms = told
    if limit:
        headers += (
            (b"x-ratelimit-limit-requests", _number(limit)),
            (b"x-ratelimit-remaining-requests", b"%d" % remaining),
            (b"x-ratelimit-reset-requests", _duration(reset_ms)),
        )
    if token_limit:
        headers += (
            (b"x-ratelimit-limit-tokens", _number(token_limit)),
            (b"x-ratelimit-remaining-tokens", b"%d" % remaining_tokens),
            (b"x-ratelimit-reset-tokens", _duration(tokens_reset_ms)),
        )
    return headers


@lru_cache(maxsize=4096)
def _number(number: int) -> bytes:
    return b"%d" % number


@lru_cache(maxsize=4096)  # within a second all are of the same thousand milliseconds
def _duration(milliseconds: int) -> bytes:
    return duration(milliseconds).encode()


def duration(milliseconds: int) -> str:
    """Return a Go-style duration, as clients parse `x-ratelimit-reset-*`: `12ms`, `1.5s`, `6m0s`."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds


def limit_error(reply: AdmitReply) -> RateLimited | InsufficientQuota | None:
    """Return what a caller is told whom a limit refuses; None where none did."""
    if reply.verdict not in (b"rate", b"large", b"jobs", b"waits", b"budget"):
        return None
    subject, name, *numbers = reply.breach
    limit, used, wanted = map(int, numbers)
    word = name.decode() if isinstance(name, bytes) else str(name)
    kind, whose = _whose(subject.decode() if isinstance(subject, bytes) else "")
    if reply.verdict == b"budget":
        return _spent(reply.now, word, limit, used, whose, is_group=bool(kind))
    if reply.verdict == b"large":
        text = (
            f"Request too large: its prompt and longest answer are estimated at {wanted} tokens. {whose} may use "
            f"{limit} tokens per minute. Shorten the prompt, or lower `max_tokens`."
        )
        return RateLimited(text, should_retry=False)
    if reply.verdict == b"rate":
        text = (
            f"Rate limit reached: {limit} {_NAMES[word]}. {whose} has used {used}, and this request takes {wanted}. "
            f"Please try again in {duration(reply.number)}."
        )
    elif reply.verdict == b"jobs":
        text = f"{whose} may have {limit} requests in progress. Retry when one has ended."
    else:
        text = f"{whose} may have {limit} requests waiting. Retry in {duration(reply.number)}."
    return RateLimited(text, retry_after=reply.number / 1000)


async def spent_budget(client: RedisClient, rows: Sequence[LimitRow]) -> InsufficientQuota | None:
    """Return what is told whose budget is spent, as `admit` tells it; None where all have something left.

    Raises RedisUnavailable or RedisRefused.
    """
    for use in await budget_uses(client, budget_rows(rows)):
        if use.used >= use.limit:
            kind, whose = _whose(use.subject)
            return _spent(use.now_ms, use.name, use.limit, use.used, whose, is_group=bool(kind))
    return None


class BudgetUse(NamedTuple):
    """What is used of one budget."""

    subject: str
    name: str
    """As the setting is called."""
    limit: int
    used: int
    now_ms: int
    """Redis's clock."""


async def budget_uses(client: RedisClient, rows: Sequence[LimitRow]) -> list[BudgetUse]:
    """Return what is used of each budget of these subjects. Raises RedisUnavailable or RedisRefused."""
    if not rows:
        return []
    seconds, micros = await client.call("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    replies = await asyncio.gather(*(client.call("GET", PREFIXES["spent"] + row.subject) for row in rows))
    return [
        BudgetUse(row.subject, name, int(most), number, now_ms)
        for row, packed in zip(rows, replies, strict=True)
        for name, most, number in zip(_BUDGETS, row[1 + _BUDGETS_FROM :], spent_of(packed, now_ms), strict=True)
        if isinstance(most, int) and most > 0
    ]


def _whose(subject: str) -> tuple[str, str]:
    """Return the kind of a subject, empty for a token, and how it is told."""
    kind, _, name = subject.rpartition(":")
    return kind, f"The group `{name}` of this token" if kind else "This token"


def _spent(now_ms: int, name: str, limit: int, used: int, whose: str, *, is_group: bool) -> InsufficientQuota:
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if name.endswith("_day"):
        anew = midnight + timedelta(days=1)
    else:
        anew = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    if name.startswith("slot"):
        limit, used = limit // 1000, used // 1000
    text = (
        f"{whose} has used {used} of its {limit} {_NAMES[name]}. The budget begins anew at {anew:%Y-%m-%dT%H:%M:%SZ}."
    )
    left_seconds = (anew - now).total_seconds()
    is_soon = left_seconds <= InsufficientQuota.longest_retry_after
    return InsufficientQuota(
        text,
        code="project_spend_limit_exceeded" if is_group else "token_spend_limit_exceeded",
        retry_after=left_seconds if is_soon else None,
        should_retry=None if is_soon else False,
    )
