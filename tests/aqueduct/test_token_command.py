"""`aqueduct token`: made, shown, used and withdrawn, against a real Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aqueduct.cli import main
from shared.keys import TOKEN_USES
from shared.limit_settings import LimitSettings
from shared.redis_sync import connect
from shared.tokens import StoredToken, TokenStore, hash_token
from tests.support.processes import RedisServer

Run = Callable[..., int]


@pytest.fixture
def token(tmp_path: Path, own_redis: RedisServer) -> Run:
    config = tmp_path / "aqueduct.yaml"
    config.write_text(
        f"""\
models: {{llama: {{aliases: [fast], backends: [{{url: 'http://127.0.0.1:1/v1', api_key: '${{NOT_SET_HERE}}'}}]}}}}
tokens: [{{name: static, sha256: {"ab" * 32}}}]
redis_url: {own_redis.url}
data_dir: {tmp_path / "data"}
"""
    )

    def run(*arguments: str) -> int:
        return main(["token", *arguments, "--config", str(config)])

    return run


def stored(server: RedisServer, folder: Path) -> list[StoredToken]:
    with connect(server.url) as client:
        return TokenStore(client, folder / "data").list()


def test_create_prints_the_token_once_and_stores_its_hash(
    token: Run, own_redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--models fast,llama --lane flex --weight 2 --expires 30d --requests-per-minute 60 --concurrent-jobs 5"
    options += " --role operator"
    assert token("create", "team-a", *options.split()) == 0
    printed = capsys.readouterr()
    secret = printed.out.strip()
    (record,) = stored(own_redis, tmp_path)
    assert record.sha256 == hash_token(secret)
    assert (record.name, record.models, record.lane, record.weight) == ("team-a", ("fast", "llama"), "flex", 2)
    assert (record.requests_per_minute, record.concurrent_jobs, record.role) == (60, 5, "operator")
    assert record.expires_at is not None
    assert timedelta(days=29) < record.expires_at - datetime.now(UTC) <= timedelta(days=30)
    assert secret not in printed.err
    assert secret not in (tmp_path / "data" / "tokens.json").read_text()
    assert record.sha256 in json.loads((tmp_path / "data" / "tokens.json").read_text())


def test_list_shows_every_token_with_its_limits(
    token: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "anna")
    token("create", "team-a", "--requests-per-minute", "60")
    secret = capsys.readouterr().out.strip()
    assert token("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith(f"{datetime.now(UTC):%Y-%m-%d} by anna")
    heading, static, created = (line.split() for line in lines)
    assert heading[5:8] == ["REQ/MIN", "TOK/MIN", "JOBS"]
    assert (static[0], static[5:8]) == ("static", ["-", "-", "-"])
    assert (created[0], created[5:8]) == ("team-a", ["60", "-", "-"])
    assert token("list", "--json") == 0
    told = capsys.readouterr().out
    assert [(one["name"], one["static"], one["requests_per_minute"]) for one in json.loads(told)] == [
        ("static", True, None), ("team-a", False, 60),
    ]  # fmt: skip
    assert secret not in told


def test_set_changes_what_is_named_and_nothing_else(
    token: Run, own_redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token("create", "team-a", "--requests-per-minute", "60", "--expires", "30d", "--lane", "flex")
    (before,) = stored(own_redis, tmp_path)
    assert token("set", "team-a", "--requests-per-minute", "600", "--concurrent-jobs", "5", "--models", "fast") == 0
    assert "600" in capsys.readouterr().out
    (after,) = stored(own_redis, tmp_path)
    assert after == before.model_copy(update={"requests_per_minute": 600, "concurrent_jobs": 5, "models": ("fast",)})
    assert token("set", "team-a", "--requests-per-minute", "none", "--expires", "none", "--lane", "batch") == 0
    (after,) = stored(own_redis, tmp_path)
    assert (after.requests_per_minute, after.expires_at, after.lane, after.sha256) == (
        None,
        None,
        "batch",
        before.sha256,
    )
    assert '"lane":"batch"' in json.loads((tmp_path / "data" / "tokens.json").read_text())[after.sha256]


def test_every_limit_is_given_changed_and_told_as_json(
    token: Run, own_redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(LimitSettings.model_fields)
    options = [f"--{name.replace('_', '-')}" for name in names]
    assert token("create", "all", *(word for at, option in enumerate(options) for word in (option, str(7 + at)))) == 0
    capsys.readouterr()
    (record,) = stored(own_redis, tmp_path)
    assert [getattr(record, name) for name in names] == [7 + at for at in range(len(names))]
    assert token("set", "all", "--json", *(word for option in options for word in (option, "none"))) == 0
    told = json.loads(capsys.readouterr().out)
    assert [told[name] for name in names] == [None] * len(names)
    assert token("create", "other", "--tokens-per-day", "0") == 2
    assert "--tokens-per-day" in capsys.readouterr().err
    assert token("create", "other", "--tokens-per-day", "9", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tokens_per_day"], hash_token(told["token"])) == (9, told["sha256"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("team-a",), "name what to change"), (("team-a", "--weight", "-1"), "--weight"),
        (("team-a", "--requests-per-minute", "many"), "--requests-per-minute"),
        (("team-a", "--models", "x"), "--models"),
        (("static", "--weight", "2"), "stands in the configuration file"), (("team-b", "--weight", "2"), "no token is"),
    ],
)  # fmt: skip
def test_set_refuses_with_a_reason_and_changes_nothing(
    token: Run, own_redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...],
    told: str,
) -> None:  # fmt: skip
    token("create", "team-a")
    before = stored(own_redis, tmp_path)
    assert token("set", *words) != 0
    assert told in capsys.readouterr().err
    assert stored(own_redis, tmp_path) == before


def test_revoke_removes_the_token(token: Run, own_redis: RedisServer, tmp_path: Path) -> None:
    token("create", "team-a")
    (record,) = stored(own_redis, tmp_path)
    with own_redis.client() as client:
        client.hset(TOKEN_USES, mapping={record.sha256: 1, "another": 1})
        assert token("revoke", "team-a") == 0
        assert client.hkeys(TOKEN_USES) == [b"another"]
    assert stored(own_redis, tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["create", "static"], "stands in the configuration file; choose another name", 1),
        (["create", "team-a"], "'team-a' exists already", 1),
        (["create", "b", "--models", "lama"], "no model is called 'lama'; did you mean 'llama'?", 2),
        (["create", "b", "--expires", "soon"], "neither a span such as 30d", 2),
        (["create", "b", "--expires", "2020-01-01"], "is already past", 2),
        (["create", "b", "--weight", "0"], "--weight: must be at least 0.001", 2),
        (["create", "b c"], "NAME: may hold only letters", 2),
        (["create", "b", "--requests-per-minute", "0"], "--requests-per-minute: must be at least 1", 2),
        (["revoke", "static"], "remove it there and restart", 1),
        (["revoke", "team-b"], "no token is called 'team-b'; did you mean 'team-a'?", 1),
    ],
)
def test_impossible_requests_are_refused_with_a_reason(
    token: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str, status: int
) -> None:
    token("create", "team-a")
    before = (tmp_path / "data" / "tokens.json").read_text()
    capsys.readouterr()
    assert token(*arguments) == status
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert (tmp_path / "data" / "tokens.json").read_text() == before


def test_a_mirror_that_others_could_have_written_is_not_believed(
    token: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "data" / "tokens.json"
    token("create", "team-a")
    mirror.chmod(0o666)
    capsys.readouterr()
    assert token("create", "team-b") == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: The file {mirror} can be written by other users")
    assert printed.out == ""


def test_redis_away_is_one_line_and_exit_1(
    token: Run, own_redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    own_redis.stop()
    assert token("list") == 1
    assert "aqueduct check" in capsys.readouterr().err


def test_an_unreadable_mirror_is_told_behind_the_list(
    token: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token("create", "team-a")
    (tmp_path / "data" / "tokens.json").write_text("{")
    capsys.readouterr()
    assert token("list") == 1
    printed = capsys.readouterr()
    assert "team-a" in printed.out
    assert printed.err.endswith("tokens.json: is not a mirror of tokens; remove it, and create again what "
                                "`aqueduct token list` does not show\n")  # fmt: skip


def test_without_a_file_the_running_embedded_redis_is_found(
    own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AQUEDUCT_CONFIG", raising=False)
    monkeypatch.setenv("AQUEDUCT_DATA_DIR", str(tmp_path / "data"))
    assert main(["token", "create", "team-a"]) == 2
    assert "AQUEDUCT_REDIS_URL" in capsys.readouterr().err
    (tmp_path / "data" / "redis").mkdir(parents=True)
    (tmp_path / "data" / "redis" / "url").write_text(own_redis.url)
    assert main(["token", "create", "team-a"]) == 0
    assert [record.name for record in stored(own_redis, tmp_path)] == ["team-a"]
