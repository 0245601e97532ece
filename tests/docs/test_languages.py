"""The snippets in other languages run against a real gateway, with the program that each needs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.conftest import OPERATOR
from tests.docs.snippets import Snippet, snippets, unrun
from tests.support.node import installed
from tests.support.system import System

UNRUN = unrun()
NODE = Path(__file__).parent / "node"
_LOOPBACK = "http://127.0.0.1:8000"


def of(language: str) -> list[object]:
    """Return a language's snippets that are to be run."""
    return [pytest.param(one, id=one.id) for one in snippets(language) if UNRUN.of(one) is None]


def run(
    gateway: System, snippet: Snippet, file: Path, *command: str | Path, environment: Mapping[str, str] | None = None
) -> str:
    """Write the snippet where the command expects it, run it as its reader would, and return what it prints."""
    file.write_text(snippet.text.replace(_LOOPBACK, gateway.base_url))
    ran = subprocess.run(
        command, cwd=file.parent, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "TOKEN": gateway.tokens[OPERATOR], "NO_PROXY": "*", **(environment or {})},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.full("node", "npm")
@pytest.mark.parametrize("snippet", of("javascript"))
def test_javascript_runs(gateway: System, snippet: Snippet, tmp_path: Path) -> None:
    folder = installed(NODE, tmp_path)
    assert "You said: Hello" in run(gateway, snippet, folder / "snippet.mjs", "node", "snippet.mjs")


@pytest.mark.full("java")
@pytest.mark.parametrize("snippet", of("java"))
def test_java_runs(gateway: System, snippet: Snippet, tmp_path: Path) -> None:
    said = run(gateway, snippet, tmp_path / "Ask.java", "java", "Ask.java")
    assert said.endswith("data: [DONE]\n")
    assert '"content":"You "' in said


@pytest.mark.full("go")
@pytest.mark.timeout(300)  # its first run compiles the standard library
@pytest.mark.parametrize("snippet", of("go"))
def test_go_runs(gateway: System, snippet: Snippet, tmp_path: Path) -> None:
    alone = {"GO111MODULE": "off", "GOFLAGS": "", "GOPATH": str(tmp_path / "go")}
    said = run(gateway, snippet, tmp_path / "main.go", "go", "run", "main.go", environment=alone)
    assert said.startswith("You said: Hello")


@pytest.mark.full("uv")
@pytest.mark.parametrize("entry", [entry for entry in UNRUN.entries if "with" in entry], ids=str)
def test_python_with_other_libraries_runs(gateway: System, entry: dict[str, str], tmp_path: Path) -> None:
    (snippet,) = (one for one in snippets("python") if UNRUN.of(one) == entry)
    command = ("uv", "run", "--quiet", "--no-project", "--with", entry["with"], "python", "snippet.py")
    assert run(gateway, snippet, tmp_path / "snippet.py", *command).startswith("You said: Hello")
