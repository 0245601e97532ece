"""What commands that act on a running gateway share: Redis and the configuration in, one action run, its words out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aqueduct.commands.common import needed_config_file
from aqueduct.errors import CommandError

if TYPE_CHECKING:
    from shared.catalogue import Catalogue
    from shared.control.actor import Actor
    from shared.redis import RedisClient

CONNECT_SECONDS = 3.0
Result = TypeVar("Result")


def operate(config: Path | None, act: Callable[[RedisClient, Catalogue], Awaitable[Result]]) -> Result:
    """Run an action over an open connection; raises CommandError where Redis cannot be asked."""
    from aqueduct.commands.redis_choice import redis_url_here  # noqa: PLC0415 - keeps `--help` fast
    from shared.catalogue import Catalogue  # noqa: PLC0415
    from shared.config import load_settings  # noqa: PLC0415
    from shared.redis import RedisClient, RedisRefused, RedisUnavailable  # noqa: PLC0415

    settings = load_settings(
        needed_config_file(config),
        resolve_backend_keys=False,
        resolve_flower_password=False,
        resolve_webhook_secrets=False,
    )
    url = redis_url_here(settings)
    logging.getLogger("aqueduct").addHandler(logging.NullHandler())  # what is to be said the command prints

    async def run() -> Result:
        client = RedisClient(url, "operator")
        try:
            await client.open(CONNECT_SECONDS)
            return await act(client, Catalogue(settings))
        except (RedisUnavailable, RedisRefused) as error:
            raise CommandError(f"Redis cannot be asked ({error}); see `aqueduct check`") from None
        finally:
            await client.close()

    return asyncio.run(run())


def commander() -> Actor:
    """Return who runs this command."""
    from shared.control.actor import COMMAND, Actor, machine_user  # noqa: PLC0415 - as above

    return Actor(machine_user(), COMMAND)
