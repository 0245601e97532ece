"""`aqueduct import`: a configuration of another gateway becomes one of ours, and every field's fate is told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from aqueduct.errors import FAILED, WRONG_USAGE, CommandError
from aqueduct.importing.findings import counts, report
from aqueduct.importing.litellm import Imported, import_litellm
from shared.logging import escaped


@click.group("import", help="Make a configuration out of that of another gateway.")
def command() -> None:
    """Hold the gateways."""


@command.command("litellm")
@click.argument("file", type=click.Path(path_type=Path), metavar="CONFIG.YAML")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="Write the configuration there and the report to standard output. Without it the configuration goes to "
    "standard output, the report to standard error.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option(
    "--model", "names", multiple=True, metavar="NAME",
    help="A model that clients use and a wildcard such as openai/* stands for; may be given more than once.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print configuration and report as one JSON object.")
def litellm(file: Path, output: Path | None, force: bool, names: tuple[str, ...], as_json: bool) -> int:
    """Make a configuration of LiteLLM's proxy into one of ours.

    Ends with 0 if nothing was left out, with 1 if something was (it is named, with the reason), and with 2 if the file
    cannot be read or has no model that can be served; then nothing is written. No key is ever written, only references
    to the environment.
    """
    imported = import_litellm(file, names)
    if output is not None and imported.text:
        _write(output, imported.text, force)
    if as_json:
        print(json.dumps(_as_json(imported), indent=1))
    else:
        _print(imported, str(file), output)
    if not imported.text:
        raise CommandError(f"{file}: has no model that can be served: nothing was written", status=WRONG_USAGE)
    return FAILED if imported.has_left else 0


def _write(output: Path, text: str, force: bool) -> None:
    """Write a new file; raises CommandError where one is there already, and OSError where none can be written."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        handle = os.open(output, flags, 0o640)
    except FileExistsError:
        raise CommandError(f"{output} is there already; name another, or write over it by --force") from None
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


def _as_json(imported: Imported) -> dict[str, object]:
    return {
        "counts": counts(imported.findings),
        "fields": [finding.as_json() for finding in imported.findings],
        "environment": imported.variables,
        "configuration": imported.text or None,
    }


def _print(imported: Imported, file: str, output: Path | None) -> None:
    stream = sys.stdout if output is not None else sys.stderr
    if output is None:
        sys.stdout.write(imported.text)
        sys.stdout.flush()
    lines = [report(imported.findings, file)]
    if imported.variables:
        lines.append("\n".join(["Set in the environment", *(f"  {n}: {p}" for n, p in imported.variables.items())]))
    numbers = counts(imported.findings)
    said = f"{numbers['taken']} taken, {numbers['changed']} to look at, {numbers['left']} left out"
    lines.append(
        f"{said}, {numbers['needless']} need nothing" + (f"; written: {output}" if output and imported.text else "")
    )
    for line in "\n\n".join(one for one in lines if one).splitlines():
        print(escaped(line), file=stream)
