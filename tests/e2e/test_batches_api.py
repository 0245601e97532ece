"""`/batches` as callers meet it: the object, refusals, pages, cancels, results and retries. No feeder runs here: where
one is needed, the test writes what it would have written.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest

from shared.batches import keys
from shared.batches.record import BatchRecord, Counts, Status, load, moved, save
from shared.batches.results import answered, not_run, refused
from shared.errors import QueueTimeout
from shared.files import Files, tenant_folder
from shared.store import Store, open_store
from tests.e2e.wire import envelope
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System

ENDPOINT: Final = "/v1/chat/completions"
TENANT = tenant_folder("test")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(f"file://{tmp_path_factory.mktemp('files')}/store")


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend, store: Store
) -> Iterator[System]:
    """An API with a store, and over the same Redis a worker that knows of none."""
    given: dict[str, Any] = {"redis_url": module_redis.url, "backend_url": demo_backend.url}
    with (
        System(tmp_path_factory.mktemp("worker"), **given),
        System(
            tmp_path_factory.mktemp("system"),
            **given,
            workers=(),
            tokens={"other": {}, "two": {"max_open_batches": 2}},
            settings={
                "storage": {"url": f"file://{_folder(store)}"},
                "batches": {"shortest_window": "5s", "max_file_bytes": 20_000},
            },
        ) as running,
    ):
        yield running


def _folder(store: Store) -> Path:
    return Path(str(store._backing.prefix))


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[httpx.Client]:
    with system.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def sdk(system: System) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=system.token, max_retries=0) as opened:
        yield opened


def _lines(count: int) -> bytes:
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
    rows = [{"custom_id": f"id{n}", "method": "POST", "url": ENDPOINT, "body": body} for n in range(1, count + 1)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _file(store: Store, data: bytes | None = None, *, purpose: str = "batch", owner: str = "test") -> str:
    async def parts() -> AsyncIterator[bytes]:
        yield _lines(3) if data is None else data

    return asyncio.run(Files(store).create(tenant_folder(owner), "in.jsonl", purpose, parts())).id


def _request(file_id: str, **changes: Any) -> dict[str, Any]:
    request = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h", **changes}
    return {name: value for name, value in request.items() if value is not ...}


def _carry(store: Store, batch_id: str, *statuses: Status, **changes: Any) -> BatchRecord:
    """Move a batch on, as its feeder would."""

    async def carry() -> BatchRecord:
        record = await load(store, TENANT, batch_id)
        assert record is not None
        for at, status in enumerate(statuses):
            record = moved(record, status, record.created_at + at)
        record = replace(record, **changes)
        await save(store, TENANT, record)
        return record

    return asyncio.run(carry())


# --- create and look -----------------------------------------------------------------------------------------------


def test_a_batch_is_made_in_every_member_and_its_copy_outlives_the_file(
    sdk: openai.OpenAI, store: Store, client: httpx.Client
) -> None:
    file_id = _file(store)
    batch = sdk.batches.create(
        input_file_id=file_id,
        endpoint=ENDPOINT,
        completion_window="24h",
        metadata={"team": "a"},
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (batch.status, batch.endpoint, batch.input_file_id) == ("validating", ENDPOINT, file_id)
    assert batch.expires_at == batch.created_at + 86_400
    assert batch.metadata == {"team": "a"}
    assert batch.request_counts is not None and batch.request_counts.total == 0
    given = client.get(f"/v1/batches/{batch.id}").json()
    assert set(given) == set(openai.types.Batch.model_fields)
    assert [name for name, value in given.items() if value == ""] == [], "null, never an empty id"

    async def look() -> tuple[bytes | None, bytes | None, int | None]:
        assert await Files(store).delete(TENANT, file_id)
        record = await load(store, TENANT, batch.id)
        assert record is not None
        copy, marker = keys.input_copy(TENANT, batch.id), keys.open_marker(batch.id)
        return await store.get(copy), await store.get(marker), record.output_expires_seconds

    assert asyncio.run(look()) == (_lines(3), keys.open_mark(TENANT, batch.expires_at or 0), 3600)


def test_a_new_batch_rings_for_a_feeder(client: httpx.Client, store: Store, module_redis: RedisServer) -> None:
    redis = module_redis.client()
    redis.delete("aqueduct-batches")
    batch = client.post("/batches", json=_request(_file(store))).json()
    (ticket,) = redis.lrange("aqueduct-batches", 0, -1)
    redis.close()
    assert batch["id"] in json.loads(ticket)["headers"]["argsrepr"]


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input_file_id": ...}, "input_file_id", "missing_required_parameter"),
    ({"endpoint": ...}, "endpoint", "missing_required_parameter"),
    ({"completion_window": ...}, "completion_window", "missing_required_parameter"),
    ({"input_file_id": 7}, "input_file_id", "invalid_type"),
    ({"endpoint": None}, "endpoint", "invalid_type"),
    ({"endpoint": "/v1/responses"}, "endpoint", "invalid_value"),
    ({"endpoint": "/chat/completions"}, "endpoint", "invalid_value"),
    ({"completion_window": "25"}, "completion_window", "invalid_value"),
    ({"completion_window": "8d"}, "completion_window", "invalid_value"),
    ({"completion_window": "4s"}, "completion_window", "invalid_value"),
    ({"metadata": {"k": 1}}, "metadata", "invalid_type"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
    ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor", "invalid_value"),
    (
        {"output_expires_after": {"anchor": "created_at", "seconds": 3599}},
        "output_expires_after.seconds",
        "integer_below_min_value",
    ),
    ({"model": "demo"}, "model", "unknown_parameter"),
]


@pytest.mark.parametrize(("changes", "param", "code"), BAD)
def test_a_bad_request_is_refused_by_name(
    client: httpx.Client, store: Store, changes: dict[str, Any], param: str, code: str
) -> None:
    answer = client.post("/v1/batches", json=_request(_file(store), **changes))
    envelope(answer, 400, param=param, code=code)


def test_files_that_are_none_of_the_callers_or_for_something_else_are_refused(
    client: httpx.Client, store: Store
) -> None:
    for file_id in ("file-" + "0" * 32, "nonsense", "../x", _file(store, owner="other")):
        answer = client.post("/v1/batches", json=_request(file_id))
        envelope(answer, 404, param="input_file_id", code="not_found")
    answer = client.post("/v1/batches", json=_request(_file(store, purpose="user_data")))
    envelope(answer, 400, param="input_file_id", code="invalid_value")
    answer = client.post("/v1/batches", json=_request(_file(store, b"x" * 20_001)))
    envelope(answer, 400, param="input_file_id", code="file_too_large")


def test_another_tenants_batch_is_not_there(client: httpx.Client, store: Store, system: System) -> None:
    batch_id = client.post("/batches", json=_request(_file(store))).json()["id"]
    with system.client(system.tokens["other"]) as other:
        calls = [("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "/results")]
        for method, path in calls:
            for wanted in (batch_id, "batch_0", "..%2F..%2Fx"):
                assert other.request(method, f"/v1/batches/{wanted}{path}").status_code == 404
        assert batch_id not in [batch["id"] for batch in other.get("/v1/batches").json()["data"]]
    assert httpx.get(f"{system.base_url}/v1/batches").status_code == 401


def test_one_key_makes_one_batch_however_many_ask(client: httpx.Client, store: Store) -> None:
    request, headers = _request(_file(store)), {"idempotency-key": uuid.uuid4().hex}
    found: list[str] = []

    def ask() -> None:
        found.append(client.post("/batches", json=request, headers=headers).json()["id"])

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 5 and len(set(found)) == 1
    listed = [batch["id"] for batch in client.get("/batches?limit=100").json()["data"]]
    assert listed.count(found[0]) == 1
    other = client.post("/batches", json={**request, "completion_window": "7d"}, headers=headers)
    envelope(other, 422, code="idempotency_key_reused")
    assert client.post("/batches", json=request).json()["id"] != found[0]


def test_a_token_has_no_more_open_batches_than_it_may(system: System, store: Store) -> None:
    with system.client(system.tokens["two"]) as two:
        request = _request(_file(store, owner="two"))
        first = two.post("/batches", json=request).json()["id"]
        assert two.post("/batches", json=request).status_code == 200
        envelope(two.post("/batches", json=request), 429, code="too_many_open_batches")
        asyncio.run(store.delete(keys.open_marker(first)))
        assert two.post("/batches", json=request).status_code == 200


def test_batches_are_listed_the_newest_first_in_pages(sdk: openai.OpenAI, store: Store, client: httpx.Client) -> None:
    file_id = _file(store)
    made = [client.post("/batches", json=_request(file_id)).json()["id"] for _ in range(5)]
    listed = [batch.id for batch in sdk.batches.list(limit=2)]
    assert listed[:5] == made[::-1] and len(set(listed)) == len(listed)
    page = client.get("/v1/batches", params={"limit": 2, "after": made[4]}).json()
    assert [page["first_id"], page["last_id"], page["has_more"]] == [made[3], made[2], True]
    for query in ("limit=0", "limit=101", "limit=x"):
        assert client.get(f"/v1/batches?{query}").status_code == 400
    envelope(client.get("/v1/batches?after=batch_x"), 404, param="after")


# --- cancel, results, retry ----------------------------------------------------------------------------------------


def test_a_cancel_is_shown_at_once_and_an_ended_batch_refuses_it(
    sdk: openai.OpenAI, client: httpx.Client, store: Store
) -> None:
    batch_id = client.post("/batches", json=_request(_file(store))).json()["id"]
    _carry(store, batch_id, Status.IN_PROGRESS, counts=Counts(3))
    first = sdk.batches.cancel(batch_id)
    assert first.status == "cancelling" and first.cancelling_at
    assert sdk.batches.cancel(batch_id).cancelling_at == first.cancelling_at
    assert sdk.batches.retrieve(batch_id).status == "cancelling"
    assert next(iter(sdk.batches.list())).status == "cancelling"
    _carry(store, batch_id, Status.CANCELLING, Status.CANCELLED)
    assert sdk.batches.cancel(batch_id).status == "cancelled"
    done = client.post("/batches", json=_request(_file(store))).json()["id"]
    _carry(store, done, Status.IN_PROGRESS, Status.FINALIZING, Status.COMPLETED)
    envelope(client.post(f"/batches/{done}/cancel"), 409, code="invalid_batch_status")


def test_counts_and_finish_are_those_that_the_feeder_told(
    client: httpx.Client, store: Store, module_redis: RedisServer
) -> None:
    batch_id = client.post("/batches", json=_request(_file(store))).json()["id"]
    _carry(store, batch_id, Status.IN_PROGRESS, counts=Counts(3))
    assert "x-aqueduct-estimated-finish" not in client.get(f"/batches/{batch_id}").headers
    redis = module_redis.client()
    told: dict[Any, Any] = {"total": 3, "completed": 1, "failed": 1, "finish_at": 1024}
    redis.hset(f"aq2:batch:{batch_id}", mapping=told)
    redis.close()
    answer = client.get(f"/batches/{batch_id}")
    assert answer.json()["request_counts"] == {"total": 3, "completed": 1, "failed": 1}
    assert answer.headers["x-aqueduct-estimated-finish"] == "1024"


def _segments(store: Store, batch_id: str) -> None:
    ends = [
        answered(2, "id2", "2" * 32, b'{"x":1}', None),
        refused(1, "id1", "1" * 32, QueueTimeout("Late.")),
        not_run(3, "id3", "3" * 32, "batch_expired"),
    ]

    async def write() -> None:
        for number, end in enumerate(ends):
            key = keys.segment(TENANT, batch_id, number, before=number, count=1, writer="0a")
            await store.put(key, end.to_line())

    asyncio.run(write())


def test_results_are_read_while_the_batch_runs_and_on_from_any_place(client: httpx.Client, store: Store) -> None:
    batch_id = client.post("/batches", json=_request(_file(store))).json()["id"]
    assert client.get(f"/batches/{batch_id}/results").content == b""
    _carry(store, batch_id, Status.IN_PROGRESS, counts=Counts(3))
    _segments(store, batch_id)
    for after in range(5):
        answer = client.get(f"/v1/batches/{batch_id}/results", params={"after": after})
        assert answer.headers["content-type"].startswith("application/jsonl")
        assert answer.headers["x-aqueduct-batch-status"] == "in_progress"
        ids = [json.loads(line)["custom_id"] for line in answer.text.splitlines()]
        assert ids == ["id2", "id1", "id3"][after:]
    assert client.get(f"/batches/{batch_id}/results?after=-1").status_code == 400


def test_a_retry_is_a_batch_of_the_lines_that_did_not_succeed(client: httpx.Client, store: Store) -> None:
    batch_id = client.post("/batches", json=_request(_file(store), metadata={"a": "b"})).json()["id"]
    envelope(client.post(f"/batches/{batch_id}/retry"), 409, code="invalid_batch_status")
    _carry(store, batch_id, Status.IN_PROGRESS)
    _segments(store, batch_id)
    _carry(store, batch_id, Status.FINALIZING, Status.EXPIRED)
    retry = client.post(f"/batches/{batch_id}/retry").json()
    assert (retry["status"], retry["metadata"], retry["endpoint"]) == ("validating", {"a": "b"}, ENDPOINT)
    lines = _lines(3).splitlines(keepends=True)
    assert asyncio.run(store.get(keys.input_copy(TENANT, retry["id"]))) == lines[0] + lines[2]
    good = client.post("/batches", json=_request(_file(store))).json()["id"]
    _carry(store, good, Status.IN_PROGRESS, Status.FINALIZING, Status.COMPLETED)
    envelope(client.post(f"/batches/{good}/retry"), 409, code="nothing_to_retry")
