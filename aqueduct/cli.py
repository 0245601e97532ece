"""The `aqueduct` command: words in, exit status out (0 done, 1 failed or refused, 2 wrong usage or configuration)."""

from __future__ import annotations

import errno
import importlib
import keyword
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from aqueduct.errors import FAILED, WRONG_USAGE, CommandError
from aqueduct.leaving import leave

COMMANDS = {
    "up": "run everything on this machine",
    "api": "run an API process",
    "worker": "run a worker process",
    "flower": "run Flower, the view for operators",
    "check": "validate the configuration, probe Redis and every backend",
    "import": "make a configuration out of LiteLLM's",
    "reload": "have every process read the configuration again",
    "queues": "show what waits and runs, live",
    "model": "pause, resume, drain and retire models and backends",
    "job": "list, show, cancel and move requests",
    "audit": "show what operators did",
    "usage": "show who has used how much",
    "token": "create, list, change and revoke bearer tokens",
    "group": "show, make and change groups of tokens",
    "batch": "send files of requests, watch them, fetch the results",
    "demo-backend": "run a scripted model server to try things with",
}
"""Each is a module of `aqueduct.commands`, imported only when it is the one to run; of a name that is a keyword with a
`_` behind it."""
INTERRUPTED = 130


class _Commands(click.Group):
    """The subcommands by name; `--help` tells them without an import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name.replace("-", "_")
        module = importlib.import_module(f"aqueduct.commands.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    help="An OpenAI-compatible gateway with a queue per model, over Celery and Redis.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="aqueduct-gateway", prog_name="aqueduct", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Hold the subcommands, and the settings that their options give."""
    ctx.obj = {}


def run() -> NoReturn:
    """Be the command: run `main` and end the process."""
    try:
        status = main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else FAILED if leaving.code else 0
    except Exception:
        sys.excepthook(*sys.exc_info())
        status = FAILED
    leave(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; what a person did wrong becomes a message on standard error, without a traceback."""
    try:
        status = cli.main(None if argv is None else list(argv), prog_name="aqueduct", standalone_mode=False)
        sys.stdout.flush()
        return int(status or 0)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return WRONG_USAGE
    except click.UsageError as error:
        if error.ctx is not None:
            print(error.ctx.get_usage(), file=sys.stderr)
        return _fail(error.format_message(), WRONG_USAGE)
    except Exception as error:
        status = _status_of(error)
        if status is None:
            raise
        return _fail(_text_of(error), status)


_MISFORTUNES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def _text_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        where = os.path.dirname(str(error.filename)) or "."
        return (
            f"{error.filename}: {error.strerror}. Make room or give this user the right to write in {where}, or name "
            "another folder with --data-dir (AQUEDUCT_DATA_DIR)."
        )
    return str(error)


def _status_of(error: Exception) -> int | None:
    """Return the exit status for a mistake or misfortune that its own text explains; None for a fault of ours."""
    if isinstance(error, CommandError):
        return error.status
    from shared.config_problems import ConfigError  # noqa: PLC0415 - keeps `--help` fast
    from shared.control.problems import BadFilter, NoSuch  # noqa: PLC0415
    from shared.fitness import UnfitRedis  # noqa: PLC0415
    from shared.private_files import UntrustedPath  # noqa: PLC0415
    from shared.store import StoreError  # noqa: PLC0415
    from shared.tokens import UnreadableMirror  # noqa: PLC0415

    if isinstance(error, ConfigError | BadFilter):
        return WRONG_USAGE
    if isinstance(error, OSError) and error.filename is not None and error.errno in _MISFORTUNES:
        return FAILED
    return FAILED if isinstance(error, UnfitRedis | UntrustedPath | UnreadableMirror | StoreError | NoSuch) else None


def _fail(message: str, status: int) -> int:
    from shared.logging import escaped  # noqa: PLC0415 - keeps `--help` fast

    for line in message.splitlines():
        print(f"error: {escaped(line)}", file=sys.stderr)
    return status
