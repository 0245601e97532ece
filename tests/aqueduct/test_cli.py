"""The `aqueduct` command: quick help, and mistakes told as one line with the fix."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from aqueduct.cli import COMMANDS, main
from aqueduct.errors import CommandError
from aqueduct.ports import listen
from tests.support.commands import parse
from tests.support.processes import RedisServer, free_port

CONFIG = {"models": {"demo": {"backends": [{"url": "http://127.0.0.1:1/v1"}]}}}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "aqueduct.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aqueduct", *words], capture_output=True, text=True, timeout=30, check=False
    )


def test_help_lists_every_command_without_loading_the_gateway() -> None:
    code = (
        "import sys\nfrom aqueduct.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('fastapi', 'celery', 'pydantic', 'httpx') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert all(f"\n  {name} " in answer.stdout for name in COMMANDS)
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo-backend"])
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: aqueduct {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("api", ["AQUEDUCT_CONFIG", "AQUEDUCT_API__HOST", "AQUEDUCT_API__PORT", "AQUEDUCT_LOG_FORMAT"]),
        ("worker", ["AQUEDUCT_CONFIG", "AQUEDUCT_WORKER__SLOTS", "AQUEDUCT_LOG_LEVEL"]),
        ("up", ["AQUEDUCT_CONFIG", "AQUEDUCT_DATA_DIR", "AQUEDUCT_API__PORT"]),
        ("queues", ["AQUEDUCT_CONFIG"]),
    ],
)
def test_help_names_the_variable_of_each_option(
    command: str, variables: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in variables if name not in text] == []


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"aqueduct {version('aqueduct-gateway')}\n"


def test_demo_backend_gets_its_options_untouched() -> None:
    words = ["--port", "0", "--help", "-h", "--", "x"]
    assert parse("demo-backend", *words).params["arguments"][:4] == ("--port", "0", "--help", "-h")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-command"], "No such command 'no-such-command'"),
        (["api", "--prot", "1"], "No such option '--prot'"),
        (["api", "--port", "99999"], "Invalid value for '--port'"),
        (["worker", "--slots", "0"], "Invalid value for '--slots'"),
        (["up", "--api-processes", "0"], "Invalid value for '--api-processes'"),
        (["queues", "--interval", "0"], "Invalid value for '--interval'"),
        (["token"], "Usage: aqueduct token"),
        ([], "Usage: aqueduct"),
    ],
)
def test_wrong_usage_is_a_message_and_status_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_an_option_goes_over_the_variable_and_the_file(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AQUEDUCT_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("AQUEDUCT_API__PORT", "nonsense")
    assert main(["api", "--config", str(config_file)]) == 2
    assert "AQUEDUCT_API__PORT: must be a whole number" in capsys.readouterr().err
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(["api", "--config", str(config_file), "--port", port]) == 1
        assert f"error: cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_reader_that_goes_away_ends_it_without_a_traceback(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    answer = subprocess.run(
        [sys.executable, "-m", "aqueduct", "--help"],
        stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
    )  # fmt: skip
    os.close(theirs)
    assert (answer.returncode, answer.stderr) == (1, "")


def test_configuration_error_is_a_message_and_status_2(tmp_path: Path) -> None:
    answer = run("api", "--config", str(tmp_path / "missing.yaml"))
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert "missing.yaml" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("command", ["api", "worker", "flower"])
def test_missing_redis_url_names_the_setting(
    command: str, config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AQUEDUCT_REDIS_URL", raising=False)
    assert main([command, "--config", str(config_file)]) == 2
    assert "AQUEDUCT_REDIS_URL" in capsys.readouterr().err


def test_worker_refuses_an_unknown_model(
    config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUEDUCT_REDIS_URL", "redis://127.0.0.1:1/0")
    assert main(["worker", "nope", "--config", str(config_file)]) == 2
    assert "unknown model 'nope': the configuration has demo" in capsys.readouterr().err


def test_flower_refuses_to_run_without_a_password(
    config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUEDUCT_REDIS_URL", "redis://127.0.0.1:1/0")
    assert main(["flower", "--config", str(config_file)]) == 2
    assert "flower.password is not set" in capsys.readouterr().err


def test_a_planted_file_of_an_up_that_seems_to_run_here_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUEDUCT_DATA_DIR", str(tmp_path))
    (tmp_path / "up.yaml").write_text(yaml.safe_dump({**CONFIG, "redis_url": "redis://127.0.0.1:1/0"}))
    (tmp_path / "up.yaml").chmod(0o666)
    assert main(["queues", "--once"]) == 1
    assert f"error: The file {tmp_path / 'up.yaml'} can be written by other users" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["queues", "--once"], ["check"]])
def test_a_command_that_finds_nothing_tells_where_it_looked(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AQUEDUCT_CONFIG", raising=False)
    monkeypatch.setenv("AQUEDUCT_DATA_DIR", str(tmp_path))
    assert main(words) != 0
    printed = capsys.readouterr()
    (line,) = (printed.out + printed.err).splitlines()
    assert f"into the data folder {tmp_path}; name" in line
    assert "--config" in line
    assert "--data-dir (AQUEDUCT_DATA_DIR)" in line


@pytest.mark.parametrize("words", [["api"], ["worker"], ["flower"], ["token", "list"]], ids=lambda words: words[0])
def test_a_redis_that_is_not_named_is_told_in_the_same_words_by_all(
    words: list[str],
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AQUEDUCT_REDIS_URL", raising=False)
    monkeypatch.setenv("AQUEDUCT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AQUEDUCT_FLOWER__PASSWORD", "x")
    assert main([*words, "--config", str(config_file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: redis_url is not set")
    assert "AQUEDUCT_REDIS_URL" in line


@pytest.mark.parametrize("command", ["api", "worker"])
def test_an_unreadable_mirror_of_tokens_is_one_line_and_status_1(
    command: str, config_file: Path, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUEDUCT_REDIS_URL", own_redis.url)
    monkeypatch.setenv("AQUEDUCT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AQUEDUCT_API__PORT", str(free_port()))
    (tmp_path / "tokens.json").write_text("{")
    answer = run(command, "--config", str(config_file))
    assert answer.returncode == 1
    (line,) = [line for line in answer.stderr.splitlines() if "tokens.json" in line]
    assert line.startswith(f"error: {tmp_path}/tokens.json: is not a mirror of tokens; remove it")
    assert "Traceback" not in answer.stderr


def test_taken_port_is_told_with_the_option_that_helps() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CommandError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*--port"):
            listen("127.0.0.1", port)


def test_an_error_tells_the_terminal_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["\x1b]0;owned\x07\x9b2J"]) == 2
    shown = capsys.readouterr().err
    assert "owned" in shown
    assert not any(mark in shown for mark in "\x1b\x07\x9b")
