"""`aqueduct up`: all on one machine, in one terminal: Redis, workers, API, Flower, and a demo backend unless told."""

from __future__ import annotations

from pathlib import Path

import click

from aqueduct.commands.common import Overrides, address_options, config_option, logging_options, setting_option


@click.command("up", help=__doc__)
@config_option
@click.option("--backend", metavar="URL", help="Serve this OpenAI-compatible server's models (its key: BACKEND_KEY).")
@address_options("api")
@setting_option(
    "--data-dir", "AQUEDUCT_DATA_DIR", type=click.Path(), metavar="FOLDER", help="Where Redis keeps its files."
)
@logging_options
@click.option("--no-flower", is_flag=True, help="Without Flower.")
@click.option(
    "--api-processes", type=click.IntRange(min=1), default=1, metavar="N", help="API processes that share the port."
)
@click.option("--watch", is_flag=True, help="Reload when the configuration file has changed.")
@click.pass_obj
def command(
    overrides: Overrides, config: Path | None, backend: str | None, no_flower: bool, api_processes: int, watch: bool
) -> int:
    """Run until SIGTERM or Ctrl-C; blocks."""
    from aqueduct.up import up  # noqa: PLC0415 - keeps `--help` fast
    from aqueduct.up_plan import make_plan  # noqa: PLC0415
    from shared.groups import MIRROR_NAME as GROUPS_MIRROR_NAME  # noqa: PLC0415
    from shared.tokens import MIRROR_NAME, read_mirror  # noqa: PLC0415

    plan = make_plan(config, overrides, backend=backend)
    read_mirror(plan.settings.data_dir / GROUPS_MIRROR_NAME, "group")
    read_mirror(plan.settings.data_dir / MIRROR_NAME)  # once here, not from each process that would start and end
    return up(plan, api_processes=api_processes, with_flower=not no_flower, watch=watch)
