"""`aqueduct up`: all on one machine, in one terminal: Redis, workers, API, Flower, and a demo backend unless told."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from aqueduct.commands.common import CommandError, Subparsers, add_common_options


def add_parser(subparsers: Subparsers[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("up", help="run everything on this machine", description=__doc__)
    add_common_options(parser)
    parser.add_argument(
        "--backend", metavar="URL", help="serve this OpenAI-compatible server's models (its key: BACKEND_KEY)"
    )
    parser.add_argument("--host", help="address of the API (AQUEDUCT_API__HOST)")
    parser.add_argument("--port", type=int, help="port of the API (AQUEDUCT_API__PORT)")
    parser.add_argument(
        "--data-dir", type=Path, metavar="FOLDER", help="where Redis keeps its files (AQUEDUCT_DATA_DIR)"
    )
    parser.add_argument("--no-flower", action="store_true", help="without Flower")
    parser.add_argument("--api-processes", type=int, default=1, metavar="N", help="API processes that share the port")


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C; blocks."""
    if args.api_processes < 1:
        raise CommandError("--api-processes must be at least 1")
    from aqueduct.up import up  # noqa: PLC0415 - keeps `--help` fast
    from aqueduct.up_plan import make_plan  # noqa: PLC0415
    from shared.tokens import MIRROR_NAME, read_mirror  # noqa: PLC0415

    plan = make_plan(args)
    read_mirror(plan.settings.data_dir / MIRROR_NAME)  # once here, not from each process that would start and end
    return up(plan, api_processes=args.api_processes, with_flower=not args.no_flower)
