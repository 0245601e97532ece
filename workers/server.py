"""Runs a Celery worker for some models until it is told to stop."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

from celery.apps import worker as celery_worker
from celery.exceptions import SecurityWarning
from celery.signals import worker_ready

from shared.catalogue import Catalogue
from shared.fitness import ready_redis
from shared.logging import configure_logging
from shared.redis_url import shown_url
from shared.version import VERSION
from workers.app import create_worker

log = logging.getLogger("aqueduct.worker")


def node_name(models: Sequence[str]) -> str:
    """Return the name that Flower shows: the models, the host and the process."""
    served = "+".join(models)[:60] if models else "all"
    return f"{re.sub(r'[^A-Za-z0-9_.+-]', '-', served)}-{os.getpid()}@{os.uname().nodename}"


class _Worker(celery_worker.Worker):
    """Celery's, but SIGHUP does not start it again: what it runs would be lost."""

    def install_platform_tweaks(self, worker: Any) -> None:
        """Install Celery's signal handlers but that one, which it leaves out for a terminal too."""
        self._isatty = True
        super().install_platform_tweaks(worker)


def run(catalogue: Catalogue, models: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT, draining within `worker.drain_seconds`; returns the exit status."""
    settings = catalogue.settings
    configure_logging(settings.log_format, settings.log_level)
    vars(celery_worker)["safe_say"] = _say_nothing  # it prints past the log, whatever its format
    # Celery warns of running as root because of pickle, which this app does not accept.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    ready_redis(settings)
    app = create_worker(catalogue, models)

    @worker_ready.connect(weak=False)
    def _ready(**_: Any) -> None:
        log.info(
            "ready", extra={
                "version": VERSION, "models": ",".join(models or settings.models), "slots": settings.worker.slots,
                "redis": shown_url(settings.redis), "pid": os.getpid(),
            },
        )  # fmt: skip

    worker = _Worker(
        app=app,
        hostname=node_name(models),
        pool_cls="solo",
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        task_events=True,
        quiet=True,
        loglevel=settings.log_level.upper(),
        redirect_stdouts=False,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _say_nothing(*_: object) -> None:
    """Stand in for what Celery prints on a signal: the drain's own line tells more."""
