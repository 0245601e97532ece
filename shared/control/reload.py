"""Has every process read its configuration again, and gathers what they answer."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any, Final

from shared import keys
from shared.control.actor import Actor
from shared.control.audit import note
from shared.protocol import DAY_MS
from shared.redis import RedisClient

ANSWER_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.1


async def reload_all(client: RedisClient, actor: Actor) -> tuple[int, list[dict[str, Any]]]:
    """Return how many processes heard, and what they answered within 10 s.

    Raises RedisUnavailable or RedisRefused.
    """
    request = secrets.token_hex(8)
    await client.call("SET", keys.RELOAD_LAST, request, "PX", DAY_MS)  # for who does not hear it now
    asked = int(await client.call("PUBLISH", keys.RELOAD, request))
    loop, answers = asyncio.get_running_loop(), list[bytes]()
    until = loop.time() + ANSWER_SECONDS
    while len(answers) < asked and loop.time() < until:
        await asyncio.sleep(LOOK_SECONDS)
        answers = await client.call("LRANGE", keys.reloaded(request), 0, -1)
    told = sorted((json.loads(one) for one in answers), key=lambda one: (one["role"], one["process"]))
    await note(client, actor, "reload", "all processes", outcome_of(asked, told))
    return asked, told


def outcome_of(asked: int, answers: list[dict[str, Any]]) -> str:
    """Return what the audit log has of it."""
    refused = sum(bool(one["error"]) for one in answers)
    return f"{asked} asked, {len(answers)} answered, {refused} refused"
