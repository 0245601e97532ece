"""`aqueduct worker [MODEL…]`: one worker process, until SIGTERM; running streams get their grace time."""

from __future__ import annotations

import argparse
from typing import Any

from aqueduct.commands.common import CommandError, Subparsers, add_common_options, require_redis_url, settings_for


def add_parser(subparsers: Subparsers[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("worker", help="run a worker process", description=__doc__)
    add_common_options(parser)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models to serve; default: all of the file")
    parser.add_argument("--slots", type=int, help="jobs to run at once (AQUEDUCT_WORKER__SLOTS)")


def run(args: argparse.Namespace) -> int:
    """Work; blocks."""
    settings = settings_for(args, resolve_backend_keys=True)
    require_redis_url(settings)
    models = list(dict.fromkeys(args.models)) or list(settings.models)
    unknown = [model for model in models if model not in settings.models]
    if unknown:
        known = ", ".join(settings.models)
        raise CommandError(f"unknown model {unknown[0]!r}: the configuration has {known} (an alias does not count)")
    if args.slots is not None:
        if args.slots < 1:
            raise CommandError("--slots must be at least 1")
        settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"slots": args.slots})})
    from workers.server import run as work  # noqa: PLC0415 - keeps `--help` fast

    return work(settings, models)
