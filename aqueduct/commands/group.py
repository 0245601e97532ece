"""`aqueduct group list|show|create|set|delete`: groups of tokens, shown, made and changed while the gateway runs."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from aqueduct.commands.limit_options import limit_options
from aqueduct.commands.token_desk import NO_LIMIT, Desk, action, told_by_option
from aqueduct.errors import CommandError
from aqueduct.operating import commander
from aqueduct.table import Column, table, terminal_width
from shared.config_problems import suggestion
from shared.control.problems import NoSuch
from shared.control.tokens import IsConfigured, UnknownName
from shared.groups import MIRROR_NAME, GroupInUse, GroupNameTaken, StoredGroup
from shared.lanes import LANES
from shared.logging import escaped
from shared.token_settings import GroupSettings
from shared.tokens import read_mirror

_COLUMNS = (
    *map(Column, ("NAME", "MODELS", "LANE")),
    *(Column(heading, is_number=True) for heading in ("WEIGHT", "REQ/MIN", "JOBS", "TOKENS")),
    Column("CREATED"),
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("group", help=__doc__)
def command() -> None:
    """Hold the actions."""


@command.command("list", short_help="show the groups, those of the file too")
@_JSON
@action
def list_groups(desk: Desk, as_json: bool) -> None:
    """Show the groups, those of the file too."""
    _show(desk, desk.all_groups(), as_json=as_json)
    read_mirror(desk.settings.data_dir / MIRROR_NAME, "group")  # a process that starts would stumble over it


@command.command("show", short_help="show one group and its tokens")
@click.argument("name")
@_JSON
@action
def show(desk: Desk, name: str, as_json: bool) -> None:
    """Show one group, with the names of its tokens."""
    group = desk.find_group(name)
    if group is None:
        raise CommandError(_no_group(desk, name))
    if as_json:
        print(json.dumps(_as_json(group, _members(desk)), indent=1))
        return
    told = {name: value for name, value in group.model_dump(mode="json").items() if value is not None}
    told |= {"tokens": _members(desk)[name] or ["none"]}
    for key, value in told.items():
        print(escaped(f"{key:24} {', '.join(value) if isinstance(value, list) else value}"))


@command.command("create", short_help="make a group")
@click.argument("name")
@click.option("--models", default="*", metavar="A,B", help="Models or aliases its tokens may use (default: all).")
@click.option("--lane", type=click.Choice(LANES), default="priority", show_default=True, help="Their highest lane.")
@click.option("--weight", type=float, default=1, show_default=True, help="Its share inside a lane.")
@limit_options(type=int)
@_JSON
@action
def create(desk: Desk, name: str, models: str, as_json: bool, **given: Any) -> None:
    """Make a group; tokens are put into it by `aqueduct token create --group` and `token set --group`."""
    with _told():
        record = desk.groups.create({"name": name, "models": _named(models), **given}, commander())
    _show(desk, [record], as_json=as_json)


@command.command("set", short_help="change a group; takes effect within 5 seconds")
@click.argument("name")
@click.option("--models", metavar="A,B", help="Models or aliases its tokens may use; * for all.")
@click.option("--lane", type=click.Choice(LANES), help="Their highest lane.")
@click.option("--weight", type=float, help="Its share inside a lane.")
@limit_options("Or none.")
@_JSON
@action
def set_group(desk: Desk, name: str, models: str | None, as_json: bool, **given: Any) -> None:
    """Change what a group may do; what is not named stays as it is."""
    changes = {field: None if value == NO_LIMIT else value for field, value in given.items() if value is not None}
    if models is not None:
        changes["models"] = _named(models)
    if not changes:
        raise click.UsageError("name what to change, such as --weight 2")
    with _told():
        record = desk.groups.change(name, changes, commander())
    _show(desk, [record], as_json=as_json)


@command.command("delete", short_help="remove a group that no token is in")
@click.argument("name")
@_JSON
@action
def delete(desk: Desk, name: str, as_json: bool) -> None:
    """Remove a group that no token is in."""
    with _told():
        desk.groups.delete(name, commander())
    if as_json:
        print(json.dumps({"name": name, "deleted": True}))
    else:
        print(f"Deleted the group {escaped(name)}.", file=sys.stderr)


@contextmanager
def _told() -> Iterator[None]:
    """Tell of what went wrong as a command does."""
    try:
        with told_by_option():
            yield
    except UnknownName as error:
        raise click.UsageError(f"--{error.field}: {error.text}") from None
    except (GroupNameTaken, GroupInUse, IsConfigured, NoSuch) as error:
        raise CommandError(str(error)) from None


def _named(models: str) -> list[str]:
    return [model.strip() for model in models.split(",") if model.strip()]


def _no_group(desk: Desk, name: str) -> str:
    return f"no group is called {name!r}{suggestion(name, [group.name for group in desk.all_groups()])}"


def _members(desk: Desk) -> dict[str, list[str]]:
    """Return the names of each group's tokens."""
    members = defaultdict[str, list[str]](list)
    for token in (*desk.settings.tokens, *desk.store.list()):
        if token.group is not None:
            members[token.group].append(token.name)
    return members


def _show(desk: Desk, groups: list[GroupSettings] | list[StoredGroup], *, as_json: bool) -> None:
    members = _members(desk)
    if as_json:
        print(json.dumps([_as_json(group, members) for group in groups], indent=1))
    else:
        print(table(_COLUMNS, [_cells(group, members) for group in groups], terminal_width()))


def _as_json(group: GroupSettings, members: dict[str, list[str]]) -> dict[str, Any]:
    told = {"static": not isinstance(group, StoredGroup), "tokens": members[group.name]}
    return group.model_dump(mode="json") | told


def _cells(group: GroupSettings, members: dict[str, list[str]]) -> tuple[str, ...]:
    limits = (str(limit or "-") for limit in (group.requests_per_minute, group.concurrent_jobs))
    created = "in the file"
    if isinstance(group, StoredGroup):
        by = f" by {group.created_by}" if group.created_by else ""
        created = f"{group.created_at:%Y-%m-%d}{by}"
    return (
        group.name, ",".join(group.models), group.lane, f"{group.weight:g}", *limits, str(len(members[group.name])),
        created,
    )  # fmt: skip
