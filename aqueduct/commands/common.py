"""What the subcommands share: the common options, and the settings and logging that follow from them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.settings import Settings

Subparsers = argparse._SubParsersAction  # argparse has no public name for it


GENERATED_CONFIG = "up.yaml"
"""What `aqueduct up` without a file writes into the data folder and runs from."""


class CommandError(Exception):
    """The command cannot do its work; the message is for the person who typed it. Exit status 1."""


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--log-format` and `--log-level`."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file (AQUEDUCT_CONFIG)")
    parser.add_argument("--log-format", choices=("text", "json"), help="over the file's log_format")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="over the file's log_level")


def settings_for(args: argparse.Namespace, *, resolve_backend_keys: bool) -> Settings:
    """Return the settings with the common options applied, and set this process's logging up.

    Raises:
        ConfigError: with every problem of the file and the environment.
    """
    from shared.config import load_settings  # noqa: PLC0415 - see the package's docstring
    from shared.logging import configure_logging  # noqa: PLC0415

    settings = load_settings(args.config, resolve_backend_keys=resolve_backend_keys)
    given = {name: getattr(args, name) for name in ("log_format", "log_level") if getattr(args, name)}
    settings = settings.model_copy(update=given)
    configure_logging(settings.log_format, settings.log_level)
    return settings


def require_redis_url(settings: Settings) -> None:
    """Raise CommandError when no Redis is named: only `aqueduct up` starts one."""
    if settings.redis_url is None:
        raise CommandError(
            "redis_url is not set: give it in the configuration file or as AQUEDUCT_REDIS_URL. "
            "Only `aqueduct up` starts a Redis of its own."
        )


def config_file_here(given: Path | None) -> Path | None:
    """Return the file to read; without one, that of the `aqueduct up` which runs here without a file."""
    from shared.config import config_path  # noqa: PLC0415
    from shared.settings import Settings  # noqa: PLC0415

    file = config_path(given)
    if file is not None:
        return file
    folder = Path(os.environ.get("AQUEDUCT_DATA_DIR") or Settings.model_fields["data_dir"].default)
    generated = folder / GENERATED_CONFIG
    return generated if generated.exists() else None
