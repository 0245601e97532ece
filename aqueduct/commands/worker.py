"""`aqueduct worker [MODEL…]`: one worker process, until SIGTERM; running streams get their grace time.

Without a model it serves all of the file. It needs the keys of its own models' backends only.
"""

from __future__ import annotations

from pathlib import Path

import click

from aqueduct.commands.common import Overrides, catalogue_for, config_option, logging_options, setting_option
from aqueduct.errors import WRONG_USAGE, CommandError


@click.command("worker", help=__doc__)
@config_option
@setting_option(
    "--slots", "AQUEDUCT_WORKER__SLOTS", type=click.IntRange(min=1), metavar="N", help="Jobs to run at once."
)
@logging_options
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.pass_obj
def command(overrides: Overrides, config: Path | None, models: tuple[str, ...]) -> int:
    """Work; blocks."""
    catalogue = catalogue_for(config, overrides, resolve_backend_keys=models or True, resolve_webhook_secrets=True)
    settings = catalogue.settings
    served = list(dict.fromkeys(models))
    unknown = [model for model in served if model not in settings.models]
    if unknown:
        known = ", ".join(settings.models)
        raise CommandError(
            f"unknown model {unknown[0]!r}: the configuration has {known} (an alias does not count)", status=WRONG_USAGE
        )
    from workers.server import run as work  # noqa: PLC0415 - keeps `--help` fast

    return work(catalogue, served)
