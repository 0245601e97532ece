"""`aqueduct reload`: every process reads its configuration again and says what has changed.

What runs and waits notices nothing. A file with a fault changes nothing anywhere; the exit status is 1
where a process refuses it or does not answer.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqueduct.commands.common import config_file_here, config_option, data_dir_option
from aqueduct.errors import FAILED, CommandError
from aqueduct.operating import commander
from aqueduct.table import Column, table, terminal_width

if TYPE_CHECKING:
    from shared.settings import Settings

ANSWER_SECONDS = 10.0
LOOK_SECONDS = 1
"""Of one wait, which must be shorter than a command may take."""
AGAIN_SECONDS = 3.0
"""Between two tries with `--wait`."""
_COLUMNS = tuple(map(Column, ("PROCESS", "ROLE", "FILE", "RESULT")))


@click.command("reload", help=__doc__)
@config_option
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    default=0,
    metavar="SECONDS",
    help="Ask again until all run by the file that is here: a changed file may take a while to reach each machine.",
)
def command(config: Path | None, as_json: bool, wait_seconds: float) -> int:
    """Ask all processes, and show what they say."""
    from aqueduct.commands.redis_choice import redis_url_here  # noqa: PLC0415 - keeps `--help` fast
    from shared.config import load_settings  # noqa: PLC0415

    file = config_file_here(config)
    settings = load_settings(
        file,
        resolve_backend_keys=False,
        resolve_flower_password=False,
        resolve_webhook_secrets=False,
    )
    until = time.monotonic() + wait_seconds
    asked, answers = _ask(redis_url_here(settings))
    while wait_seconds and not _run_by(file, asked, answers) and time.monotonic() < until:
        time.sleep(min(AGAIN_SECONDS, max(0.0, until - time.monotonic())))
        asked, answers = _ask(redis_url_here(settings))
    if as_json:
        print(json.dumps({"asked": asked, "answers": answers, "unserved": _unserved(settings, answers)}))
    else:
        print(_text(settings, asked, answers))
    refused = any(answer["error"] for answer in answers) or (wait_seconds and not _run_by(file, asked, answers))
    return FAILED if refused or not answers or len(answers) < asked else 0


def _run_by(file: Path | None, asked: int, answers: list[dict[str, Any]]) -> bool:
    """Tell whether all that were asked run by the file that is here."""
    ours = hashlib.sha256(file.read_bytes()).hexdigest() if file is not None else ""
    alike = all(answer["digest"] and ours.startswith(answer["digest"]) and not answer["error"] for answer in answers)
    return alike and 0 < asked == len(answers)


def _ask(url: str) -> tuple[int, list[dict[str, Any]]]:
    """Return how many processes heard, and what they answered."""
    import redis  # noqa: PLC0415 - keeps `--help` fast

    from shared import keys  # noqa: PLC0415
    from shared.control.audit import note_now  # noqa: PLC0415
    from shared.control.reload import outcome_of  # noqa: PLC0415
    from shared.protocol import DAY_MS  # noqa: PLC0415
    from shared.redis_sync import connect  # noqa: PLC0415

    request = secrets.token_hex(8)
    answers: list[dict[str, Any]] = []
    try:
        with connect(url) as client:
            client.set(keys.RELOAD_LAST, request, px=DAY_MS)  # for who does not hear it, as its connection is away
            asked = int(client.publish(keys.RELOAD, request))
            until = time.monotonic() + ANSWER_SECONDS
            while len(answers) < asked and time.monotonic() < until:
                found: Any = client.blpop([keys.reloaded(request)], timeout=LOOK_SECONDS)
                if found is not None:
                    answers.append(json.loads(found[1]))
            note_now(client, commander(), "reload", "all processes", outcome_of(asked, answers))
    except redis.RedisError as error:
        raise CommandError(f"Redis cannot be asked ({type(error).__name__}); see `aqueduct check`") from None
    return asked, sorted(answers, key=lambda answer: (answer["role"], answer["process"]))


def _unserved(settings: Settings, answers: list[dict[str, Any]]) -> list[str]:
    """Return the models that no worker serves, nor one that is being started."""
    served = {model for answer in answers for model in answer["served"]}
    for answer in answers:
        if answer["role"] == "up":
            served |= set(answer["changes"].get("added", "").split(","))
    return [model for model in settings.models if model not in served]


def _text(settings: Settings, asked: int, answers: list[dict[str, Any]]) -> str:
    if not asked:
        return "No process listens: nothing of this gateway runs, or only such as knows no reload."
    rows = [(one["process"], one["role"], one["digest"] or "-", _result(one)) for one in answers]
    lines = [table(_COLUMNS, rows, terminal_width())]
    if len(answers) < asked:
        lines.append(f"{asked - len(answers)} of {asked} processes did not answer within {ANSWER_SECONDS:g} s.")
    if len({one["digest"] for one in answers}) > 1:
        lines.append("They run by different files: compare FILE with `sha256sum` of each.")
    if unserved := _unserved(settings, answers):
        lines.append(f"No worker serves {', '.join(unserved)}: start one with `aqueduct worker {' '.join(unserved)}`.")
    return "\n".join(lines)


def _result(answer: dict[str, Any]) -> str:
    if answer["error"]:
        return "refused: " + "; ".join(answer["error"].splitlines())
    told = [f"{name.replace('_', ' ')} {what}" for name, what in answer["changes"].items()]
    return "; ".join(told) or "nothing has changed"
