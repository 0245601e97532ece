"""What a process asks of Redis before it starts: is it fit to be used, and does it know the created tokens."""

from __future__ import annotations

import logging
import os
from typing import Any

import redis
from redis.exceptions import RedisError

from shared.protocol import PROTOCOL, process_name
from shared.redis_checks import redis_problems
from shared.redis_sync import connect
from shared.room.scripts import HELLO, HelloArguments
from shared.room.upkeep import OtherProtocol, check_protocol
from shared.settings import Settings
from shared.tokens import MIRROR_NAME, restore_from_mirror

log = logging.getLogger("aqueduct.redis")


class UnfitRedis(RuntimeError):
    """Redis answers, but with it the promises could not be kept; the text says what to change."""


def ready_redis(settings: Settings) -> None:
    """Raise UnfitRedis for a server that is too old, evicts keys, runs in cluster mode, or serves another protocol;
    restore lost tokens.

    Raises UnreadableMirror when the file they would be restored from cannot be used.
    A Redis that does not answer is no reason: it may be on its way up, and the connections wait for it.
    """
    try:
        with connect(settings.redis) as client:
            faults = [check for check in redis_problems(client) if check.status == "fail" and check.name != "redis"]
            if not faults:
                _greet(client, settings)
                restored = restore_from_mirror(client, settings.data_dir / MIRROR_NAME)
                if restored:
                    log.warning("tokens restored from the data folder's mirror", extra={"tokens": restored})
    except RedisError as error:
        log.warning("Redis could not be checked: %s", type(error).__name__)
        return
    except OtherProtocol as error:
        raise UnfitRedis(str(error)) from None
    if faults:
        raise UnfitRedis("; ".join(f"Redis {fault.message}: {fault.fix}" for fault in faults))


def _greet(client: redis.Redis, settings: Settings) -> None:
    """Raise OtherProtocol where live processes speak another one; the answer to a hello of this process's own."""
    server: dict[str, Any] = dict(client.info("server"))
    hello = HelloArguments(
        process=process_name(f"starting-{os.getpid()}"),
        protocol=str(PROTOCOL),
        run_id=str(server.get("run_id", "")),
        knew_another="",
        lease_ms=round(settings.testing.lease_seconds * 1000),
    )
    reply: Any = client.eval(HELLO.source, 0, *hello, *settings.models)
    check_protocol(reply)
