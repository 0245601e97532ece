"""`aqueduct queues`: what waits and runs, a line a model; refreshed in place on a terminal until Ctrl-C.

Flower shows requests and their outcomes; how many wait is shown here, because a Celery queue holds tickets and not
requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqueduct.commands.common import CommandError, Subparsers, config_file_here

if TYPE_CHECKING:
    from shared.redis import RedisClient
    from shared.room.upkeep import Depth, Upkeep
    from shared.settings import Settings

CONNECT_SECONDS = 3.0
CLEAR = "\x1b[H\x1b[J"
"""To the upper left corner, and erase from there on."""
_HEADINGS = (
    "MODEL", "PRIORITY", "DEFAULT", "FLEX", "BATCH", "OLDEST", "RUNNING", "WORKERS", "TICKETS", "ENDS/MIN",
)  # fmt: skip


def add_parser(subparsers: Subparsers[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "queues",
        help="show what waits and runs, live",
        description="Show for each model what waits in each lane, what runs, and how fast it drains. On a terminal the "
        "table is refreshed in place until Ctrl-C.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file (AQUEDUCT_CONFIG)")
    parser.add_argument("--once", action="store_true", help="print one table and end")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two tables (1)")
    parser.add_argument("--json", action="store_true", help="print a JSON list a line in place of a table")


def run(args: argparse.Namespace) -> int:
    """Show the table; blocks without `--once`."""
    from aqueduct.commands.redis_choice import chosen_redis_url  # noqa: PLC0415 - keeps `--help` fast
    from shared.config import load_settings  # noqa: PLC0415

    if not 0.1 <= args.interval <= 3600:
        raise CommandError(f"--interval {args.interval:g}: must be between 0.1 and 3600 seconds")
    settings = load_settings(config_file_here(args.config), resolve_backend_keys=False)
    url = chosen_redis_url(settings)
    if url is None:
        raise CommandError("redis_url is not set and no `aqueduct up` runs here; set redis_url or AQUEDUCT_REDIS_URL")
    # The table says by itself when Redis is away; a log line would tear it.
    logging.getLogger("aqueduct").addHandler(logging.NullHandler())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show(settings, url, args))
    return 0


async def _show(settings: Settings, url: str, args: argparse.Namespace) -> None:
    from shared.redis import RedisClient, RedisRefused, RedisUnavailable  # noqa: PLC0415 - as above
    from shared.room.upkeep import Upkeep  # noqa: PLC0415

    client = RedisClient(url, "queues")
    try:
        await client.open(CONNECT_SECONDS)
    except RedisUnavailable:
        raise CommandError(f"Redis did not answer within {CONNECT_SECONDS:g} s; see `aqueduct check`") from None
    try:
        upkeep = Upkeep(client, settings, "queues")
        while True:
            try:
                text = _text(await _rows(settings, upkeep, client), as_json=args.json)
            except (RedisUnavailable, RedisRefused) as error:
                if args.once:
                    raise CommandError(f"Redis cannot be asked ({error}); see `aqueduct check`") from None
                text = _away(str(error), as_json=args.json)
            _print(text, in_place=sys.stdout.isatty() and not (args.once or args.json))
            if args.once:
                return
            await asyncio.sleep(args.interval)
    finally:
        await client.close()


async def _rows(settings: Settings, upkeep: Upkeep, client: RedisClient) -> list[dict[str, Any]]:
    from shared import keys  # noqa: PLC0415 - as above

    asked = upkeep.depth(), *(client.call("LLEN", keys.queue(name)) for name in settings.models)
    depth, *tickets = await asyncio.gather(*asked)
    return [
        _row(name, depth[name], int(waiting), model.concurrency)
        for (name, model), waiting in zip(settings.models.items(), tickets, strict=True)
    ]


def _row(name: str, depth: Depth, tickets: int, concurrency: int) -> dict[str, Any]:
    return {
        "model": name,
        "waiting": depth.waiting,
        "oldest_wait_seconds": round(depth.oldest_ms / 1000, 1),
        "running": depth.running,
        "concurrency": concurrency,
        "live_workers": depth.workers,
        "tickets": tickets,
        "ends_per_minute": round(60_000 / depth.every_ms, 1) if depth.every_ms else None,
    }


def _text(rows: list[dict[str, Any]], *, as_json: bool) -> str:
    if as_json:
        return json.dumps(rows)
    lines = [_HEADINGS]
    for row in rows:
        waits = row["waiting"]
        lines.append(
            (
                row["model"], *(str(waits[lane]) for lane in ("priority", "default", "flex", "batch")),
                f"{row['oldest_wait_seconds']:g} s" if sum(waits.values()) else "-",
                f"{row['running']}/{row['concurrency']}", str(row["live_workers"]), str(row["tickets"]),
                "-" if row["ends_per_minute"] is None else f"{row['ends_per_minute']:g}",
            )
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _away(reason: str, *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"error": reason})
    return f"Redis cannot be asked at the moment ({reason}); trying again. Ctrl-C ends."


def _print(text: str, *, in_place: bool) -> None:
    if in_place:
        print(f"{CLEAR}aqueduct queues  {time.strftime('%H:%M:%S')}\n\n{text}", flush=True)
    else:
        print(text, flush=True)
