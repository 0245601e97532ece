"""`aqueduct flower`: Flower over the gateway's broker, behind a login and read-only, until SIGTERM or Ctrl-C.

It shows requests and their outcomes, not how many wait: that is in `aqueduct queues`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from aqueduct.commands.common import Overrides, address_options, catalogue_for, config_option, logging_options
from aqueduct.errors import WRONG_USAGE, CommandError
from aqueduct.flower_view.columns import SHOWN, add_columns, as_shown
from aqueduct.flower_view.door import Passes, open_door
from aqueduct.flower_view.load import lighten

if TYPE_CHECKING:
    from shared.settings import Settings

log = logging.getLogger("aqueduct.flower")

MAX_TASKS = 5000
PURGE_OFFLINE_WORKERS_SECONDS = 60


@click.command("flower", help=__doc__)
@config_option
@address_options("flower")
@logging_options
@click.pass_obj
def command(overrides: Overrides, config: Path | None) -> int:
    """Serve; blocks."""
    settings = catalogue_for(config, overrides, resolve_backend_keys=False, resolve_flower_password=True).settings
    if settings.flower.password is None:
        raise CommandError(
            "flower.password is not set, and Flower does not run without a login: write `password: ${FLOWER_PASSWORD}` "
            "under `flower:`, or set AQUEDUCT_FLOWER__PASSWORD",
            status=WRONG_USAGE,
        )
    serve(settings)
    return 0


def serve(settings: Settings) -> None:
    """Run Flower in this process, so that neither password nor broker address is on a command line."""
    from flower.app import Flower  # noqa: PLC0415 - keeps `--help` fast
    from flower.urls import settings as application_settings  # noqa: PLC0415
    from tornado.options import options  # noqa: PLC0415

    from shared.broker import celery_app  # noqa: PLC0415
    from shared.redis_url import shown_url  # noqa: PLC0415
    from shared.version import VERSION  # noqa: PLC0415

    _set_options(options, settings)
    (login,) = options.basic_auth
    open_door(login, Passes(settings.redis))
    add_columns()
    lighten()
    application_settings["cookie_secret"] = options.cookie_secret
    flower = Flower(capp=celery_app(settings), options=options, **application_settings)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _stay)
    try:
        port = flower.start_http_server()
    except OSError as error:
        address = f"{settings.flower.host}:{settings.flower.port}"
        raise CommandError(f"cannot listen on {address} ({error.strerror}). Choose another with --port.") from None
    log.info(
        "ready", extra={
            "version": VERSION, "url": f"http://{settings.flower.host}:{port or settings.flower.port}",
            "redis": shown_url(settings.redis), "pid": os.getpid(),
        },
    )  # fmt: skip
    try:
        flower.start()
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        flower.stop()


def _set_options(options: Any, settings: Settings) -> None:
    """Set Flower's options; those of its environment variables and its file do not count here."""
    password = settings.flower.password
    assert password is not None  # noqa: S101 - the command refused that
    options.address = settings.flower.host
    options.port = settings.flower.port
    options.basic_auth = [f"{settings.flower.user}:{password.get_secret_value()}"]
    options.read_only = True  # its revoke and terminate would act on tickets, not on requests
    options.persistent = False
    options.max_tasks = MAX_TASKS
    options.tasks_columns = ",".join(SHOWN)
    options.format_task = as_shown
    options.purge_offline_workers = PURGE_OFFLINE_WORKERS_SECONDS


def _stay(_signal: int, _frame: FrameType | None) -> None:
    log.warning("SIGHUP: Flower reads its settings at its start only; restart it to change them")


def _end(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)
