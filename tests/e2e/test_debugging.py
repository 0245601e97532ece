"""Prompts and answers of one token in the log, for a while, because an operator asked; of no other one, and no keys."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aqueduct.cli import main
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

MODELS = {"echo": model("prefix=1&tokens=2"), "refuses": model("status=400&code=bad_thing&message=own+words")}
KEY = "sk-live-0123456789abcdefgh"


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    with System(
        tmp_path_factory.mktemp("system"), redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS,
        tokens={"seen": {}, "other": {}, "third": {}, "boss": {"role": "operator"}, "looks": {"role": "viewer"}},
        settings={"log_format": "json"},
    ) as running:  # fmt: skip
        yield running


def run(system: System, *words: str) -> int:
    return main([*words, "--config", str(system.config_file)])


def lines(system: System, **wanted: Any) -> list[dict[str, Any]]:
    """Return the lines of the switch that say this."""
    assert system.api is not None
    told = [json.loads(line) for line in system.api.log().splitlines()]
    return [line for line in told if line["logger"] == "aqueduct.debug" and wanted.items() <= line.items()]


ON = "prompts and answers of a token are logged"
OFF = f"{ON} no more"


def count(system: System, message: str) -> int:
    """Return how often the API has said so of the token."""
    return len(lines(system, message=message, tenant="seen"))


def switched(system: System, message: str, before: int) -> None:
    """Wait until it says so once more."""
    wait_until(lambda: count(system, message) == before + 1, 20, message)


def both(system: System, request_id: str) -> list[dict[str, Any]]:
    """Return the lines of a request's prompt and answer."""
    return wait_until(lambda: lines(system, request_id=request_id)[1:] and lines(system, request_id=request_id))


def ask(system: System, token: str, name: str, text: str, **more: Any) -> str:
    with system.client(system.tokens[token]) as client:
        answer = client.post(CHAT, json={**chat_body(name, text), **more})
    return str(answer.headers["x-request-id"])


def test_one_tokens_prompts_and_answers_are_logged_until_the_end_and_no_others(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    ons, offs = count(system, ON), count(system, OFF)
    ask(system, "seen", "echo", "before")
    assert run(system, "token", "debug", "seen", "--for", "1h", "--max-bytes", "2000") == 0
    assert "are logged until" in capsys.readouterr().err
    switched(system, ON, ons)
    plain = ask(system, "seen", "echo", f"plain-words {KEY} {system.tokens['seen']}")
    stream = ask(system, "seen", "echo", "stream-words", stream=True)
    refused = ask(system, "seen", "refuses", "refused-words")
    unknown = ask(system, "seen", "none", "unknown-words")
    long = ask(system, "seen", "echo", "x" * 5000)
    ask(system, "other", "echo", "words-of-another")
    said = {one: both(system, one) for one in (plain, stream, refused, unknown, long)}
    for one, prompt, answer in (
        (plain, "plain-words", "plain-words"), (stream, "stream-words", "data: [DONE]"),
        (refused, "refused-words", "bad_thing"), (unknown, "unknown-words", "model_not_found"),
    ):  # fmt: skip
        first, last = said[one]
        assert (first["message"], last["message"]) == ("prompt", "answer")
        assert prompt in first["text"] and answer in last["text"]
    assert [line["status"] for line in (said[plain][1], said[refused][1], said[unknown][1])] == [200, 400, 404]
    assert [len(line["text"]) for line in said[long]] == [2000, 2000]
    assert said[long][0]["bytes"] > 5000
    assert system.api is not None
    log = system.api.log()
    assert not any(word in log for word in (KEY, system.tokens["seen"], "before", "words-of-another"))
    assert run(system, "queues", "--once") == 0
    assert "Prompts and answers of seen are logged for" in capsys.readouterr().out
    assert run(system, "token", "debug", "seen", "--off") == 0
    switched(system, OFF, offs)
    ask(system, "seen", "echo", "afterwards")
    assert run(system, "queues", "--once") == 0
    assert "are logged" not in capsys.readouterr().out
    assert run(system, "audit") == 0
    told = capsys.readouterr().out
    assert "token.debug" in told and "on for 3600 s, 2000 bytes a line" in told
    assert "afterwards" not in system.api.log()


def test_it_ends_by_itself_and_redis_keeps_it_no_longer(system: System, module_redis: RedisServer) -> None:
    ons, offs = (
        len(lines(system, message=f"prompts and answers of a token are logged{more}")) for more in ("", " no more")
    )
    assert run(system, "token", "debug", "seen", "--for", "9s") == 0
    with module_redis.client() as client:
        assert 0 < int(client.pttl("aq2:debug")) <= 9000
        switched(system, ON, ons)
        wait_until(lambda: not client.exists("aq2:debug"), 20, "its end in Redis")
    ask(system, "seen", "echo", "too-late")
    switched(system, OFF, offs)
    assert system.api is not None
    assert "too-late" not in system.api.log()


def test_operators_switch_it_over_http_and_others_may_not(system: System) -> None:
    path = "/admin/v1/tokens/third/debug"
    for token in ("seen", "looks"):
        with system.client(system.tokens[token]) as client:
            assert client.post(path, json={}).status_code == 403
            assert client.delete(path).status_code == 403
    with system.client(system.tokens["boss"]) as client:
        assert client.post("/admin/v1/tokens/nobody/debug").status_code == 404
        for bad in ({"seconds": 0}, {"seconds": 90_000}, {"max_bytes": 1}, {"minutes": 5}):
            assert client.post(path, json=bad).status_code == 400
        made = client.post(path, json={"seconds": 60, "max_bytes": 100}).json()
        assert (made["token"], made["max_bytes"], made["by"]) == ("third", 100, "boss")
        with system.client(system.tokens["looks"]) as viewer:
            assert viewer.get("/admin/v1/debug").json()["data"] == [made]
        assert client.delete(path).json()["ended"] is True
        assert client.get("/admin/v1/debug").json()["data"] == []
        entries = client.get("/admin/v1/audit").json()["data"]
        assert [(one["action"], one["by"], one["outcome"]) for one in entries[:2]] == [
            ("token.debug", "boss", "off"), ("token.debug", "boss", "on for 60 s, 100 bytes a line"),
        ]  # fmt: skip


def test_a_span_is_written_as_elsewhere(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    for span, least in (("0.2s", 0), ("1.5h", 5000), ("1d", 80_000)):
        assert run(system, "token", "debug", "seen", "--for", span, "--json") == 0
        assert json.loads(capsys.readouterr().out)["until"] >= int(time.time()) + least
    assert run(system, "token", "debug", "seen", "--off") == 0


@pytest.mark.parametrize("span", ["10", "0m", "2d", "25h", "x"])
def test_a_span_that_is_none_is_refused(system: System, span: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(system, "token", "debug", "seen", "--for", span) == 2
    assert "--for" in capsys.readouterr().err


def test_a_token_that_is_revoked_is_logged_no_more_nor_is_the_next_of_its_name(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(system, "token", "create", "temporary") == 0
    assert run(system, "token", "debug", "temporary", "--for", "1h") == 0
    assert run(system, "token", "revoke", "temporary") == 0
    assert run(system, "token", "debug", "temporary") == 1  # there is none
    assert run(system, "token", "create", "temporary") == 0
    capsys.readouterr()
    assert run(system, "queues", "--once", "--json") == 0
    assert json.loads(capsys.readouterr().out)["debug"] == []
