"""Tokens whose prompts and answers an operator has logged for a while: switched on and off in Redis, each with its end.

One hash, `aq2:debug`, which goes with the last end; API processes read it every few seconds, as they read the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import redis

from shared.keys import DEBUG

MOST_SECONDS: Final = 86_400
DEFAULT_SECONDS: Final = 600
LEAST_BYTES: Final = 64
MOST_BYTES: Final = 65_536
DEFAULT_BYTES: Final = 8192


class Switched(NamedTuple):
    """A token whose prompts and answers are logged."""

    token: str
    """Its name."""
    until_ms: int
    """Unix milliseconds of Redis's clock."""
    max_bytes: int
    """Of one prompt or answer in a line."""
    by: str

    def as_json(self) -> dict[str, Any]:
        """Return it as it is told."""
        return {
            "object": "token.debug", "token": self.token, "until": self.until_ms // 1000, "max_bytes": self.max_bytes,
            "by": self.by,
        }  # fmt: skip


def parsed(reply: Mapping[bytes, bytes] | Iterable[bytes], now_ms: float) -> list[Switched]:
    """Return what still stands of an HGETALL reply, a mapping or a flat list; what cannot be read is left out."""
    if not isinstance(reply, Mapping):
        flat = list(reply)
        reply = dict(zip(flat[::2], flat[1::2], strict=True))
    found = []
    for name, value in reply.items():
        try:
            told: Mapping[str, Any] = json.loads(value)
            one = Switched(name.decode(), int(told["until_ms"]), int(told["max_bytes"]), str(told.get("by", "")))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if one.until_ms > now_ms:
            found.append(one._replace(max_bytes=min(MOST_BYTES, max(0, one.max_bytes))))
    return sorted(found)


def switch(client: redis.Redis, token: str, seconds: int, max_bytes: int, by: str) -> Switched | None:
    """Have a token's prompts and answers logged for so long from now on, or no more (0 s: None).

    Raises what Redis raises. API processes notice within 5 s.
    """
    made: list[Switched] = []

    def change(pipe: Any) -> None:
        now_ms = _now_ms(pipe)
        kept = {one.token: one for one in parsed(pipe.hgetall(DEBUG), now_ms) if one.token != token}
        made[:] = [Switched(token, now_ms + seconds * 1000, max_bytes, by)] if seconds > 0 else []
        kept |= {one.token: one for one in made}
        pipe.multi()
        pipe.delete(DEBUG)
        for one in kept.values():
            told = {"until_ms": one.until_ms, "max_bytes": one.max_bytes, "by": one.by}
            pipe.hset(DEBUG, one.token, json.dumps(told))
        if kept:
            pipe.pexpireat(DEBUG, max(one.until_ms for one in kept.values()))

    client.transaction(change, DEBUG)
    return made[0] if made else None


def switched(client: redis.Redis) -> Sequence[Switched]:
    """Return all that stand; raises what Redis raises."""
    reply: Any = client.hgetall(DEBUG)
    return parsed(reply, _now_ms(client))


def _now_ms(client: Any) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000
