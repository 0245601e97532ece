"""`aqueduct group`: made, shown, changed and removed, against a real Redis; and tokens that are put into one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from api.tokens import TokenTable
from aqueduct.cli import main
from shared.catalogue import Catalogue
from shared.config import load_settings
from shared.errors import PermissionDenied
from shared.groups import GroupStore
from shared.keys import GROUPS
from shared.redis_sync import connect
from shared.tokens import restore_from_mirror
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer

Run = Callable[..., int]


@pytest.fixture
def config(tmp_path: Path, own_redis: RedisServer) -> Path:
    path = tmp_path / "aqueduct.yaml"
    path.write_text(
        f"""\
models: {{llama: {{aliases: [fast], backends: [{{url: 'http://127.0.0.1:1/v1'}}]}}}}
groups: [{{name: fixed, weight: 3}}]
tokens: [{{name: static, sha256: {"ab" * 32}, group: fixed}}]
redis_url: {own_redis.url}
data_dir: {tmp_path / "data"}
"""
    )
    return path


@pytest.fixture
def run(config: Path) -> Run:
    return lambda *arguments: main([*arguments, "--config", str(config)])


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_groups_are_made_changed_shown_and_removed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("group", "create", "team", "--models", "fast", "--weight", "2", "--requests-per-minute", "60") == 0
    assert run("group", "set", "team", "--requests-per-minute", "none", "--lane", "flex") == 0
    assert run("token", "create", "anna", "--group", "team") == 0
    capsys.readouterr()
    assert run("group", "list", "--json") == 0
    fixed, team = json.loads(capsys.readouterr().out)
    assert (fixed["name"], fixed["static"], fixed["tokens"]) == ("fixed", True, ["static"])
    assert (team["name"], team["static"], team["tokens"], team["weight"]) == ("team", False, ["anna"], 2)
    assert (team["models"], team["lane"], team["requests_per_minute"]) == (["fast"], "flex", None)
    assert run("group", "list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["NAME", "fixed", "team"]
    assert run("group", "show", "team") == 0
    assert "anna" in capsys.readouterr().out
    assert run("group", "delete", "team") == 1
    assert "tokens are in the group 'team': anna; put each into another by `aqueduct token set" in told(capsys)
    assert run("token", "set", "anna", "--group", "none") == 0
    capsys.readouterr()
    assert run("group", "delete", "team", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"name": "team", "deleted": True}
    assert run("group", "delete", "team", "--json") == 1
    assert "no group is called 'team'" in told(capsys)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["token", "create", "x", "--group", "fixd"], 2, "--group: no group is called 'fixd'; did you mean 'fixed'?"),
        (["group", "create", "fixed"], 1, "a group named 'fixed' stands in the configuration file"),
        (["group", "set", "fixed", "--weight", "2"], 1, "'fixed' stands in the configuration file; change it there"),
        (["group", "delete", "fixed"], 1, "'fixed' stands in the configuration file; remove it there"),
        (["group", "set", "nobody", "--weight", "2"], 1, "no group is called 'nobody'"),
        (["group", "set", "nobody"], 2, "name what to change, such as --weight 2"),
        (["group", "create", "a b"], 2, "NAME: may hold only letters, digits and . _ @ - (is 'a b')"),
        (["group", "create", "none"], 2, "NAME: must be another name: 'none' says that there is no group"),
        (["group", "create", "-"], 2, "NAME: must be another name: '-' says that there is no group"),
        (["token", "create", "x", "--group", "-"], 2, "--group: must be another name: '-' says that there is no group"),
        (["group", "create", "a", "--weight", "0"], 2, "--weight: must be at least 0.001 (is 0.0)"),
        (["group", "create", "a", "--models", "none-such"], 2, "--models: no model is called 'none-such'"),
    ],
)
def test_what_is_wrong_is_told_with_its_fix(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, text: str
) -> None:
    assert run(*arguments) == status
    assert text in told(capsys)


def test_a_group_is_made_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("group", "create", "team") == 0
    assert run("group", "create", "team") == 1
    assert "a group named 'team' exists already" in told(capsys)


def test_the_mirror_restores_groups_that_redis_lost(run: Run, own_redis: RedisServer, tmp_path: Path) -> None:
    assert run("group", "create", "team", "--weight", "2") == 0
    mirror = tmp_path / "data" / "groups.json"
    assert mirror.stat().st_mode & 0o777 == 0o600
    with connect(own_redis.url) as client:
        client.flushall()
        assert restore_from_mirror(client, mirror, GROUPS) == 1
        assert [group.weight for group in GroupStore(client, tmp_path / "data").list()] == [2]
        assert GroupStore(client, tmp_path / "data").delete("team")
        assert restore_from_mirror(client, mirror, GROUPS) == 0  # a deleted last one is not taken for a loss


@asynchronous
async def test_api_processes_find_created_groups_and_what_becomes_of_them(
    run: Run, config: Path, own_redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    table = TokenTable(Catalogue(load_settings(config)))
    with connect(own_redis.url) as client:

        async def call(*words: str) -> object:
            return client.execute_command(*words)

        assert run("group", "create", "team", "--models", "fast", "--lane", "flex") == 0
        assert run("token", "create", "anna", "--group", "team") == 0
        header = b"Bearer " + capsys.readouterr().out.splitlines()[-1].encode()
        await table.refresh(call)
        anna = table.authenticate(header)
        assert (anna.lane, anna.in_group and anna.in_group.name) == ("flex", "team")
        assert run("group", "set", "team", "--weight", "5") == 0
        await table.refresh(call)
        changed = table.authenticate(header).in_group
        assert changed is not None
        assert changed.weight == 5
        client.hdel(GROUPS, "team")  # two at once: it was deleted while the token was put into it
        await table.refresh(call)
        with pytest.raises(PermissionDenied, match="The group 'team' of this API key is gone"):
            table.authenticate(header)
        client.delete(GROUPS)  # lost, not deleted: the mirror has them
        assert run("group", "set", "team", "--weight", "1") == 0
        await table.refresh(call)
        client.delete(GROUPS)  # the last known ones stay
        await table.refresh(call)
        assert table.authenticate(header).in_group is not None
