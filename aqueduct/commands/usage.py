"""`aqueduct usage`: who has used how much, from Redis and the file store, as a table, CSV or JSON."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from aqueduct.commands.common import UP_FILES, config_option, data_dir_option, needed_config_file
from aqueduct.errors import WRONG_USAGE, CommandError

if TYPE_CHECKING:
    from shared.settings import Settings
    from shared.usage.counters import Counters
    from shared.usage.ledger import Used

_SPAN: Final = re.compile(r"(\d{1,5})([hd])")
_DIMENSIONS: Final = ("token", "group", "model", "lane", "kind", "day", "hour")
CONNECT_SECONDS: Final = 3.0


@click.command("usage")
@config_option
@data_dir_option
@click.option(
    "--since", default="7d", show_default=True, metavar="WHEN", help="A date (UTC), or a span such as 7d, 24h."
)
@click.option("--until", metavar="WHEN", help="A date (UTC), whose day counts too, or how long ago (default: now).")
@click.option("--by", default="token", show_default=True, metavar="A,B", help=f"Of {', '.join(_DIMENSIONS)}.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV in place of a table.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of a table.")
def command(config: Path | None, since: str, until: str | None, by: str, *, as_csv: bool, as_json: bool) -> int:
    """Show what was used: requests, tokens, and time in the queue and in slots. Days are UTC."""
    from shared.config import load_settings  # noqa: PLC0415 - keeps `--help` fast
    from shared.usage.report import summed  # noqa: PLC0415

    if as_csv and as_json:
        raise CommandError("give --csv or --json, not both", status=WRONG_USAGE)
    wanted = [name.strip() for name in by.split(",") if name.strip()]
    for name in wanted:
        if name not in _DIMENSIONS:
            raise CommandError(f"--by: {name!r} is none of {', '.join(_DIMENSIONS)}", status=WRONG_USAGE)
    settings = load_settings(
        needed_config_file(config), resolve_backend_keys=False, resolve_flower_password=False,
        resolve_webhook_secrets=False,
    )  # fmt: skip
    now = datetime.now(UTC)
    first, end = moment("--since", since, now), now
    if until is not None:
        end = moment("--until", until, now) + (timedelta() if _SPAN.fullmatch(until) else timedelta(days=1))
    if first >= end:
        raise CommandError("--since: must be before --until, which is now where it is not given", status=WRONG_USAGE)
    used, uncounted = asyncio.run(_read(settings, first, end))
    _print(wanted, summed(used, wanted), uncounted, as_csv=as_csv, as_json=as_json)
    return 0


def moment(option: str, text: str, now: datetime) -> datetime:
    """Return when a date or a span says; raises CommandError."""
    if span := _SPAN.fullmatch(text):
        return now - timedelta(**{{"h": "hours", "d": "days"}[span[2]]: int(span[1])})
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise CommandError(
            f"{option}: {text!r} is no date such as 2027-01-31, nor a span such as 7d or 24h", status=WRONG_USAGE
        ) from None


async def _read(settings: Settings, first: datetime, end: datetime) -> tuple[list[Used], int]:
    from aqueduct.commands.redis_choice import redis_url_here  # noqa: PLC0415 - as above
    from shared.redis import RedisClient, RedisRefused, RedisUnavailable  # noqa: PLC0415
    from shared.store import open_store  # noqa: PLC0415
    from shared.usage.ledger import HOUR_SECONDS, Ledger  # noqa: PLC0415

    url, store_url = redis_url_here(settings), settings.storage.url
    files = settings.data_dir.absolute() / UP_FILES
    if store_url is None and files.is_dir():  # where `aqueduct up` keeps them
        store_url = files.as_uri()
    client = RedisClient(url, "usage")
    try:
        await client.open(CONNECT_SECONDS)
        ledger = Ledger(client, open_store(store_url) if store_url else None)
        hours = int(first.timestamp()) // HOUR_SECONDS, int(end.timestamp() - 1) // HOUR_SECONDS + 1
        return await ledger.read(*hours), await ledger.uncounted()
    except (RedisUnavailable, RedisRefused) as error:
        raise CommandError(f"Redis cannot be asked ({error}); see `aqueduct check`") from None
    finally:
        await client.close()


def _print(
    by: Sequence[str], rows: Mapping[tuple[str, ...], Counters], uncounted: int, *, as_csv: bool, as_json: bool
) -> None:
    from aqueduct.table import Column, table, terminal_width  # noqa: PLC0415 - as above
    from shared.usage.report import csv_text  # noqa: PLC0415

    if as_json:
        data = [{**dict(zip(by, name, strict=True)), **counts._asdict()} for name, counts in rows.items()]
        print(json.dumps({"usage": data, "uncounted_ends": uncounted}))
        return
    if as_csv:
        print(csv_text(by, rows), end="")
        return
    numbers = ("REQUESTS", "ERRORS", "CANCELLED", "ESTIMATED", "PROMPT", "CACHED", "COMPLETION", "REASONING")
    seconds = ("QUEUE S", "RUN S", "SLOT S")
    columns = [*(Column(name.upper()) for name in by), *(Column(one, is_number=True) for one in (*numbers, *seconds))]
    cells = [
        [*(part or "-" for part in name), *map(str, counts[:8]), *(f"{ms / 1000:.1f}" for ms in counts[10:])]
        for name, counts in rows.items()
    ]
    print(table(columns, cells, terminal_width()))
    if uncounted:
        print(f"\n{uncounted} ends could not be counted, as Redis refused.")
