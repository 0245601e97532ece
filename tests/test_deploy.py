"""The systemd units say what the processes need, in words that both sides know."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import click
import pytest

from aqueduct.cli import cli
from shared.settings import ApiSettings, WorkerSettings

UNITS = sorted((Path(__file__).parents[1] / "deploy" / "systemd").glob("*.service"))


def settings_of(unit: Path) -> dict[str, list[str]]:
    """Return a unit's settings, as a key may stand twice."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_a_command_that_there_is(unit: Path) -> None:
    (start,) = settings_of(unit)["ExecStart"]
    name, *words = shlex.split(start)[1:]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    context = command.make_context(name, [word.replace("%I", "model") for word in words], obj={})
    assert context.params["config"] == Path("/etc/aqueduct/aqueduct.yaml")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_gives_a_drain_its_time_and_a_process_its_files(unit: Path) -> None:
    given = settings_of(unit)
    drains = {
        "aqueduct-api.service": ApiSettings().drain_seconds,
        "aqueduct-worker@.service": WorkerSettings().drain_seconds,
    }
    assert int(given["TimeoutStopSec"][0]) >= drains.get(unit.name, 0) + 10 or "flower" in unit.name
    assert (given["KillMode"], given["KillSignal"], given["Restart"]) == (["mixed"], ["SIGTERM"], ["always"])
    assert int(given["LimitNOFILE"][0]) >= 65536
    assert given["StateDirectoryMode"] == ["0700"]
    assert given.get("ExecReload") == (None if "flower" in unit.name else ["/bin/kill -HUP $MAINPID"])


def test_each_process_reads_secrets_of_its_own() -> None:
    files = [settings_of(unit)["EnvironmentFile"][0] for unit in UNITS]
    assert len(set(files)) == len(UNITS) == 3


@pytest.mark.full("systemd-analyze")
def test_systemd_takes_them(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace("/opt/aqueduct/bin/aqueduct", "/bin/true").replace("User=aqueduct\n", "")
        (tmp_path / unit.name.replace("@.", "@m.")).write_text(text)
    paths = [str(path) for path in tmp_path.iterdir()]
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
