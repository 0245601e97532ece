"""The `aqueduct` command: quick help, and mistakes told as one line with the fix."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aqueduct.cli import COMMANDS, build_parser, main
from aqueduct.commands.api import listen
from aqueduct.commands.common import CommandError
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
    assert all(f"    {name}" in answer.stdout for name in COMMANDS)
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo-backend"])
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: aqueduct {name}" in capsys.readouterr().out


def test_demo_backend_gets_its_options_untouched() -> None:
    args = build_parser("demo-backend").parse_args(["demo-backend", "--port", "0", "--help"])
    assert args.arguments == ["--port", "0", "--help"]


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
    assert main([command, "--config", str(config_file)]) == 1
    assert "AQUEDUCT_REDIS_URL" in capsys.readouterr().err


def test_worker_refuses_an_unknown_model(
    config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUEDUCT_REDIS_URL", "redis://127.0.0.1:1/0")
    assert main(["worker", "nope", "--config", str(config_file)]) == 1
    assert "unknown model 'nope': the configuration has demo" in capsys.readouterr().err


def test_flower_refuses_to_run_without_a_password(
    config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUEDUCT_REDIS_URL", "redis://127.0.0.1:1/0")
    assert main(["flower", "--config", str(config_file)]) == 1
    assert "flower.password is not set" in capsys.readouterr().err


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
