"""`aqueduct token create|list|set|debug|revoke`: bearer tokens made, changed and withdrawn while the gateway runs."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from aqueduct.commands.limit_options import limit_options
from aqueduct.commands.token_desk import (
    NO_LIMIT,
    Desk,
    action,
    told_by_option,
)
from aqueduct.errors import CommandError
from aqueduct.operating import commander
from aqueduct.table import Column, table, terminal_width
from shared.control.problems import NoSuch
from shared.control.tokens import IsConfigured, UnknownName
from shared.control.tokens import as_json as as_json_of
from shared.debugging import DEFAULT_BYTES, LEAST_BYTES, MOST_BYTES, MOST_SECONDS
from shared.lanes import LANES
from shared.logging import escaped
from shared.roles import ROLES
from shared.spans import span_seconds
from shared.token_settings import TokenSettings
from shared.tokens import MIRROR_NAME, StoredToken, TokenNameTaken, read_mirror

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COLUMNS = (
    *map(Column, ("NAME", "GROUP", "MODELS", "LANE")),
    *(Column(heading, is_number=True) for heading in ("WEIGHT", "REQ/MIN", "TOK/MIN", "JOBS")),
    *map(Column, ("ROLE", "EXPIRES", "LAST USED", "CREATED")),
)
_MINUTES = "%Y-%m-%d %H:%M %Z"


@click.group("token", help=__doc__)
def command() -> None:
    """Hold the actions."""


@command.command("create", short_help="make a token and print it, once")
@click.argument("name")
@click.option("--models", default="*", metavar="A,B", help="Models or aliases it may use (default: all).")
@click.option(
    "--lane", type=click.Choice(LANES), default="default", show_default=True, help="The lane of its requests."
)
@click.option("--weight", type=float, default=1, show_default=True, help="Its share inside the lane.")
@click.option("--group", metavar="NAME", help="The group it belongs to.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="user",
    show_default=True,
    help="A viewer reads under /admin/v1, an operator changes what runs.",
)
@click.option("--expires", metavar="WHEN", help="A span such as 12h, 30d or 8w, or a date such as 2027-01-31.")
@limit_options(type=int)
@click.option("--max-open-batches", type=int, metavar="N", help="Batches that have not ended; past it: 429.")
@click.option("--max-enqueued-batch-tokens", type=int, metavar="N", help="Prompt tokens of its batches that wait.")
@click.option("--max-stored-bytes", type=int, metavar="N", help="Of its files; past it: 413.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with the token as `token`.")
@action
def create(desk: Desk, name: str, models: str, expires: str | None, *, as_json: bool, **limits: Any) -> None:
    """Make a token and print it, once.

    NAME tells whose token it is: letters, digits and . _ @ -
    """
    wanted = [model.strip() for model in models.split(",") if model.strip()]
    expires_at = _expiry(expires, datetime.now(UTC)) if expires else None
    with _told():
        token, record = desk.tokens.create(
            {"name": name, "models": wanted, "expires_at": expires_at, **limits}, commander()
        )
    print(json.dumps({"token": token} | as_json_of(record, {}), indent=1) if as_json else token)
    until = f" until {record.expires_at:%Y-%m-%d %H:%M %Z}" if record.expires_at else ""
    print(f"Token of {record.name}, valid{until}. It is shown only now: keep it.", file=sys.stderr)


@command.command("set", short_help="change what a token may do; takes effect within 5 seconds")
@click.argument("name")
@click.option("--models", metavar="A,B", help="Models or aliases it may use; * for all.")
@click.option("--lane", type=click.Choice(LANES), help="The lane of its requests.")
@click.option("--weight", type=float, help="Its share inside the lane.")
@click.option("--group", metavar="NAME", help="The group it belongs to. Or none.")
@click.option("--role", type=click.Choice(ROLES), help="What it may do under /admin/v1.")
@click.option("--expires", metavar="WHEN", help="A span such as 30d, a date such as 2027-01-31, or none.")
@limit_options("Or none.")
@click.option("--max-open-batches", metavar="N", help="Batches that have not ended; past it: 429. Or none.")
@click.option("--max-enqueued-batch-tokens", metavar="N", help="Prompt tokens of its batches that wait. Or none.")
@click.option("--max-stored-bytes", metavar="N", help="Of its files; past it: 413. Or none.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with all its limits.")
@action
def set_token(desk: Desk, name: str, models: str | None, expires: str | None, *, as_json: bool, **given: Any) -> None:
    """Change what a token may do; what is not named stays as it is, and the token itself too."""
    changes: dict[str, Any] = {
        field: None if value == NO_LIMIT else value for field, value in given.items() if value is not None
    }
    if models is not None:
        changes["models"] = [model.strip() for model in models.split(",") if model.strip()]
    if expires is not None:
        changes["expires_at"] = None if expires == NO_LIMIT else _expiry(expires, datetime.now(UTC))
    if not changes:
        raise click.UsageError("name what to change, such as --requests-per-minute 60")
    with _told():
        record = desk.tokens.change(name, changes, commander())
    uses = desk.store.last_uses()
    if as_json:
        print(json.dumps(as_json_of(record, uses), indent=1))
        return
    print(table(_COLUMNS, [_cells(record, uses)], terminal_width()))


@command.command("list", short_help="show the tokens, static ones too")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@action
def list_tokens(desk: Desk, as_json: bool) -> None:
    """Show the tokens, static ones too."""
    records = [*desk.settings.tokens, *desk.store.list()]
    uses = desk.store.last_uses()
    if as_json:
        print(json.dumps([as_json_of(record, uses) for record in records], indent=1))
    else:
        print(table(_COLUMNS, [_cells(record, uses) for record in records], terminal_width()))
    read_mirror(desk.settings.data_dir / MIRROR_NAME)  # a process that starts would stumble over it


@command.command("revoke", short_help="withdraw a token; takes effect within 5 seconds")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@action
def revoke(desk: Desk, name: str, as_json: bool) -> None:
    """Withdraw a token; takes effect within 5 seconds."""
    with _told():
        desk.tokens.revoke(name, commander())
    if as_json:
        print(json.dumps({"name": name, "revoked": True}))
    else:
        print(f"Revoked {escaped(name)}; every API process refuses it within 5 seconds.", file=sys.stderr)


@command.command("debug", short_help="log a token's prompts and answers for a while")
@click.argument("name")
@click.option(
    "--for", "span", default="10m", show_default=True, metavar="SPAN", help="As 30s, 10m or 2h; a day at most."
)
@click.option(
    "--max-bytes", type=click.IntRange(LEAST_BYTES, MOST_BYTES), default=DEFAULT_BYTES, show_default=True, metavar="N",
    help="Of one prompt or answer in a line.",
)  # fmt: skip
@click.option("--off", is_flag=True, help="No more, from now on.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@action
def debug(desk: Desk, name: str, span: str, max_bytes: int, *, off: bool, as_json: bool) -> None:
    """Have the prompts and answers of one token written to the log of the API processes, and end by itself.

    Takes effect within 5 seconds. It stands in the audit log, and `aqueduct queues` shows it.
    """
    with _told():
        made = desk.tokens.debug(name, 0 if off else _seconds(span), max_bytes, commander())
    if as_json:
        print(json.dumps(made.as_json() if made is not None else {"token": name, "ended": True}))
    elif made is None:
        print(f"Prompts and answers of {escaped(name)} are logged no more, within 5 seconds.", file=sys.stderr)
    else:
        until = datetime.fromtimestamp(made.until_ms / 1000, UTC)
        print(f"Prompts and answers of {escaped(name)} are logged until {until:%H:%M:%S %Z}.", file=sys.stderr)


def _seconds(span: str) -> int:
    seconds = span_seconds(span) or 0
    if not 0 < seconds <= MOST_SECONDS:
        raise click.UsageError(f"--for: {span!r} is no span such as 30s, 10m or 2h, of a day at most")
    return math.ceil(seconds)


@contextmanager
def _told() -> Iterator[None]:
    """Tell of what cannot be done as this command does."""
    with told_by_option():
        try:
            yield
        except UnknownName as error:
            raise click.UsageError(f"--{error.field}: {error.text}") from None
        except (TokenNameTaken, IsConfigured, NoSuch) as error:
            raise CommandError(str(error)) from None


def _expiry(text: str, now: datetime) -> datetime:
    """Return when a token ends; a date without a zone is meant in UTC."""
    try:
        if span := re.fullmatch(r"(\d{1,5})([mhdw])", text):
            when = now + timedelta(**{_UNITS[span[2]]: int(span[1])})
        else:
            when = datetime.fromisoformat(text)
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"--expires: {text!r} is neither a span such as 30d nor a date such as 2027-01-31"
        ) from None
    if when <= now:
        raise click.UsageError(f"--expires: {text!r} is already past")
    return when


def _cells(record: TokenSettings, uses: Mapping[str, datetime]) -> tuple[str, ...]:
    expires = f"{record.expires_at:{_MINUTES}}" if record.expires_at else "never"
    if record.expires_at and record.expires_at <= datetime.now(UTC):
        expires += " (past)"
    used = uses.get(record.sha256)
    limits = (
        str(limit or "-") for limit in (record.requests_per_minute, record.tokens_per_minute, record.concurrent_jobs)
    )
    return (
        record.name, record.group or "-", ",".join(record.models), record.lane, f"{record.weight:g}", *limits,
        "-" if record.role == "user" else record.role, expires,
        f"{used:{_MINUTES}}" if used is not None else "-", _made(record),
    )  # fmt: skip


def _made(record: TokenSettings) -> str:
    if not isinstance(record, StoredToken):
        return "in the file"
    by = f" by {record.created_by}" if record.created_by else ""
    return f"{record.created_at:%Y-%m-%d}{by}"
