"""The `aqueduct` command: words in, exit status out (0 done, 1 failed, 2 wrong usage or configuration)."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from aqueduct.commands.common import CommandError

COMMANDS = {
    "up": "run everything on this machine",
    "api": "run an API process",
    "worker": "run a worker process",
    "flower": "run Flower, the view for operators",
    "check": "validate the configuration, probe Redis and every backend",
    "queues": "show what waits and runs, live",
    "token": "create, list and revoke bearer tokens",
    "demo-backend": "run a scripted model server to try things with",
}
"""Each is a module of `aqueduct.commands`, imported only when it is the one to run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; what a person did wrong becomes a message on standard error, without a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(words[0] if words else None).parse_args(words)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130
    except CommandError as error:
        return _fail(error, 1)
    except Exception as error:
        from shared.config import ConfigError  # noqa: PLC0415 - keeps `--help` fast
        from shared.fitness import UnfitRedis  # noqa: PLC0415
        from shared.tokens import UnreadableMirror  # noqa: PLC0415

        if isinstance(error, ConfigError):
            return _fail(error, 2)
        if isinstance(error, UnfitRedis | UnreadableMirror):
            return _fail(error, 1)
        raise


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser, complete for this subcommand and with a line about each of the others."""
    parser = argparse.ArgumentParser(
        prog="aqueduct", description="An OpenAI-compatible gateway with a queue per model, over Celery and Redis."
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name == command:
            module = importlib.import_module(f"aqueduct.commands.{name.replace('-', '_')}")
            module.add_parser(subparsers)
            subparsers.choices[name].set_defaults(run=module.run)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


def _fail(error: Exception, status: int) -> int:
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return status
