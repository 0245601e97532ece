"""A LiteLLM proxy configuration in, one of ours out, as text that loads; with what became of every field."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aqueduct.errors import CommandError
from aqueduct.importing.backends import FILLING
from aqueduct.importing.findings import Finding
from aqueduct.importing.models import read_models
from aqueduct.importing.sections import read_sections
from aqueduct.importing.source import read_source
from aqueduct.importing.variables import Variables
from shared.config import load_settings
from shared.config_problems import ConfigError


@dataclass(frozen=True)
class Imported:
    """What was made of a file."""

    text: str
    """Our configuration; empty where there is no model to serve."""
    findings: list[Finding]
    variables: dict[str, str]
    """What the configuration wants in the environment: name, and what belongs there."""

    @property
    def has_left(self) -> bool:
        """Whether something of the file was left out."""
        return any(finding.verdict == "left" for finding in self.findings)


def import_litellm(file: Path, names: Sequence[str] = ()) -> Imported:
    """Read a file and what it includes; `names` are models that clients use, for which a wildcard may stand.

    Raises CommandError where the file cannot be read.
    """
    source = read_source(file)
    variables = Variables()
    settings = read_sections(source, variables)
    models = read_models(source, settings, variables, names)
    for name in dict.fromkeys(names):
        if name not in models:
            source.findings.append(Finding((name,), "--model", None, "left", "", "no deployment stands for it"))
    findings = sorted(source.findings, key=lambda one: (one.file != str(file), one.file, one.line or 0))
    if not models:
        return Imported("", findings, {})
    needed = _purposes(variables)
    text = _text(file, {"models": models, **settings.out}, needed)
    _check(text, variables)
    return Imported(text, findings, needed)


def _purposes(variables: Variables) -> dict[str, str]:
    """Return each variable with what belongs there."""
    purposes = {}
    for name, uses in variables.needed.items():
        if name in variables.made:
            purposes[name] = f"the value of {variables.made[name]}"
        elif any(use.startswith("tokens") for use in uses):
            purposes[name] = 'SHA-256 of the key, in hex: printf %s "$KEY" | sha256sum'
        else:
            more = f" and {len(uses) - 1} more" if len(uses) > 1 else ""
            purposes[name] = f"for {uses[0]}{more}"
    return purposes


def _text(file: Path, configuration: dict[str, Any], needed: dict[str, str]) -> str:
    head = [f"Made by `aqueduct import litellm` from {file.name}. Then: aqueduct check --config FILE"]
    if needed:
        head.append("It wants in the environment:")
        head.extend(f"  {name}: {purpose}" for name, purpose in needed.items())
    comment = "".join(f"# {''.join(c if c.isprintable() else '?' for c in line)}\n" for line in head)
    body = yaml.dump(configuration, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return f"{comment}\n{body}"


class _Dumper(yaml.SafeDumper):
    """Lists stand in from what holds them, and nothing is an alias of another."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _check(text: str, variables: Variables) -> None:
    """Have our own settings read it, each variable filled with something that may stand there."""
    begin_urls = set(re.findall(r"^ +- url: '?\$\{(\w+)", text, re.MULTILINE))
    environment = {}
    for name, uses in variables.needed.items():
        is_hash = any(use.startswith("tokens") for use in uses)
        environment[name] = "http://host" if name in begin_urls else "0" * 64 if is_hash else FILLING
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".yaml") as written:
        written.write(text)
        written.flush()
        try:
            load_settings(Path(written.name), environ=environment)
        except ConfigError as error:
            reasons = "; ".join(f"{one.path}: {one.reason}" for one in error.problems[:5])
            raise CommandError(
                f"what was made of the file does not load, which is a fault of the importer: {reasons}"
            ) from None
