"""`aqueduct demo-backend`: a small OpenAI-compatible server with scripted answers, to try and test a gateway with."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from aqueduct.commands.common import Subparsers


def add_parser(subparsers: Subparsers[Any]) -> None:
    """Add the subcommand; its options are those of `python -m aqueduct.demo`."""
    parser = subparsers.add_parser(
        "demo-backend",
        help="run a scripted model server to try things with",
        prefix_chars="\0",  # no word is an option here: all are passed on
        add_help=False,
    )
    parser.add_argument("arguments", nargs="*")


def run(args: argparse.Namespace) -> int:
    """Become the demo backend."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "aqueduct.demo", *args.arguments])  # noqa: S606 - no shell is meant
