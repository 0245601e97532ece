"""What `aqueduct token` and `aqueduct group` work with: settings and stores; and what is told of wrong options."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from redis.exceptions import RedisError

from aqueduct.commands.common import config_file_here, config_option, data_dir_option
from aqueduct.commands.redis_choice import redis_url_here
from aqueduct.errors import CommandError
from shared.config import load_settings
from shared.config_problems import reason
from shared.control.groups import GroupDesk
from shared.control.tokens import TokenDesk
from shared.redis_sync import connect
from shared.settings import Settings
from shared.token_settings import GroupSettings
from shared.tokens import TokenStore

_UNNAMED_MODELS = {"models": {"any": {"backends": [{"url": "http://127.0.0.1"}]}}}
"""Stands in where there is no file: a token needs Redis and the data folder only."""
NO_LIMIT = "none"
"""Takes a limit, or an end, away."""


@dataclass(frozen=True)
class Desk:
    """What an action works with."""

    settings: Settings
    knows_models: bool
    """Whether the settings come from a file, so that the models in them are the real ones."""
    tokens: TokenDesk
    groups: GroupDesk

    @property
    def store(self) -> TokenStore:
        """The created tokens."""
        return self.tokens.store

    def find_group(self, name: str) -> GroupSettings | None:
        """Return the group of this name, of the file or created."""
        return next((group for group in self.all_groups() if group.name == name), None)

    def all_groups(self) -> list[GroupSettings]:
        """Return every group; where a created one is called as one of the file, that of the file alone counts."""
        configured = {group.name for group in self.settings.groups}
        return [*self.settings.groups, *(group for group in self.groups.store.list() if group.name not in configured)]


@contextmanager
def open_desk(config: Path | None) -> Iterator[Desk]:
    """Open the stores of the Redis that the configuration names."""
    path = config_file_here(config)
    settings = load_settings(
        path,
        resolve_backend_keys=False,
        resolve_flower_password=False,
        resolve_webhook_secrets=False,
        base=_UNNAMED_MODELS,
    )
    try:
        with connect(redis_url_here(settings)) as client:
            tokens = TokenDesk(client, settings, knows_models=path is not None)
            groups = GroupDesk(client, settings, knows_models=path is not None)
            yield Desk(settings, path is not None, tokens, groups)
    except RedisError as error:
        raise CommandError(f"Redis cannot be used ({type(error).__name__}); see `aqueduct check`") from None


def action(act: Callable[..., None]) -> Callable[..., int]:
    """Give an action its desk in place of `--config`."""

    @config_option
    @data_dir_option
    @functools.wraps(act)
    def command(config: Path | None, **options: Any) -> int:
        with open_desk(config) as desk:
            act(desk, **options)
        return 0

    return command


@contextmanager
def told_by_option() -> Iterator[None]:
    """Tell of a value that no token can have by the option that it came from."""
    try:
        yield
    except ValidationError as error:
        lines = []
        for found in error.errors(include_url=False):
            field = str(found["loc"][0])
            option = "NAME" if field == "name" else f"--{field.replace('_', '-')}"
            lines.append(f"{option}: {reason(dict(found), (field,), show=True)}")
        raise click.UsageError("\n".join(lines)) from None
