"""`aqueduct model pause|resume|drain|retire|list`: hold a model or one of its backends, and let it go again.

Requests that were accepted are never lost: what runs ends, and what waits waits on, at most for its longest wait.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqueduct.commands.common import config_option, data_dir_option
from aqueduct.errors import FAILED
from aqueduct.operating import commander, operate
from aqueduct.table import Column, table, terminal_width

if TYPE_CHECKING:
    from shared.catalogue import Catalogue
    from shared.control.models import Held
    from shared.redis import RedisClient

LOOK_SECONDS = 0.25
_COLUMNS = (
    *map(Column, ("MODEL", "STATE")),
    *(Column(heading, is_number=True) for heading in ("WAITING", "RUNNING", "WORKERS")),
    Column("BACKENDS HELD"),
)
_TOLD = {
    "paused": "It accepts requests and holds them.",
    "draining": "What runs ends; the rest is held.",
    "retired": "What runs ends, what waits is held, and new requests are refused with 503 model_retired.",
    "active": "It takes what waits.",
    "held": "It is called no more; what runs on it ends.",
}


@click.group("model", help=__doc__)
def command() -> None:
    """Hold the actions."""


def _options(act: Callable[..., int]) -> Callable[..., int]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print a JSON object."),
        data_dir_option,
        config_option,
    ):
        act = option(act)
    return act


def _set(config: Path | None, model: str, action: Any, backend: str | None, as_json: bool, wait: float = 0) -> int:
    from shared.control.models import ModelControl  # noqa: PLC0415 - keeps `--help` fast

    async def act(client: RedisClient, catalogue: Catalogue) -> Held:
        control = ModelControl(client, catalogue)
        if backend is not None:
            return await control.set_backend(model, backend, action, commander())
        held = await control.set_model(model, action, commander())
        until = time.monotonic() + wait
        while held.running and time.monotonic() < until:
            await asyncio.sleep(LOOK_SECONDS)
            running = await _running(client, catalogue, held.model)
            held = type(held)(**{**asdict(held), "running": running})
        return held

    held = operate(config, act)
    if as_json:
        print(json.dumps(asdict(held)))
    else:
        what = held.model if held.backend is None else f"backend {held.backend} of {held.model}"
        was = f" (it was {held.before})" if held.before != held.now else " already"
        print(f"{what} is {held.now}{was}. {_TOLD[held.now]} Running: {held.running}, waiting: {held.waiting}.")
    return FAILED if wait and held.running else 0


async def _running(client: RedisClient, catalogue: Catalogue, name: str) -> int:
    from shared.room.upkeep import Upkeep  # noqa: PLC0415 - as above

    return (await Upkeep(client, catalogue, "model").depth())[name].running


@command.command("pause", short_help="accept requests and hold them")
@click.argument("model")
@click.option("--backend", metavar="B", help="Only this backend: its place from 0 on, or its host and port.")
@_options
def pause(config: Path | None, model: str, backend: str | None, as_json: bool) -> int:
    """Hold a model: it accepts requests and starts none. With --backend that one is called no more."""
    return _set(config, model, "pause", backend, as_json)


@command.command("resume", short_help="let it go again")
@click.argument("model")
@click.option("--backend", metavar="B", help="Only this backend.")
@_options
def resume(config: Path | None, model: str, backend: str | None, as_json: bool) -> int:
    """Let a model or a backend go again, whatever held it."""
    return _set(config, model, "resume", backend, as_json)


@command.command("drain", short_help="as pause; --wait until nothing runs")
@click.argument("model")
@click.option("--backend", metavar="B", help="Only this backend.")
@click.option(
    "--wait", type=click.FloatRange(0), default=0, metavar="SECONDS",
    help="Until nothing of the model runs, so long at most; past it: exit status 1.",
)  # fmt: skip
@_options
def drain(config: Path | None, model: str, backend: str | None, wait: float, as_json: bool) -> int:
    """Let what runs end, and hold the rest: before a backend is changed."""
    return _set(config, model, "drain", backend, as_json, wait)


@command.command("retire", short_help="as drain, and refuse new requests")
@click.argument("model")
@_options
def retire(config: Path | None, model: str, as_json: bool) -> int:
    """Let what runs end, hold what waits, and refuse new requests with 503 `model_retired`."""
    return _set(config, model, "retire", None, as_json)


@command.command("list", short_help="show each model's state")
@_options
def list_models(config: Path | None, as_json: bool) -> int:
    """Show the state of each model and of its backends."""
    from shared.control.models import backends_of, shown_state  # noqa: PLC0415 - as above
    from shared.room.upkeep import Upkeep  # noqa: PLC0415

    async def act(client: RedisClient, catalogue: Catalogue) -> list[dict[str, Any]]:
        depth = await Upkeep(client, catalogue, "model").depth()
        return [
            {
                "model": name, "state": shown_state(found), "held": found.held or None,
                "waiting": sum(found.waiting.values()), "running": found.running, "live_workers": found.workers,
                "backends": backends_of(catalogue.settings.models[name], found),
            }
            for name, found in depth.items()
        ]  # fmt: skip

    rows = operate(config, act)
    if as_json:
        print(json.dumps(rows))
    else:
        print(table(_COLUMNS, [_cells(row) for row in rows], terminal_width()))
    return 0


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    held = [f"{one['place']} ({one['host']})" for one in row["backends"] if one["state"] == "held"]
    counts = (str(row[name]) for name in ("waiting", "running", "live_workers"))
    return (row["model"], row["state"], *counts, ", ".join(held) or "-")
