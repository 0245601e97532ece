"""Chat completions made with `store: true`, by OpenAI's own client: kept, listed, changed and deleted."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.relay import Relay
from tests.support.scripted_server import scripted_server
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

MODELS = {
    "m": model("prefix=1&tokens=3"),
    "other": model("tokens=2"),
    "slow": model("tokens=20&token_seconds=0.1", concurrency=1),
    "large": model("huge=1000000"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module")
def system(folder: Path, module_redis: RedisServer, demo_backend: DemoBackend) -> Iterator[System]:
    with System(
        folder, redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS,
        tokens={"other": {}}, settings={"storage": {"url": f"file://{folder}/store"}},
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module", params=["", "/v1"])
def sdk(system: System, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    url = system.base_url + request.param
    with OpenAI(base_url=url, api_key=system.token, max_retries=0, timeout=20) as client:
        yield client


def ask(sdk: OpenAI, text: str = "hello", model: str = "m", **more: Any) -> Any:
    return sdk.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], **{"store": True, **more}
    )


def test_a_stored_completion_is_found_again(sdk: OpenAI) -> None:
    made = ask(sdk, temperature=0.5, metadata={"run": "a"})
    found = sdk.chat.completions.retrieve(made.id)
    assert (found.id, found.model, found.choices, found.usage) == (made.id, "m", made.choices, made.usage)
    shown = found.model_dump()
    assert (shown["metadata"], shown["temperature"], shown["tools"]) == ({"run": "a"}, 0.5, None)
    assert shown["request_id"] == "req_" + made.id.removeprefix("chatcmpl-")


def test_one_that_was_not_to_be_stored_is_not(sdk: OpenAI) -> None:
    made = ask(sdk, store=False)
    with pytest.raises(openai.NotFoundError, match="store: true"):
        sdk.chat.completions.retrieve(made.id)


def test_lists_filter_and_go_on_from_page_to_page(sdk: OpenAI) -> None:
    mark = str(time.time_ns())
    made = [ask(sdk, metadata={"mark": mark, "odd": str(n % 2)}).id for n in range(5)]
    other = ask(sdk, model="other", metadata={"mark": mark}).id
    listed = sdk.chat.completions.list(metadata={"mark": mark})
    assert [one.id for one in listed] == [*made, other]
    assert [one.id for one in sdk.chat.completions.list(metadata={"mark": mark}, limit=2)] == [*made, other]
    newest = sdk.chat.completions.list(metadata={"mark": mark}, limit=2, order="desc")
    assert [one.id for one in newest.data] == [other, made[4]] and newest.has_more
    assert [one.id for one in newest] == [other, *made[::-1]]
    assert [one.id for one in sdk.chat.completions.list(model="other", metadata={"mark": mark})] == [other]
    odd = sdk.chat.completions.list(metadata={"mark": mark, "odd": "1"}, limit=1)
    assert [one.id for one in odd] == [made[1], made[3]]
    assert [*sdk.chat.completions.list(metadata={"mark": mark, "odd": "2"})] == []
    sdk.chat.completions.delete(made[1])
    behind = sdk.chat.completions.list(metadata={"mark": mark}, after=made[1], limit=2)
    assert ([one.id for one in behind.data], behind.has_more) == ([made[2], made[3]], True)
    with pytest.raises(openai.NotFoundError, match="to list from"):
        sdk.chat.completions.list(after="chatcmpl-no")


def test_metadata_changes_and_lists_follow(sdk: OpenAI) -> None:
    mark = str(time.time_ns())
    made = ask(sdk, metadata={"mark": mark})
    changed = sdk.chat.completions.update(made.id, metadata={"mark": mark + "b", "new": "yes"})
    assert changed.model_dump()["metadata"] == {"mark": mark + "b", "new": "yes"}
    assert changed.choices == made.choices
    assert [*sdk.chat.completions.list(metadata={"mark": mark})] == []
    assert [one.id for one in sdk.chat.completions.list(metadata={"new": "yes", "mark": mark + "b"})] == [made.id]
    assert sdk.chat.completions.retrieve(made.id) == changed
    assert sdk.chat.completions.update(made.id, metadata=None).model_dump()["metadata"] == {}


def test_messages_are_listed_with_ids_and_parts(sdk: OpenAI) -> None:
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts: Any = [{"type": "text", "text": "what is this?"}, picture]
    made = sdk.chat.completions.create(
        model="other", store=True,
        messages=[
            {"role": "system", "content": "short"}, {"role": "user", "content": parts},
            {"role": "assistant", "content": "a cat"}, {"role": "user", "content": "sure?", "name": "ann"},
        ],
    )  # fmt: skip
    listed = [*sdk.chat.completions.messages.list(made.id, limit=2)]
    assert [one.id for one in listed] == [f"{made.id}-{n}" for n in range(4)]
    assert [(one.role, one.content) for one in listed] == [
        ("system", "short"), ("user", None), ("assistant", "a cat"), ("user", "sure?")
    ]  # fmt: skip
    assert [part.model_dump(exclude_none=True) for part in listed[1].content_parts or []] == parts
    assert [one.content_parts for one in listed if one is not listed[1]] == [None] * 3
    newest = sdk.chat.completions.messages.list(made.id, order="desc", limit=1)
    assert [one.id for one in newest.data] == [f"{made.id}-3"] and newest.has_more
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.messages.list("chatcmpl-no")


def test_a_deleted_completion_is_gone_for_good(sdk: OpenAI, folder: Path) -> None:
    made = ask(sdk)
    gone = sdk.chat.completions.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "chat.completion.deleted", True)
    for call in (
        sdk.chat.completions.retrieve, sdk.chat.completions.delete, sdk.chat.completions.messages.list,
        lambda one: sdk.chat.completions.update(one, metadata={}),
    ):  # fmt: skip
        with pytest.raises(openai.NotFoundError, match="No stored completion"):
            call(made.id)
    digits = made.id.removeprefix("chatcmpl-")
    assert not [path for path in (folder / "store").rglob("*") if path.is_file() and digits in str(path)]


def test_another_token_has_none_of_it(system: System, sdk: OpenAI) -> None:
    mark = str(time.time_ns())
    made = ask(sdk, metadata={"mark": mark})
    with OpenAI(base_url=sdk.base_url, api_key=system.tokens["other"], max_retries=0) as other:
        assert [*other.chat.completions.list(metadata={"mark": mark})] == []
        for call in (
            other.chat.completions.retrieve, other.chat.completions.delete, other.chat.completions.messages.list,
            lambda one: other.chat.completions.update(one, metadata={}),
        ):  # fmt: skip
            with pytest.raises(openai.NotFoundError):
                call(made.id)
    assert sdk.chat.completions.retrieve(made.id).id == made.id


def test_a_long_answer_to_a_long_question_is_whole(sdk: OpenAI) -> None:
    question = "x" * 300_000
    made = ask(sdk, question, model="large")
    assert len(made.choices[0].message.content) >= 1_000_000
    assert sdk.chat.completions.retrieve(made.id).choices == made.choices
    (asked,) = sdk.chat.completions.messages.list(made.id)
    assert asked.content == question


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("GET", "?limit=0", None, 400, "limit"), ("GET", "?limit=101", None, 400, "limit"),
        ("GET", "?order=up", None, 400, "order"), ("GET", "/chatcmpl-x", None, 404, "completion_id"),
        ("POST", "/chatcmpl-x", {}, 400, "metadata"), ("POST", "/chatcmpl-x", {"metadata": 1}, 400, "metadata"),
        ("POST", "/chatcmpl-x", {"metadata": {"a": 1}}, 400, "metadata"),
        ("POST", "/chatcmpl-x", {"metadata": {"a" * 65: "b"}}, 400, "metadata"),
        ("POST", "/chatcmpl-x", {"metadata": {}, "model": "m"}, 400, "model"),
        ("POST", "/chatcmpl-x", {"metadata": {}}, 404, "completion_id"),
    ],
)  # fmt: skip
def test_refusals_name_what_is_wrong(
    system: System, method: str, path: str, body: dict[str, Any] | None, status: int, param: str
) -> None:
    with system.client() as client:
        answer = client.request(method, f"/v1/chat/completions{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_a_store_that_is_away_harms_no_answer_and_gets_all_later(system: System, sdk: OpenAI, folder: Path) -> None:
    home = folder / "store" / "completions"
    ask(sdk)
    wait_until(home.is_dir, 10, "the first completion")
    away = folder / "away"
    shutil.move(home, away)
    home.write_bytes(b"")  # in its place stands what nothing can be put into
    try:
        made = ask(sdk, metadata={"while": "away"})
        assert made.choices[0].finish_reason == "stop"
        wait_until(lambda: "answers wait to be stored" in system.logs(), 10, "the log to tell of it")
        with pytest.raises(openai.InternalServerError) as refused:
            sdk.chat.completions.retrieve(made.id)
        assert (refused.value.status_code, refused.value.code) == (503, "storage_unavailable")
    finally:
        home.unlink()
        shutil.move(away, home)
    wait_until(lambda: ids(sdk, **{"while": "away"}) == [made.id], 15, "it")
    wait_until(lambda: "answers are stored again" in system.logs(), 10, "the log to tell of that too")
    sdk.chat.completions.delete(made.id)


def test_a_full_store_harms_no_answer_holds_up_no_other_and_gets_it_later(system: System, sdk: OpenAI) -> None:
    assert system.api is not None
    limits = resource.prlimit(system.api.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(system.api.pid, resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        large = ask(sdk, model="large", metadata={"store": "full"})
        assert len(large.choices[0].message.content) >= 1_000_000
        wait_until(lambda: "The file store is full" in system.logs(), 10, "the log to tell of it")
        small = ask(sdk, metadata={"store": "full"})
        assert sdk.chat.completions.retrieve(large.id).choices == large.choices, "it is shown out of Redis"
        wait_until(lambda: ids(sdk, store="full") == [small.id], 15, "the small one to be stored")
    finally:
        resource.prlimit(system.api.pid, resource.RLIMIT_FSIZE, limits)
    wait_until(lambda: ids(sdk, store="full") == [large.id, small.id], 15, "the large one to be stored")
    for made in (large, small):
        sdk.chat.completions.delete(made.id)


def ids(sdk: OpenAI, **metadata: str) -> list[str]:
    return [one.id for one in sdk.chat.completions.list(metadata=metadata)]


def test_without_a_store_nothing_is_kept_and_the_routes_say_why(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    given: dict[str, Any] = {"redis_url": own_redis.url, "backend_url": demo_backend.url, "models": {"m": model()}}
    with System(tmp_path, **given) as system, system.client() as client, own_redis.client() as redis:
        made = client.post(
            "/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "stored?"}], "store": True},
        ).raise_for_status()
        assert [record["body"]["store"] for record in demo_backend.seen("stored?")] == [True]
        assert not redis.exists("aq2:results:stored")
        path = f"/v1/chat/completions/{made.json()['id']}"
        answers: list[httpx.Response] = [
            client.get("/v1/chat/completions"), client.get(path), client.delete(path),
            client.get(f"{path}/messages"), client.get(f"{path}/events"), client.post(path, json={"metadata": {}}),
        ]  # fmt: skip
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "storage_not_set_up")
        assert "storage.url" in answer.json()["error"]["message"]


def test_an_answer_that_is_nested_deeply_is_shown_and_listed(tmp_path: Path, own_redis: RedisServer) -> None:
    body = b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    body += b'"message":{"role":"assistant","content":"hi"}}],"more":' + b"[" * 300 + b"]" * 300 + b"}"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    with scripted_server([head % len(body) + body]) as backend, System(
        tmp_path, redis_url=own_redis.url, backend_url=backend.url, models={"m": {"backends": [{}]}},
        settings={"storage": {"url": f"file://{tmp_path}/store"}},
    ) as system, system.client() as client:  # fmt: skip
        asked = {"model": "m", "messages": [{"role": "user", "content": "x"}], "store": True}
        made = client.post("/v1/chat/completions", json=asked).raise_for_status().json()
        wait_until(lambda: client.get("/v1/chat/completions").raise_for_status().json()["data"], 10, "it to be listed")
        shown = client.get(f"/v1/chat/completions/{made['id']}").raise_for_status().json()
        assert (shown["more"], shown["choices"]) == (made["more"], made["choices"])


def test_a_plain_request_outlives_its_clients_read_timeout_in_the_queue(system: System, sdk: OpenAI) -> None:
    mark = str(time.time_ns())
    with system.client() as client:
        body = {"model": "slow", "messages": [{"role": "user", "content": "x"}]}
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as before:
            rest = before.iter_bytes()
            next(rest)
            with pytest.raises(httpx.ReadTimeout):
                client.post(
                    "/v1/chat/completions", json={**body, "store": True, "metadata": {"mark": mark}}, timeout=1,
                    headers={"x-stainless-read-timeout": "1"},
                )  # fmt: skip
            for _ in rest:
                pass
    listed = [*sdk.chat.completions.list(metadata={"mark": mark})]
    assert listed == [], "the slot was free only just now"
    wait_until(lambda: [*sdk.chat.completions.list(metadata={"mark": mark})], 15, "the answer")


def test_a_request_that_was_told_503_is_not_stored(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    with (
        Relay(own_redis.port) as line,
        System(
            tmp_path, redis_url=line.through(own_redis.url), backend_url=demo_backend.url, models=MODELS,
            settings={"storage": {"url": f"file://{tmp_path}/store"}},
        ) as system,
        system.client() as client,
        own_redis.client() as redis,
    ):  # fmt: skip
        body = {"model": "slow", "messages": [{"role": "user", "content": "lost reply"}], "store": True}
        line.latency_seconds = 0.5
        with ThreadPoolExecutor(1) as clients:
            asked = clients.submit(client.post, "/v1/chat/completions", json=body)
            made = wait_until(lambda: redis.keys("aq2:job:*"), 10, "the job")
            line.stall()  # it is there, and the answer back is not
            refused = asked.result(20)
        line.latency_seconds = 0.0
        line.resume()
        assert refused.status_code == 503
        wait_until(lambda: not redis.exists(*made), 10, "the job to be dropped")
        wait_until(lambda: client.get("/readyz").status_code == 200, 10, "the API to be there again")
        listed = client.get("/v1/chat/completions").json()
        assert listed["data"] == []
