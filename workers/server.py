"""Runs a Celery worker for some models until it is told to stop."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Sequence

from celery.exceptions import SecurityWarning

from shared.fitness import ready_redis
from shared.logging import configure_logging
from shared.settings import Settings
from workers.app import create_worker

log = logging.getLogger("aqueduct.worker")


def node_name(models: Sequence[str]) -> str:
    """Return the name that Flower shows: the models, the host and the process."""
    served = "+".join(models)[:60] if models else "all"
    return f"{re.sub(r'[^A-Za-z0-9_.+-]', '-', served)}-{os.getpid()}@{os.uname().nodename}"


def run(settings: Settings, models: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT, draining within `worker.drain_seconds`; returns the exit status."""
    configure_logging(settings.log_format, settings.log_level)
    # Celery warns of running as root because of pickle, which this app does not accept.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    ready_redis(settings)
    app = create_worker(settings, models)
    worker = app.Worker(
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
