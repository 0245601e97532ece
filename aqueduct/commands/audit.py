"""`aqueduct audit`: what operators did, the newest first."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aqueduct.commands.common import config_option, data_dir_option
from aqueduct.operating import operate
from aqueduct.table import Column, table, terminal_width

if TYPE_CHECKING:
    from shared.catalogue import Catalogue
    from shared.control.audit import Entry
    from shared.redis import RedisClient

_COLUMNS = tuple(map(Column, ("WHEN", "WHO", "BY", "ACTION", "WHAT", "OUTCOME")))


@click.command("audit", help=__doc__)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, metavar="N", help="So many at most."
)
@config_option
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
def command(config: Path | None, limit: int, as_json: bool) -> int:
    """Show what operators did, by command, over HTTP or with Celery's tools."""

    async def act(client: RedisClient, _: Catalogue) -> Sequence[Entry]:
        from shared.control.audit import entries  # noqa: PLC0415 - keeps `--help` fast

        return await entries(client, 0, limit)

    found = operate(config, act)
    if as_json:
        for entry in found:
            print(json.dumps(entry._asdict()))
    else:
        rows = [(time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.at)), *map(str, one[1:])) for one in found]
        print(table(_COLUMNS, rows, terminal_width()) if rows else "Nothing was done yet.")
    return 0
