"""The configuration is read again while it is used: what runs and waits notices nothing, a bad file changes nothing."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from shared import keys
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import Process, RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

QUICK = model("tokens=2&prefix=1")
SLOW = model("tokens=10&token_seconds=0.1&prefix=1")
RELOADS = 20


@pytest.fixture
def system(tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend) -> Iterator[System]:
    with System(
        tmp_path, redis_url=own_redis.url, backend_url=demo_backend.url, models={"m": QUICK, "slow": SLOW},
        tokens={"other": {"models": ["m"]}}, workers=((), ("m",)),
    ) as running:  # fmt: skip
        yield running


def reload(system: System, status: int = 0) -> dict[str, Any]:
    """Have all processes reload, as an operator does; returns what they said."""
    process = system.command("reload", "--json")
    process.start()
    assert process.wait(30) == status, process.log()
    told: dict[str, Any] = json.loads(process.log().splitlines()[-1])
    process.log_file.unlink()
    return told


def ask(system: System, name: str, token: str | None = None, **more: Any) -> int:
    with system.client(token) as client:
        return client.post(CHAT, json=chat_body(name, **more)).status_code


class Callers:
    """Threads that ask for whole answers and streams until they are told to stop."""

    def __init__(self, system: System, count: int = 6) -> None:
        self._system = system
        self._over = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._ask, args=(at,)) for at in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self, at: int) -> None:
        with self._system.client() as client:
            while not self._over.is_set():
                answer = client.post(CHAT, json=chat_body("slow" if at == 0 else "m", stream=at % 2 == 0))
                whole = answer.text.endswith("data: [DONE]\n\n") if at % 2 == 0 else answer.text.endswith("}")
                self.outcomes[f"{answer.status_code} {'whole' if whole else answer.text}"] += 1


def test_twenty_reloads_under_load_lose_and_refuse_nothing(system: System, own_redis: RedisServer) -> None:
    with Callers(system) as callers:
        for number in range(RELOADS):
            models = {"m": {**QUICK, "concurrency": 4 + number}, "slow": SLOW}
            if number % 2:
                models[f"new-{number}"] = QUICK
            system.rewrite(models=models, tokens={"other": {"models": ["*"], "requests_per_minute": 1000 + number}})
            told = reload(system)
            assert (told["asked"], len({answer["digest"] for answer in told["answers"]})) == (3, 1)
            assert told["unserved"] == []
            if number % 2:
                assert ask(system, f"new-{number}") == 200
                assert ask(system, f"new-{number}", system.tokens["other"]) == 200
            elif number:
                assert ask(system, f"new-{number - 1}") == 404
    assert set(callers.outcomes) == {"200 whole"}, callers.outcomes
    with own_redis.client() as client:  # Celery's consumer fetches the new models' tickets
        lying = [keys.queue(f"new-{number}") for number in range(RELOADS)]
        wait_until(lambda: not client.exists(*lying), 5, "the tickets to be fetched")
    assert callers.outcomes["200 whole"] > RELOADS


def test_a_bad_file_is_refused_by_all_and_the_last_good_one_stays(system: System) -> None:
    good = system.config_file.read_text()
    assert system.api is not None
    system.config_file.write_text(good.replace("concurrency", "concurency") + "nonsense: 1\n")
    for process in (system.api, *system.workers):
        process.signal(signal.SIGHUP)
        wait_until(partial(_says, process, "the last good one stays: "), 10)
        assert "nonsense: is not a setting" in process.log()
    refusing = system.command("reload").start()
    assert refusing.wait(30) == 2
    assert "nonsense" in refusing.log()
    assert ask(system, "m") == 200
    system.config_file.write_text(good)
    assert [answer["error"] for answer in reload(system)["answers"]] == ["", "", ""]


def test_who_waits_and_who_runs_ends_well_though_the_model_is_removed(system: System) -> None:
    one = {**SLOW, "concurrency": 1}
    system.rewrite(models={"m": QUICK, "slow": one})
    reload(system)
    statuses: list[int] = []
    callers = [threading.Thread(target=lambda: statuses.append(ask(system, "slow"))) for _ in range(3)]
    for caller in callers:
        caller.start()
    wait_until(lambda: _running(system), 10, "one to run")
    system.rewrite(models={"m": QUICK})
    told = reload(system)
    assert told["answers"][0]["changes"] == {"removed": "slow"}
    assert ask(system, "slow") == 404
    for caller in callers:
        caller.join(30)
    assert statuses == [200, 200, 200]


def test_a_changed_backend_serves_the_next_request_and_what_runs_ends_at_the_old_one(
    system: System, tmp_path: Path
) -> None:
    texts: list[str] = []
    with DemoBackend(tmp_path / "second") as second, system.client() as client:
        caller = threading.Thread(
            target=lambda: texts.append(client.post(CHAT, json=chat_body("slow", stream=True)).text)
        )
        caller.start()
        wait_until(lambda: _running(system), 10, "it to run")
        system.rewrite(models={"m": QUICK, "slow": model("tokens=2", backend={"url": second.url})})
        reload(system)
        assert ask(system, "slow") == 200
        caller.join(30)
        assert second.state()["total_requests"] == 1
    assert texts[0].endswith("data: [DONE]\n\n")


def test_tokens_of_the_file_come_and_go(system: System) -> None:
    assert ask(system, "slow", system.tokens["other"]) == 404
    system.rewrite(tokens={"other": {"models": ["slow"]}, "third": {}})
    assert reload(system)["answers"][0]["changes"] == {"settings": "tokens"}
    assert ask(system, "slow", system.tokens["other"]) == 200
    assert ask(system, "m", system.tokens["third"]) == 200


def test_what_needs_a_restart_is_named_and_stays(system: System) -> None:
    system.rewrite(settings={"worker": {"slots": 3}, "lanes": {"batch": 2}})
    for answer in reload(system)["answers"]:
        assert answer["changes"] == {"settings": "lanes", "needs_restart": "worker.slots"}
    assert ask(system, "m") == 200


def test_a_model_that_no_worker_serves_is_told(tmp_path: Path, system: System) -> None:
    system.workers[0].stop(20)
    system.rewrite(models={"m": QUICK, "slow": SLOW, "new": QUICK})
    told = reload(system)
    assert told["unserved"] == ["slow", "new"]
    assert ask(system, "new") == 503


def _says(process: Process, words: str) -> bool:
    return words in process.log()


def _running(system: System) -> bool:
    with redis.Redis.from_url(system.redis_url) as client:  # the command would take as long as the job
        return bool(client.zcard(keys.running("slow")))


def test_who_does_not_answer_is_counted_and_what_the_others_said_is_told(
    system: System, own_redis: RedisServer
) -> None:
    with own_redis.client() as client, client.pubsub() as silent:
        silent.subscribe(keys.RELOAD)
        assert silent.get_message(timeout=5)
        told = reload(system, status=1)
    assert (told["asked"], len(told["answers"])) == (4, 3)
    assert [answer["error"] for answer in told["answers"]] == ["", "", ""]


def test_reload_waits_for_a_file_that_is_late(tmp_path: Path, system: System) -> None:
    late = tmp_path / "late"
    late.mkdir()
    content = system.config_file.read_text()
    (late / "aqueduct.yaml").write_text(content + "\n# as the others will be\n")
    ask_to = ("reload", "--wait", "30", "--config", late / "aqueduct.yaml")
    process = Process.python("-m", "aqueduct", *ask_to, log_file=late / "reload.log").start()
    with redis.Redis.from_url(system.redis_url) as client:
        wait_until(lambda: client.exists(keys.AUDIT), 20, "the first try, which finds the former file everywhere")
    assert process.running
    system.config_file.write_text(content + "\n# as the others will be\n")
    assert process.wait(40) == 0, process.log()
    assert process.log().count("nothing has changed") == 3
    system.config_file.write_text(content)
    not_there = Process.python("-m", "aqueduct", *ask_to[:2], "1", *ask_to[3:], log_file=late / "not.log").start()
    assert not_there.wait(40) == 1, not_there.log()
