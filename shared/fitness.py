"""What a process asks of Redis before it starts: is it there and fit to be used, does it know the created tokens."""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Final

import redis
from redis.exceptions import RedisError

from shared.groups import MIRROR_NAME as GROUPS_MIRROR_NAME
from shared.keys import GROUPS
from shared.protocol import PROTOCOL, process_name
from shared.redis_checks import redis_problems
from shared.redis_sync import connect
from shared.redis_url import shown_url
from shared.room.scripts import HELLO, HelloArguments, ModelRow
from shared.room.upkeep import OtherProtocol, check_protocol
from shared.settings import Settings
from shared.tokens import MIRROR_NAME, restore_from_mirror

log = logging.getLogger("aqueduct.redis")


WAIT_SECONDS: Final = 10.0
"""For a Redis that is on its way up, beside this process."""
POLL_SECONDS: Final = 0.25


class UnfitRedis(RuntimeError):
    """Redis does not answer, or with it the promises could not be kept; the text says what to change."""


def ready_redis(settings: Settings) -> None:
    """Restore lost tokens; raise UnfitRedis for a server that does not answer, is too old, evicts keys, runs in
    cluster mode, or serves another protocol.

    Raises UnreadableMirror when the file they would be restored from cannot be used.
    """
    last = time.monotonic() + WAIT_SECONDS
    is_waiting = False
    while True:
        try:
            _ready(settings)
            return
        except RedisError as error:
            where, why = shown_url(settings.redis), " ".join(str(error).split())[:200] or type(error).__name__
            if time.monotonic() > last:
                raise UnfitRedis(
                    f"Redis does not answer at {where} ({why}). Start it, or set redis_url (AQUEDUCT_REDIS_URL)."
                ) from None
            if not is_waiting:
                log.warning("waiting up to %g s for Redis at %s", WAIT_SECONDS, where)
                is_waiting = True
            time.sleep(POLL_SECONDS)


def _ready(settings: Settings) -> None:
    try:
        with connect(settings.redis) as client:
            client.ping()
            faults = [check for check in redis_problems(client) if check.status == "fail" and check.name != "redis"]
            if not faults:
                _greet(client, settings)
                restored = restore_from_mirror(client, settings.data_dir / MIRROR_NAME)
                groups = restore_from_mirror(client, settings.data_dir / GROUPS_MIRROR_NAME, GROUPS)
                if groups:
                    log.warning("groups restored from the data folder's mirror", extra={"groups": groups})
                if restored:
                    log.warning("tokens restored from the data folder's mirror", extra={"tokens": restored})
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
    reply: Any = client.eval(HELLO.source, 0, *HELLO.lay_out(hello, map(ModelRow, settings.models)))
    check_protocol(reply)
