"""`aqueduct batch submit|list|show|cancel|retry|results`: batches of a gateway, from a shell."""

from __future__ import annotations

import functools
import json
import sys
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqueduct.errors import FAILED
from aqueduct.table import Column, table, terminal_width

if TYPE_CHECKING:
    from aqueduct.batches.gateway import Gateway, Json

DEFAULT_URL = "http://127.0.0.1:8000"
_COLUMNS = (
    Column("BATCH"), Column("STATUS"), Column("MODEL"), Column("TOTAL", is_number=True),
    Column("DONE", is_number=True), Column("FAILED", is_number=True), Column("CREATED"), Column("WINDOW"),
)  # fmt: skip


def _action(act: Callable[..., int | None]) -> Callable[..., int]:
    """Give an action the gateway in place of `--url`."""

    @click.option(
        "--url", envvar="AQUEDUCT_URL", show_envvar=True, default=DEFAULT_URL, show_default=True, metavar="URL",
        help="The gateway.",
    )  # fmt: skip
    @functools.wraps(act)
    def command(url: str, **options: Any) -> int:
        from aqueduct.batches.gateway import Gateway, token_here  # noqa: PLC0415 - keeps `--help` fast

        gateway = Gateway(url, token_here())
        try:
            return act(gateway, **options) or 0
        finally:
            gateway.close()

    return command


_wait = click.option("--wait", is_flag=True, help="Watch until it has ended; Ctrl-C leaves it running.")
_out = click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Keep the results there; what it holds already is not fetched again.",
)  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help="Print OpenAI's object.")


@click.group("batch", help=f"{__doc__} The token is AQUEDUCT_TOKEN, or that of the `aqueduct up` of this folder.")
def command() -> None:
    """Hold the actions."""


@command.command("submit", short_help="send a file of requests")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", metavar="M", help="Have every line ask for this model.")
@click.option("--endpoint", metavar="PATH", help="As /v1/chat/completions (default: the first line's `url`).")
@click.option("--window", default="24h", show_default=True, help="Within which time: a number with m, h or d.")
@_wait
@_out
@_json
@_action
def submit(
    gateway: Gateway,
    file: Path,
    model: str | None,
    endpoint: str | None,
    window: str,
    wait: bool,
    out: Path | None,
    as_json: bool,
) -> int:
    """Send FILE, JSON lines as OpenAI's batches have them, and print the batch's id."""
    from aqueduct.batches.input import endpoint_of, with_model  # noqa: PLC0415 - keeps `--help` fast

    path = endpoint or endpoint_of(file)
    with with_model(file, model) as sent:
        uploaded = gateway.upload(sent, file.name)
    batch = gateway.create(uploaded["id"], path, window, uuid.uuid4().hex)
    print(json.dumps(batch) if as_json else batch["id"], flush=True)
    return _follow(gateway, batch, out) if wait or out is not None else 0


@command.command("list", short_help="show the newest batches")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print OpenAI's objects, one a line.")
@_action
def list_batches(gateway: Gateway, limit: int, as_json: bool) -> None:
    """Show the newest batches of the token."""
    found = gateway.page(limit)
    if as_json:
        for batch in found:
            print(json.dumps(batch))
        return
    print(table(_COLUMNS, [_cells(batch) for batch in found], terminal_width()))


@command.command("show", short_help="show one batch")
@click.argument("batch_id", metavar="BATCH")
@_json
@_action
def show(gateway: Gateway, batch_id: str, as_json: bool) -> None:
    """Show how far a batch is, when it should be finished, and what is wrong with its file."""
    batch, finish_at = gateway.show(batch_id)
    if as_json:
        print(json.dumps(batch))
        return
    told = {name: value for name, value in batch.items() if value is not None and name not in ("object", "errors")}
    for name, value in told.items():
        is_time = name.endswith("_at")
        print(f"{name:18} {_time(value) if is_time else _flat(value)}")
    if finish_at is not None:
        print(f"{'estimated_finish':18} {_time(finish_at)}")
    _print_faults(batch, sys.stdout)


@command.command("cancel", short_help="cancel a batch")
@click.argument("batch_id", metavar="BATCH")
@_json
@_action
def cancel(gateway: Gateway, batch_id: str, as_json: bool) -> None:
    """Cancel a batch; the results that are there are kept."""
    batch = gateway.cancel(batch_id)
    if as_json:
        print(json.dumps(batch))
    else:
        print(f"{batch_id} is {batch['status']}", file=sys.stderr)


@command.command("retry", short_help="run again what did not succeed")
@click.argument("batch_id", metavar="BATCH")
@_wait
@_out
@_json
@_action
def retry(gateway: Gateway, batch_id: str, wait: bool, out: Path | None, as_json: bool) -> int:
    """Make a new batch of the failed, expired and cancelled lines, and print its id."""
    batch = gateway.retry(batch_id)
    print(json.dumps(batch) if as_json else batch["id"], flush=True)
    return _follow(gateway, batch, out) if wait or out is not None else 0


@command.command("results", short_help="print or keep the results")
@click.argument("batch_id", metavar="BATCH")
@_wait
@_out
@_action
def results(gateway: Gateway, batch_id: str, wait: bool, out: Path | None) -> int:
    """Print the results that are there, failed lines too, as JSON lines; while the batch runs too."""
    from aqueduct.batches.download import download  # noqa: PLC0415 - keeps `--help` fast

    if wait:
        return _follow(gateway, gateway.show(batch_id)[0], out, prints=True)
    _told(download(gateway, batch_id, out), out)
    return 0


def _follow(gateway: Gateway, batch: Json, out: Path | None, *, prints: bool = False) -> int:
    """Wait for the end and fetch the results; Ctrl-C leaves the batch running and says how to go on."""
    from aqueduct.batches.download import download  # noqa: PLC0415 - keeps `--help` fast
    from aqueduct.batches.watching import wait_for_end  # noqa: PLC0415

    try:
        batch = wait_for_end(gateway, batch)
        if out is not None or prints:
            _told(download(gateway, batch["id"], out), out)
    except KeyboardInterrupt:
        keep = f" --out {out}" if out is not None else ""
        print(f"\nThe batch runs on. Go on with: aqueduct batch results {batch['id']} --wait{keep}", file=sys.stderr)
        raise
    counts = batch["request_counts"]
    summary = f"{counts['completed']} completed, {counts['failed']} failed, of {counts['total']}"
    print(f"{batch['id']} is {batch['status']}: {summary}", file=sys.stderr)
    _print_faults(batch, sys.stderr)
    return 0 if batch["status"] == "completed" and not counts["failed"] else FAILED


def _told(lines: int, out: Path | None) -> None:
    if out is not None:
        print(f"{out} holds {lines} results", file=sys.stderr)


def _print_faults(batch: Json, out: Any) -> None:
    for fault in (batch["errors"] or {"data": []})["data"]:
        where = f"line {fault['line']}: " if fault["line"] is not None else ""
        print(f"error: {where}{fault['code']}: {fault['message']}", file=out)


def _time(stamp: int) -> str:
    return f"{datetime.fromtimestamp(stamp).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _flat(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _cells(batch: Json) -> tuple[str, ...]:
    counts = batch["request_counts"]
    return (
        batch["id"], batch["status"], batch["model"] or "", str(counts["total"]), str(counts["completed"]),
        str(counts["failed"]), _time(batch["created_at"])[:16], batch["completion_window"],
    )  # fmt: skip
