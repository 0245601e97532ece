"""What the subcommands share: the common options, and the settings and logging that follow from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aqueduct.errors import WRONG_USAGE, CommandError
from aqueduct.own_log import take

if TYPE_CHECKING:
    from shared.catalogue import Catalogue

Command = TypeVar("Command", bound=Callable[..., Any])
Overrides = dict[str, str]
"""Settings given as options, under the names of their environment variables; made by `setting_option`."""

GENERATED_CONFIG = "up.yaml"
"""What `aqueduct up` without a file writes into the data folder and runs from."""
UP_FILES = "files"
"""Where `aqueduct up` keeps files in the data folder, where no store is set."""


class _Option(click.Option):
    """An option whose variable `--help` names; it is read where all settings are, with the same checks."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return None


def config_option(command: Command) -> Command:
    """Add `--config`."""
    return click.option(
        "--config", cls=_Option, type=click.Path(path_type=Path), metavar="FILE",
        envvar="AQUEDUCT_CONFIG", show_envvar=True, help="Configuration file.",
    )(command)  # fmt: skip


def data_dir_option(command: Command) -> Command:
    """Add `--data-dir`, for commands that look for a running `aqueduct up` by its folder."""

    def remember(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            os.environ["AQUEDUCT_DATA_DIR"] = value  # which is where all of them look

    return click.option(
        "--data-dir", cls=_Option, type=click.Path(), metavar="FOLDER", envvar="AQUEDUCT_DATA_DIR", show_envvar=True,
        expose_value=False, callback=remember, help="That of the running `aqueduct up`.",
    )(command)  # fmt: skip


def setting_option(name: str, variable: str, **options: Any) -> Callable[[Command], Command]:
    """Add an option that goes over a setting of the file and over its variable; it is handed on in `Overrides`."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value is not None:
            ctx.ensure_object(dict)[variable] = str(value)

    return click.option(
        name, cls=_Option, envvar=variable, show_envvar=True, expose_value=False, callback=remember, **options
    )


def logging_options(command: Command) -> Command:
    """Add `--log-format` and `--log-level`."""
    levels = click.Choice(("debug", "info", "warning", "error"))
    command = setting_option("--log-level", "AQUEDUCT_LOG_LEVEL", type=levels, help="Leave records below it out.")(
        command
    )
    formats = click.Choice(("text", "json"))
    return setting_option("--log-format", "AQUEDUCT_LOG_FORMAT", type=formats, help="For people or programs.")(command)


def address_options(section: str) -> Callable[[Command], Command]:
    """Add `--host` and `--port` of the section `api` or `flower`."""
    prefix = f"AQUEDUCT_{section.upper()}__"

    def add(command: Command) -> Command:
        port = click.IntRange(0, 65535)
        command = setting_option("--port", f"{prefix}PORT", type=port, metavar="N", help="Port to listen on.")(command)
        return setting_option("--host", f"{prefix}HOST", metavar="ADDRESS", help="Address to listen on.")(command)

    return add


def catalogue_for(
    config: Path | None,
    overrides: Mapping[str, str],
    *,
    resolve_backend_keys: bool | Collection[str],
    resolve_flower_password: bool = False,
    resolve_webhook_secrets: bool = False,
) -> Catalogue:
    """Return the configuration of a process that serves, and set its logging up: that of a child of `up` as it says.

    Raises:
        ConfigError: with every problem of the file and the environment.
        CommandError: no Redis is named: only `aqueduct up` starts one.
    """
    from shared.catalogue import Catalogue, Source  # noqa: PLC0415 - see the package's docstring
    from shared.logging import configure_logging  # noqa: PLC0415

    take(os.environ)
    source = Source(
        config,
        {**os.environ, **overrides},
        resolve_backend_keys,
        resolve_flower_password=resolve_flower_password,
        resolve_webhook_secrets=resolve_webhook_secrets,
    )
    catalogue = Catalogue.of(source)
    settings = catalogue.settings
    configure_logging(settings.log_format, settings.log_level)
    if settings.redis_url is None:
        raise CommandError(
            "redis_url is not set: give it in the configuration file or as AQUEDUCT_REDIS_URL. "
            "Only `aqueduct up` starts a Redis of its own.",
            status=WRONG_USAGE,
        )
    return catalogue


def config_file_here(given: Path | None) -> Path | None:
    """Return the file to read; without one, that of the `aqueduct up` which runs here without a file.

    Raises:
        UntrustedPath: somebody else wrote that one.
    """
    from shared.config import config_path  # noqa: PLC0415
    from shared.private_files import read_private  # noqa: PLC0415

    file = config_path(given)
    if file is not None:
        return file
    generated = _data_dir() / GENERATED_CONFIG
    try:
        read_private(generated)
    except OSError:
        return None
    return generated


def needed_config_file(given: Path | None) -> Path:
    """Return the same, for what cannot do without.

    Raises:
        CommandError: there is none; the message tells where it was looked for.
        UntrustedPath: as above.
    """
    file = config_file_here(given)
    if file is None:
        raise CommandError(
            "no configuration file is named (--config, AQUEDUCT_CONFIG), and no `aqueduct up` has written one into the "
            f"data folder {_data_dir().absolute()}; name the folder of a running one with --data-dir "
            "(AQUEDUCT_DATA_DIR)",
            status=WRONG_USAGE,
        )
    return file


def _data_dir() -> Path:
    from shared.settings import Settings  # noqa: PLC0415

    return Path(os.environ.get("AQUEDUCT_DATA_DIR") or Settings.model_fields["data_dir"].default)
