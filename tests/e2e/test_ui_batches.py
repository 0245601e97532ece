"""Batches as operators see them, on the page and under `/admin/v1`: progress, reasons, cancel, retry."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.test_ui_jobs import fields, notice
from tests.support.batches import CHAT, chat_line
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.ui import Visitor
from tests.support.waiting import wait_until

PROMPT = "a-prompt-that-no-operator-may-see"


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("ui-batches")
    models = {
        "refuses": model("status=400&code=bad_thing"),
        "hangs": model("first_token_seconds=30", concurrency=2, timeout_seconds=60),
    }
    tokens: dict[str, dict[str, Any]] = {
        "op": {"role": "operator"},
        "two": {"role": "operator"},
        "look": {"role": "viewer"},
    }
    with System(
        folder, redis_url=module_redis.url, backend_url=demo_backend.url, models=models, tokens=tokens, workers=((),),
        settings={"storage": {"url": f"file://{folder}/store"}},
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def operator(system: System) -> Iterator[Visitor]:
    with Visitor(system, "op") as visitor:
        yield visitor


def batch(system: System, name: str, lines: int, token: str | None = None) -> str:
    rows = [json.dumps(chat_line(f"line-{number}", PROMPT, name)).encode() for number in range(lines)]
    with system.client(token) as client:
        files: Any = {"file": ("input.jsonl", b"\n".join(rows)), "purpose": (None, "batch")}
        file_id = client.post("/v1/files", files=files).raise_for_status().json()["id"]
        given = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        return str(client.post("/v1/batches", json=given).raise_for_status().json()["id"])


def told(system: System, path: str) -> Any:
    with system.client(system.tokens["look"]) as client:
        return client.get(f"/admin/v1/batches{path}").raise_for_status().json()


def wait_for(system: System, batch_id: str, status: str) -> dict[str, Any]:
    wait_until(lambda: told(system, f"/{batch_id}")["status"] == status, 30, f"the batch to be {status}")
    found: dict[str, Any] = told(system, f"/{batch_id}")
    return found


def test_why_lines_failed_is_told_and_they_run_again_once(system: System, operator: Visitor) -> None:
    batch_id = batch(system, "refuses", 3)
    done = wait_for(system, batch_id, "completed")
    assert (done["failed"], done["failures"], done["may_retry"]) == (3, {"bad_thing": 3}, True)
    page = operator.get(f"/ui/batches?id={batch_id}")
    assert "<code>bad_thing</code>" in page and "Run again what did not succeed" in page and PROMPT not in page
    wait_until(lambda: batch_id in operator.get("/ui/batches?state=ended"), 20, "it to be listed")
    wait_until(lambda: batch_id not in [one["id"] for one in told(system, "")["data"]], 20, "it to be open no more")
    assert batch_id not in operator.get("/ui/batches")
    lines = "/ui/jobs?lane=batch&token=test&state=ended&outcome=refused"
    wait_until(lambda: operator.get(lines).count("400 bad_thing") >= 3, 20, "its lines to be told")
    question = operator.post("/ui/batches/retry", {"id": batch_id})
    assert "that did not succeed?" in question.text
    with Visitor(system, "two") as other:
        answers = [
            one.post("/ui/batches/retry", {**fields(question.text), "csrf": one.csrf}) for one in (operator, other)
        ]
        places = {answer.headers["location"] for answer in answers}
        notices = [notice(one, answer) for one, answer in zip((operator, other), answers, strict=True)]
    assert notices == ["They run again as this new batch.", "They were run again before, as this batch."]
    (place,) = places
    again = wait_for(system, place.partition("=")[2], "completed")
    assert (again["retry_of"], again["failures"], again["token"]) == (batch_id, {"bad_thing": 3}, "test")
    wait_until(lambda: told(system, "?state=all&limit=1")["data"][0]["id"] == again["id"], 20, "it to be the newest")
    assert told(system, "?state=all&limit=1")["has_more"]
    rest = told(system, f"?state=all&after={again['id']}")["data"]
    assert rest[0]["id"] == batch_id
    assert told(system, "?state=all&token=op")["data"] == []
    audit = operator.get("/ui/audit")
    assert audit.count("batch.retry") == 1 and f"as {again['id']}" in audit


def test_a_batch_that_runs_is_cancelled_once(system: System, operator: Visitor) -> None:
    batch_id = batch(system, "hangs", 5)
    wait_for(system, batch_id, "in_progress")
    wait_until(lambda: batch_id in operator.get("/ui/batches/live"), 20, "it to be listed")
    assert batch_id in operator.get("/ui/batches")
    assert "Cancel it" in operator.get(f"/ui/batches/live?id={batch_id}")
    with Visitor(system, "look") as viewer:
        page = viewer.get(f"/ui/batches?id={batch_id}")
        assert "/ui/batches/cancel" not in page and "/ui/batches/retry" not in page
        assert viewer.post("/ui/batches/cancel", {"id": batch_id, "confirmed": "yes"}).status_code == 403
    question = operator.post("/ui/batches/cancel", {"id": batch_id})
    assert f"Cancel {batch_id}?" in question.text
    assert wait_for(system, batch_id, "in_progress")["completed"] == 0
    first = notice(operator, operator.post("/ui/batches/cancel", fields(question.text)))
    assert first == f"{batch_id} is being cancelled."
    with system.client(system.tokens["op"]) as client:
        outcome = client.post(f"/admin/v1/batches/{batch_id}/cancel").json()["outcome"]
        assert outcome in ("was cancelling", "had ended")
        assert wait_for(system, batch_id, "cancelled")["failures"] == {"batch_cancelled": 5}
        assert client.post(f"/admin/v1/batches/{batch_id}/cancel").json()["outcome"] == "had ended"
    last = notice(operator, operator.post("/ui/batches/cancel", fields(question.text)))
    assert last == f"{batch_id} had ended already."
    assert operator.get("/ui/audit").count("batch.cancel") == 1


def test_what_cannot_be_run_again_says_why(system: System, operator: Visitor) -> None:
    with system.client(system.tokens["op"]) as client:
        made = client.post("/admin/v1/tokens", json={"name": "gone", "models": ["*"]}).json()["token"]
        batch_id = batch(system, "refuses", 1, made)
        wait_for(system, batch_id, "completed")
        client.delete("/admin/v1/tokens/gone").raise_for_status()

        def is_refused() -> bool:
            answer = client.post(f"/admin/v1/batches/{batch_id}/retry")
            return answer.status_code == 409 and "'gone' is there no more" in answer.json()["error"]["message"]

        wait_until(is_refused, 20, "the token to be gone everywhere")
        answer = client.post("/admin/v1/batches/batch_x/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    told_so = operator.post("/ui/batches/retry", {"id": batch_id, "confirmed": "yes"})
    assert "is there no more" in notice(operator, told_so)


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("id=batch_x", 404, "No batch found with id 'batch_x'"),
        ("id=<b>", 404, "&lt;b&gt;"),
        ("state=old", 400, "State: must be one of"),
        ("state=all&after=batch_x", 404, "to list from"),
    ],
)
def test_what_there_is_not_is_told_so(operator: Visitor, query: str, status: int, words: str) -> None:
    page = operator.get(f"/ui/batches?{query}", status)
    assert words in page or words in html.unescape(page)
    assert "<b>" not in page
