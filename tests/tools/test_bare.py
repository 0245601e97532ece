"""`tools/bare.py` hides what a bare machine has not; CI runs the README's command so; tests that need more say it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tools.bare import HIDDEN

NAMES = (*HIDDEN, "lsof", "python3.11", "some-tool-of-mine")
MARK = re.compile(r"pytest\.mark\.full\(([^)]*)\)")


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that has everything: each program there runs and says its name."""
    folder = tmp_path / "everything"
    folder.mkdir()
    for name in NAMES:
        _program(folder / name, f"echo {name}")
    # As version managers do: a script that finds the real one.
    _program(folder / "python3", f'exec "{sys.executable}" "$@"')
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "OF_THE_CALLER": "kept"}


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "bare.py", *command],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def shell(environment: dict[str, str], script: str) -> str:
    done = run(environment, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_what_a_bare_machine_has_not_is_not_found(machine: dict[str, str], name: str) -> None:
    assert shutil.which(name, path=machine["PATH"])
    done = run(machine, name)
    assert done.returncode == 1
    assert f"{name} is none of the programs" in done.stderr
    assert shell(machine, f"command -v {name} || echo nothing") == "nothing\n"


def test_make_git_and_the_base_systems_tools_are_found(machine: dict[str, str]) -> None:
    found = shell(machine, "command -v make git bash awk sed grep find rm && make --version && git --version")
    assert "GNU Make" in found
    assert "git version" in found
    folders = {Path(line).parent for line in found.splitlines() if line.startswith("/")}
    assert len(folders) == 1
    assert not folders.pop().exists()  # it went with the command


def test_the_python_is_the_real_one_and_an_environment_made_by_it_outlives_the_run(
    machine: dict[str, str], tmp_path: Path
) -> None:
    made = tmp_path / "environment"
    python = shell(machine, "sh tools/find_python.sh").strip()
    assert Path(python).name == "python3"
    shell(machine, f"python3 -m venv --without-pip '{made}'")
    code = "import sys; print(sys.base_prefix)"
    said = subprocess.run([made / "bin" / "python", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert said.stdout.strip() == sys.base_prefix


def test_the_rest_of_the_environment_stays(machine: dict[str, str]) -> None:
    assert shell(machine, 'echo "$OF_THE_CALLER $HOME"') == f"kept {machine['HOME']}\n"


def test_the_commands_exit_status_is_returned(machine: dict[str, str]) -> None:
    assert run(machine, "sh", "-c", "exit 7").returncode == 7
    assert run(machine, "sh", "-c", "kill -9 $$").returncode == 137


def test_a_machine_without_make_is_told_so(tmp_path: Path) -> None:
    for name in ("git", "sh"):
        _program(tmp_path / name, "true")
    done = run({**os.environ, "PATH": str(tmp_path)}, "sh")
    assert done.returncode == 1
    assert "make" in done.stderr
    assert "Traceback" not in done.stderr


def test_ci_runs_the_readmes_test_command_bare_and_everything_else_too() -> None:
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line.partition("#")[0].strip() for line in lines if re.search(r"\bmake\b", line.partition("#")[0])]
    assert commands[0] == "bare make test"
    assert [one for one in commands if not one.startswith("bare ")] == []


# --- tests that need more ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [([], 0, "needs nginx: `make test-full` runs it"), (["--full"], 1, "not on the PATH: nginx")],
    ids=["plain", "full"],
)
def test_a_test_whose_program_is_missing_is_skipped_by_name_and_fails_the_full_run(
    options: list[str], status: int, reason: str
) -> None:
    quick = ["-p", "no:schemathesis", "-p", "no:hypothesispytest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-rs", *quick, "tests/e2e/test_nginx.py", *options]
    done = run(dict(os.environ), *command)
    assert done.returncode == status, done.stdout
    assert f"tests/e2e/test_nginx.py: {reason}" in done.stdout


def test_every_program_that_a_test_needs_is_hidden_from_ci_and_told_to_contributors() -> None:
    marks = [MARK.findall(path.read_text()) for path in ROOT.glob("tests/**/test_*.py")]
    needed = {name for found in marks for names in found for name in re.findall(r'"([^"]+)"', names)}
    assert {"nginx", "node"} <= needed <= set(HIDDEN)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert [name for name in sorted(needed) if f"`{name}`" not in text] == []
