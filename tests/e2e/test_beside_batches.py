"""People and batches on one model: who waits for whom, seen from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import redis
import yaml

from shared import keys
from shared.batches.record import Status
from shared.broker import batch_ticket
from shared.jobs import new_id
from tests.support.batches import BatchStore, chat_line
from tests.support.calls import Call, wait_for_content
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

LONG = "tokens=30&token_seconds=0.1"
MODELS = {
    "m": model(LONG, concurrency=2, preempt_batch_after_ms=100),
    "patient": model(LONG, concurrency=2),
    "changed": model(LONG, concurrency=2),
}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBackend]:
    """Its own, whose calls are counted."""
    with DemoBackend(tmp_path_factory.mktemp("backend")) as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BatchStore:
    return BatchStore(Path(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, backend: DemoBackend, store: BatchStore
) -> Iterator[System]:
    with System(
        tmp_path_factory.mktemp("system"),
        redis_url=module_redis.url,
        backend_url=backend.url,
        models=MODELS,
        settings={"storage": {"url": store.url}},
        workers=((), ()),
    ) as running:
        yield running


def _submit(system: System, store: BatchStore, lines: list[dict[str, Any]]) -> str:
    """Put a batch into the store and wake who carries it, as the API does."""
    batch = store.put(lines)
    with redis.Redis.from_url(system.redis_url) as client:
        client.lpush(keys.BATCH_QUEUE, batch_ticket(batch, new_id()))
    return batch


def test_a_line_makes_room_for_somebody_who_waits_and_runs_again(
    system: System, backend: DemoBackend, store: BatchStore
) -> None:
    backend.clear()
    batch = _submit(system, store, [chat_line(name, name) for name in ("first", "second")])
    wait_until(lambda: backend.state()["open_requests"] == 2, 60, "both lines to run")
    call = Call(system, "m", "a person")
    wait_for_content(call)
    assert backend.state()["closed_by_client"] == 1  # its connection, and no other
    call.wait().assert_complete(30)
    ended = store.wait(batch)
    assert (ended.record.status, ended.ids()) == (Status.COMPLETED, ["first", "second"])
    assert sorted(len(backend.seen(name)) for name in ("first", "second", "a person")) == [1, 1, 2]


def test_who_asks_for_flex_has_a_free_slot_or_is_told_that_there_is_none(system: System) -> None:
    def ask(client: openai.OpenAI) -> openai.types.chat.ChatCompletion:
        messages: list[Any] = [{"role": "user", "content": "flex"}]
        return client.chat.completions.create(model="patient", messages=messages, service_tier="flex", max_tokens=1)

    with openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=system.token, max_retries=0) as client:
        assert ask(client).choices
        running = [Call(system, "patient", f"running {n}") for n in range(2)]
        wait_for_content(*running)
        with pytest.raises(openai.RateLimitError) as refused:
            ask(client)
        for call in running:
            call.leave()
    error = refused.value.response.json()["error"]
    assert "No slot of model `patient` is free" in error.pop("message")
    assert error == {"type": "rate_limit_error", "param": "service_tier", "code": "resource_unavailable"}
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert "x-should-retry" not in refused.value.response.headers


def test_without_the_setting_a_line_is_let_end(system: System, backend: DemoBackend, store: BatchStore) -> None:
    backend.clear()
    batch = _submit(system, store, [chat_line(name, name, "patient") for name in ("third", "fourth")])
    wait_until(lambda: backend.state()["open_requests"] == 2, 60, "both lines to run")
    Call(system, "patient", "another").wait().assert_complete(30)
    assert store.wait(batch).record.status == Status.COMPLETED
    assert backend.state()["closed_by_client"] == 0
    assert [len(backend.seen(name)) for name in ("third", "fourth", "another")] == [1, 1, 1]


def test_a_model_makes_room_from_the_reload_on_that_says_so(
    system: System, backend: DemoBackend, store: BatchStore
) -> None:
    backend.clear()
    content = yaml.safe_load(system.config_file.read_text())
    content["models"]["changed"]["preempt_batch_after_ms"] = 100
    system.config_file.write_text(yaml.safe_dump(content))
    process = system.command("reload").start()
    assert process.wait(30) == 0, process.log()
    batch = _submit(system, store, [chat_line(name, name, "changed") for name in ("fifth", "sixth")])
    wait_until(lambda: backend.state()["open_requests"] == 2, 60, "both lines to run")
    call = Call(system, "changed", "a third")
    wait_for_content(call)
    assert backend.state()["closed_by_client"] == 1
    call.wait()
    assert store.wait(batch).ids() == ["fifth", "sixth"]
