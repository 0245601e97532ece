"""The audit log: what was done, by whom, by which way, and what became of it; newest first, the last 10,000."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from shared import keys
from shared.control.actor import Actor
from shared.redis import RedisClient
from shared.room.scripts import NOTE, NoteArguments
from shared.scripting import Scripts

log = logging.getLogger("aqueduct.audit")


class Entry(NamedTuple):
    """One action."""

    at: float
    """Unix seconds of Redis's clock."""
    by: str
    via: str
    """command, http, ui or celery."""
    action: str
    """As `model.pause` or `job.cancel`."""
    target: str
    outcome: str


async def note(client: RedisClient, actor: Actor, action: str, target: str, outcome: str) -> None:
    """Write an entry of what no script of its own has done. Raises RedisUnavailable or RedisRefused."""
    await Scripts(client).run(NOTE, NoteArguments(actor.by, actor.via, action, target, outcome))
    say(actor, action, target, outcome)


def note_now(client: Any, actor: Actor, action: str, target: str, outcome: str) -> None:
    """Do the same over a synchronous client (`shared/redis_sync.py`)."""
    client.eval(NOTE.source, 0, *NOTE.lay_out(NoteArguments(actor.by, actor.via, action, target, outcome)))
    say(actor, action, target, outcome)


def say(actor: Actor, action: str, target: str, outcome: str) -> None:
    """Write the log line that goes with an entry."""
    log.info("operator", extra={**actor._asdict(), "action": action, "target": target, "outcome": outcome})


async def entries(client: RedisClient, start: int = 0, count: int = 100) -> Sequence[Entry]:
    """Return entries, the newest first, from place `start` on. Raises RedisUnavailable or RedisRefused."""
    return parsed(await client.call("LRANGE", keys.AUDIT, start, start + count - 1))


def parsed(rows: Iterable[bytes]) -> list[Entry]:
    """Return what can be read of them; a newer version may say more."""
    found = []
    for row in rows:
        try:
            told: Mapping[str, Any] = json.loads(row)
            words = (str(told.get(name, "")) for name in Entry._fields[1:])
            found.append(Entry(float(told["at"]) / 1000, *words))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
