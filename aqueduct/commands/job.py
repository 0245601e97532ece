"""`aqueduct job list|show|cancel|move`: single requests, or all that match a filter. Never a prompt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqueduct.commands.common import config_option, data_dir_option
from aqueduct.errors import FAILED
from aqueduct.operating import commander, operate
from aqueduct.table import Column, table, terminal_width
from shared.lanes import LANES
from shared.spans import span_seconds

if TYPE_CHECKING:
    from shared.catalogue import Catalogue
    from shared.control.jobs import JobControl, JobFilter
    from shared.control.story import Story
    from shared.redis import RedisClient

MOST_LISTED = 1000
_COLUMNS = (
    *map(Column, ("REQUEST", "STATE", "MODEL", "LANE", "TOKEN", "KIND")),
    *(Column(heading, is_number=True) for heading in ("AGE", "RUNS FOR", "TRIES")),
)


class _Span(click.ParamType[float]):
    """A span such as 90s, 15m, 2h, 1d, in seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = span_seconds(str(value))
        return self.fail(f"{value!r} is no span such as 90s, 15m, 2h or 1d", param, ctx) if seconds is None else seconds


def _filters(act: Callable[..., int], more_states: tuple[str, ...] = ()) -> Callable[..., int]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        data_dir_option,
        config_option,
        click.option("--older-than", type=_Span(), metavar="SPAN", help="Accepted so long ago: 90s, 15m, 2h, 1d."),
        click.option("--state", type=click.Choice(("waiting", "held", "running", *more_states)), help="Only these."),
        click.option("--lane", type=click.Choice(LANES), help="Only of this lane."),
        click.option("--group", metavar="NAME", help="Only of this group's tokens."),
        click.option("--token", metavar="NAME", help="Only of this token."),
        click.option("--model", metavar="NAME", help="Only of this model."),
    ):
        act = option(act)
    return act


def _filter(options: dict[str, Any]) -> JobFilter:
    from shared.control.jobs import JobFilter  # noqa: PLC0415 - keeps `--help` fast

    names = ("model", "token", "group", "lane", "state")
    given = {name: options.pop(name) for name in names}
    return JobFilter(**given, older_than_seconds=options.pop("older_than"))


@click.group("job", help=__doc__)
def command() -> None:
    """Hold the actions."""


@command.command("list", short_help="show what waits and runs, or has ended lately")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="So many at most.")
@click.option("--after", default="", metavar="NEXT", help="Go on where a list has ended: `next` of its JSON.")
@click.option("--outcome", type=click.Choice(("succeeded", "refused", "failed")), help="Of --state ended: only these.")
@partial(_filters, more_states=("ended",))
def list_jobs(
    config: Path | None, limit: int, after: str, outcome: str | None, as_json: bool, **options: Any
) -> int:  # fmt: skip
    """Show the requests that run, and those that wait, whose longest wait ends first; or those that ended lately."""
    wanted = _filter(options)

    async def act(client: RedisClient, catalogue: Catalogue) -> tuple[list[Story], str | None]:
        from shared.control.listing import Listing  # noqa: PLC0415 - as above

        listing, found, more = Listing(client, catalogue), list["Story"](), after
        while True:
            page = await listing.page(wanted, more, limit - len(found), outcome)
            found += page.stories
            more = page.next or ""
            if not more or len(found) >= limit:
                return found, page.next

    rows, more = operate(config, act)
    if as_json:
        told = [story.as_json() for story in rows]
        print(json.dumps({"jobs": told, "has_more": more is not None, "next": more}))
        return 0
    nothing = "Nothing of the last hour matches." if wanted.state == "ended" else "Nothing waits or runs."
    print(table(_COLUMNS, [_cells(story) for story in rows], terminal_width()) if rows else nothing)
    if more is not None:
        print(f"There may be more than {limit}; name a filter, or --limit.")
    return 0


def _cells(story: Story) -> tuple[str, ...]:
    told, now, job = story.as_json(), time.time(), story.job
    until = job.ended / 1000 or now
    runs = f"{max(0, until - job.taken / 1000):.0f} s" if job.taken else "-"
    age = f"{max(0, now - job.admitted / 1000):.0f} s"
    outcome, state = told["outcome"], job.state
    if outcome is not None:
        state = f"{outcome['status']} {outcome['code'] or ''}".strip()
    elif told["held"]:
        state = f"{state}: {told['held']}"
    return (told["id"], state, job.model, job.lane, job.token, job.kind or "-", age, runs, str(job.tries))


@command.command("show", short_help="show what became of one request")
@click.argument("request_id")
@config_option
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(config: Path | None, request_id: str, as_json: bool) -> int:
    """Show a request by its id or its answer's: its times, its runs, and how it ended; for an hour after that."""

    async def act(client: RedisClient, catalogue: Catalogue) -> Story:
        from shared.control.story import Stories  # noqa: PLC0415 - as above

        return await Stories(client, catalogue).show(request_id)

    told = operate(config, act).as_json()
    if as_json:
        print(json.dumps(told))
        return 0
    times, outcome, runs = told.pop("timeline"), told.pop("outcome"), told.pop("runs")
    for name, value in told.items():
        _say(name, value)
    for name, at in times.items():
        _say(name, None if at is None else _moment(at))
    for name, value in (outcome or {}).items():
        if value is not None:
            _say(name, value)
    for run in runs:
        _say_run(run)
    return 0


def _say(name: str, value: Any) -> None:
    print(f"{name.replace('_', ' '):20}{'-' if value is None else value}")


def _moment(at: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(at))}.{int(at * 1000) % 1000:03} UTC"


def _say_run(run: dict[str, Any]) -> None:
    end = f"stopped: {run['stopped']}" if run["stopped"] else f"{run['status']} {run['code'] or ''}".strip()
    print(f"run {run['attempt']}: {_moment(run['began'])}, {run['seconds']} s, {end}, by {run['worker']}")
    for call in run["calls"]:
        what = f"{call['status']} {call['code'] or ''}".strip()
        print(f"  {call['backend'] or 'a backend that is gone'}: {_moment(call['began'])}, {call['seconds']} s, {what}")


@command.command("cancel", short_help="end requests; their callers are told")
@click.argument("request_ids", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Only count what would be ended.")
@click.option("--all", "everything", is_flag=True, help="Whatever waits or runs, if no filter is named.")
@_filters
def cancel(
    config: Path | None, request_ids: tuple[str, ...], dry_run: bool, everything: bool, as_json: bool, **options: Any
) -> int:
    """End requests by id, or all that match; callers get 410 `cancelled_by_operator`."""
    wanted = _filter(options)
    _check(request_ids, wanted, everything)

    async def act(client: RedisClient, catalogue: Catalogue) -> list[tuple[str, str]]:
        control = _control(client, catalogue)
        ids, target = await _meant(control, request_ids, wanted)
        return _counted_only(ids) if dry_run else await control.cancel(ids, commander(), target)

    return _tell(operate(config, act), as_json, dry_run, needs_one=bool(request_ids))


@command.command("move", short_help="have waiting requests wait in another lane")
@click.argument("request_ids", nargs=-1)
@click.option("--to", "to_lane", type=click.Choice(LANES), required=True, help="The lane to wait in.")
@click.option("--dry-run", is_flag=True, help="Only count what would be moved.")
@click.option("--all", "everything", is_flag=True, help="Whatever waits, if no filter is named.")
@_filters
def move(
    config: Path | None, request_ids: tuple[str, ...], to_lane: str, dry_run: bool, everything: bool, as_json: bool,
    **options: Any,
) -> int:  # fmt: skip
    """Have requests that wait, by id or all that match, wait in another lane."""
    wanted = _filter({**options, "state": options["state"] or (None if request_ids else "waiting")})
    _check(request_ids, wanted, everything)

    async def act(client: RedisClient, catalogue: Catalogue) -> list[tuple[str, str]]:
        control = _control(client, catalogue)
        ids, target = await _meant(control, request_ids, wanted)
        return _counted_only(ids) if dry_run else await control.move(ids, to_lane, commander(), target)

    return _tell(operate(config, act), as_json, dry_run, needs_one=bool(request_ids))


def _control(client: RedisClient, catalogue: Catalogue) -> JobControl:
    from shared.control.jobs import JobControl  # noqa: PLC0415 - as above

    return JobControl(client, catalogue)


def _check(request_ids: Sequence[str], wanted: JobFilter, everything: bool) -> None:
    is_all = wanted.text() in ("all", "state=waiting")
    if request_ids and not wanted.is_empty():
        raise click.UsageError("name requests or a filter, not both")
    if not request_ids and is_all and not everything:
        raise click.UsageError("name requests or a filter such as --model; --all means whatever there is")


async def _meant(control: JobControl, request_ids: Sequence[str], wanted: JobFilter) -> tuple[list[str], str]:
    """Return the ids that are meant, and how the audit log calls them."""
    from shared.control.jobs import job_id_of  # noqa: PLC0415 - as above

    if request_ids:
        ids = [job_id_of(one) for one in request_ids]
        return ids, ids[0] if len(ids) == 1 else f"{len(ids)} by id"
    return [job.id async for job in control.matching(wanted)], wanted.text()


def _counted_only(ids: Sequence[str]) -> list[tuple[str, str]]:
    return [(one, "would be") for one in ids]


def _tell(done: list[tuple[str, str]], as_json: bool, dry_run: bool, *, needs_one: bool) -> int:
    from shared.control.jobs import counted  # noqa: PLC0415 - as above
    from shared.jobs import request_id  # noqa: PLC0415

    counts = counted(done)
    if as_json:
        rows = [{"id": request_id(job_id), "outcome": what} for job_id, what in done[:MOST_LISTED]]
        print(json.dumps({"dry_run": dry_run, "matched": len(done), "outcomes": counts, "jobs": rows}))
    elif dry_run:
        print(f"{len(done)} match; nothing was done.")
    else:
        print(", ".join(f"{number} {what}" for what, number in counts.items()) or "Nothing matches.")
    return FAILED if needs_one and counts.get("unknown") == len(done) else 0
