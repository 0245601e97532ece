"""`aqueduct queues`: what waits and runs, a line a model, and the open batches; refreshed in place until Ctrl-C.

Flower shows requests and their outcomes; how many wait is shown here, because a Celery queue holds tickets and not
requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqueduct.commands.common import config_option, data_dir_option, needed_config_file
from aqueduct.errors import CommandError
from aqueduct.queues_view import View, away, shown

if TYPE_CHECKING:
    from shared.batches.open import OpenBatch, OpenBatches
    from shared.debugging import Switched
    from shared.redis import RedisClient
    from shared.room.upkeep import Depth, Upkeep
    from shared.settings import ModelSettings, Settings

CONNECT_SECONDS = 3.0
CLEAR = "\x1b[H\x1b[J"
"""To the upper left corner, and erase from there on."""
FEWEST_ENDS = 5
"""From fewer ends within a minute no rate is told."""


@dataclass(frozen=True)
class _Manner:
    """How to show it."""

    once: bool
    interval_seconds: float
    as_json: bool


@click.command("queues")
@config_option
@data_dir_option
@click.option("--once", is_flag=True, help="Print once and end.")
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, metavar="SECONDS",
    help="Between two looks.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line in place of tables.")
def command(config: Path | None, once: bool, interval: float, as_json: bool) -> int:
    """Show for each model what waits in each lane, what runs, and how many ended within the last minute.

    Below stand the batches that have not ended, with when the last line should at the rate so far.

    On a terminal the table is refreshed in place until Ctrl-C.
    """
    from aqueduct.commands.redis_choice import redis_url_here  # noqa: PLC0415 - keeps `--help` fast
    from shared.config import load_settings  # noqa: PLC0415

    settings = load_settings(
        needed_config_file(config),
        resolve_backend_keys=False,
        resolve_flower_password=False,
        resolve_webhook_secrets=False,
    )
    url = redis_url_here(settings)
    # The table says by itself when Redis is away; a log line would tear it.
    logging.getLogger("aqueduct").addHandler(logging.NullHandler())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show(settings, url, _Manner(once, interval, as_json)))
    return 0


async def _show(settings: Settings, url: str, manner: _Manner) -> None:
    from shared.catalogue import Catalogue  # noqa: PLC0415 - as above
    from shared.redis import RedisClient, RedisRefused, RedisUnavailable  # noqa: PLC0415
    from shared.room.upkeep import Upkeep  # noqa: PLC0415

    client = RedisClient(url, "queues")
    try:
        await client.open(CONNECT_SECONDS)
    except RedisUnavailable:
        raise CommandError(f"Redis did not answer within {CONNECT_SECONDS:g} s; see `aqueduct check`") from None
    try:
        upkeep = Upkeep(client, Catalogue(settings), "queues")
        batches = _Batches(settings, client)
        while True:
            try:
                rows = await _rows(settings, upkeep, client)
                view = View(rows, *await batches.look(), debug=await _debugged(client))
                text = shown(view, as_json=manner.as_json)
            except (RedisUnavailable, RedisRefused) as error:
                if manner.once:
                    raise CommandError(f"Redis cannot be asked ({error}); see `aqueduct check`") from None
                text = away(str(error), as_json=manner.as_json)
            _print(text, in_place=sys.stdout.isatty() and not (manner.once or manner.as_json))
            if manner.once:
                return
            await asyncio.sleep(manner.interval_seconds)
    finally:
        await client.close()


async def _rows(settings: Settings, upkeep: Upkeep, client: RedisClient) -> list[dict[str, Any]]:
    from aqueduct.capacity_view import capacity_of  # noqa: PLC0415 - as above
    from shared import keys  # noqa: PLC0415
    from shared.capacity import STATE  # noqa: PLC0415

    asked = upkeep.depth(), *(client.call("LLEN", keys.queue(name)) for name in settings.models)
    depth, *tickets = await asyncio.gather(*asked)
    rows = [
        _row(name, depth[name], int(waiting), model)
        for (name, model), waiting in zip(settings.models.items(), tickets, strict=True)
    ]
    for row in rows:
        model = settings.models[row["model"]]
        if model.is_auto:
            row.update(capacity_of(model, await client.call("HGET", keys.capacity(row["model"]), STATE)))
    return rows


def _row(name: str, depth: Depth, tickets: int, model: ModelSettings) -> dict[str, Any]:
    from shared.control.models import backends_of, shown_state  # noqa: PLC0415 - as above

    hours = model.hours
    pause = (
        {} if hours is None or hours.are_on(time.time()) else {"batch_begins_at": f"{hours.begin:%H:%M} {hours.zone}"}
    )
    return {
        "model": name,
        "state": shown_state(depth),
        "held": depth.held or None,
        "backends_held": [one["place"] for one in backends_of(model, depth) if one["state"] == "held"],
        "waiting": depth.waiting,
        "oldest_wait_seconds": round(depth.oldest_ms / 1000, 1),
        "running": depth.running,
        "concurrency": model.most,
        "live_workers": depth.workers,
        "tickets": tickets,
        "ends_per_minute": depth.ends if depth.ends >= FEWEST_ENDS else None,
        **pause,
    }


async def _debugged(client: RedisClient) -> list[Switched]:
    from shared.debugging import parsed  # noqa: PLC0415 - as above
    from shared.keys import DEBUG  # noqa: PLC0415

    (seconds, _), reply = await asyncio.gather(client.call("TIME"), client.call("HGETALL", DEBUG))
    return parsed(reply, int(seconds) * 1000)


class _Batches:
    """The open batches of the store, if there is one; what is wrong with it harms no other figure."""

    def __init__(self, settings: Settings, client: RedisClient) -> None:
        self._settings = settings
        self._client = client
        self._open: OpenBatches | None = None

    async def look(self) -> tuple[list[OpenBatch] | None, str | None]:
        """Return the batches, and why they cannot be told."""
        from aqueduct.batches.open import open_batches  # noqa: PLC0415 - as above
        from shared.private_files import UntrustedPath  # noqa: PLC0415
        from shared.store import StoreError  # noqa: PLC0415

        try:
            self._open = self._open or open_batches(self._settings, self._client)
            return (await self._open.rows() if self._open is not None else None), None
        except (StoreError, UntrustedPath) as error:
            return None, str(error)


def _print(text: str, *, in_place: bool) -> None:
    if in_place:
        print(f"{CLEAR}aqueduct queues  {time.strftime('%H:%M:%S')}\n\n{text}", flush=True)
    else:
        print(text, flush=True)
