"""The Jobs page without a browser: found, shown, ended and moved, by two at once too; real processes."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.ui import Visitor
from tests.support.waiting import wait_until

HOSTILE = "<b>a&b</b>"
PROMPT = "a-prompt-that-no-operator-may-see"


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    models = {
        "m": model("tokens=2"),
        HOSTILE: model("status=400&code=bad_thing&message=no"),
        "long": model("tokens=2000&token_seconds=0.02", concurrency=1),
    }
    tokens: dict[str, dict[str, Any]] = {
        "op": {"role": "operator"},
        "two": {"role": "operator", "group": "team-a"},
        "look": {"role": "viewer"},
    }
    with System(
        tmp_path_factory.mktemp("ui-jobs"), redis_url=module_redis.url, backend_url=demo_backend.url, models=models,
        tokens=tokens, workers=((),), settings={"testing": {"tell_seconds": 0.2}, "groups": [{"name": "team-a"}]},
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def operator(system: System) -> Iterator[Visitor]:
    with Visitor(system, "op") as visitor:
        yield visitor


@pytest.fixture
def paused(system: System) -> Iterator[None]:
    with system.client(system.tokens["op"]) as client:
        client.post("/admin/v1/models/m/pause").raise_for_status()
        yield
        client.post("/admin/v1/jobs/cancel", json={"model": "m"}).raise_for_status()
        client.post("/admin/v1/models/m/resume").raise_for_status()


class Asking:
    """A request in a thread."""

    def __init__(self, system: System, name: str = "m") -> None:
        self.answer: httpx.Response | None = None
        self._system, self._name = system, name
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._system.client() as client:
            self.answer = client.post(CHAT, json=chat_body(self._name, PROMPT), timeout=60)

    def status(self) -> int:
        self._thread.join(40)
        assert self.answer is not None
        return self.answer.status_code


def rows(page: str) -> list[str]:
    return re.findall(r'<tr id="(req_[0-9a-f]{32})">', page)


def wait_for(visitor: Visitor, count: int, query: str = "model=m&state=waiting") -> list[str]:
    wait_until(lambda: len(rows(visitor.get(f"/ui/jobs?{query}"))) == count, 20, f"{count} rows")
    return rows(visitor.get(f"/ui/jobs?{query}"))


def notice(visitor: Visitor, answer: httpx.Response) -> str:
    assert answer.status_code == 303, answer.text
    page = visitor.get(answer.headers["location"])
    found = re.search(r'<p class="notice" role="status">(.*?)</p>', page, re.DOTALL)
    assert found is not None, page
    return html.unescape(found[1])


def fields(page: str) -> dict[str, str]:
    """Return what the form of a question sends."""
    form = page[page.index('class="card ask"') :]
    return {name: html.unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form)}


@pytest.mark.usefixtures("paused")
def test_a_job_that_waits_is_found_shown_and_ended_once_it_is_confirmed(system: System, operator: Visitor) -> None:
    asking = Asking(system)
    (job_id,) = wait_for(operator, 1)
    assert "held: paused" in operator.get("/ui/jobs")
    assert rows(operator.get("/ui/jobs?state=held")) == [job_id]
    assert rows(operator.get("/ui/jobs?state=held&model=long")) == []
    shown = operator.get(f"/ui/jobs?id={job_id}")
    assert "0 before it" in shown and "Accepted" in shown and PROMPT not in shown
    assert job_id in operator.get(f"/ui/jobs/live?id={job_id}")
    question = operator.post("/ui/jobs/cancel", {"id": job_id, "model": "m"})
    assert question.status_code == 200 and f"End {job_id}?" in question.text
    assert wait_for(operator, 1) == [job_id]
    with Visitor(system, "two") as other:
        done = [one.post("/ui/jobs/cancel", {**fields(question.text), "csrf": one.csrf}) for one in (operator, other)]
        told = [notice(one, answer) for one, answer in zip((operator, other), done, strict=True)]
    assert done[0].headers["location"] == "/ui/jobs?model=m"
    assert told == [f"{job_id} was ended.", f"{job_id} had ended already."]
    assert asking.status() == 410
    audit = operator.get("/ui/audit")
    assert "job.cancel" in audit and "<td>ui</td>" in audit


@pytest.mark.usefixtures("paused")
def test_all_that_match_are_counted_before_they_are_ended_and_what_comes_later_stays(
    system: System, operator: Visitor
) -> None:
    asking = [Asking(system) for _ in range(3)]
    wait_for(operator, 3)
    question = operator.post("/ui/jobs/cancel", {"model": "m", "token": "test"})
    assert "End 3 requests?" in question.text and "model m, token test" in question.text
    later = Asking(system)
    wait_for(operator, 4)
    with Visitor(system, "two") as other:
        done = [one.post("/ui/jobs/cancel", {**fields(question.text), "csrf": one.csrf}) for one in (operator, other)]
        told = [notice(one, answer) for one, answer in zip((operator, other), done, strict=True)]
    assert told == ["3 cancelled.", "Nothing matched any more."]
    assert [one.status() for one in asking] == [410] * 3
    wait_for(operator, 1)
    question = operator.post("/ui/jobs/move", {"model": "m", "to": "flex"})
    assert "Move 1 request to the lane flex?" in question.text
    assert notice(operator, operator.post("/ui/jobs/move", {**fields(question.text)})) == "1 moved."
    (job_id,) = wait_for(operator, 1, "lane=flex")
    moved = operator.post("/ui/jobs/move", {"id": job_id, "to": "flex", "from": "job"})
    assert notice(operator, moved) == f"{job_id} was in flex already."
    everything = operator.post("/ui/jobs/cancel")
    assert "End 1 request?" in everything.text and "everything, of every model" in everything.text
    assert notice(operator, operator.post("/ui/jobs/cancel", fields(everything.text))) == "1 cancelled."
    assert later.status() == 410
    assert notice(operator, operator.post("/ui/jobs/cancel")) == "Nothing matches that could be ended."


@pytest.mark.usefixtures("paused")
def test_a_viewer_looks_and_changes_nothing(system: System, operator: Visitor) -> None:
    asking = Asking(system)
    (job_id,) = wait_for(operator, 1)
    with Visitor(system, "look") as viewer:
        for path in ("/ui/jobs", f"/ui/jobs?id={job_id}"):
            page = viewer.get(path)
            assert job_id in page and "/ui/jobs/cancel" not in page and "/ui/jobs/move" not in page
        for path in ("/ui/jobs/cancel", "/ui/jobs/move"):
            assert viewer.post(path, {"id": job_id, "to": "flex", "confirmed": "yes"}).status_code == 403
    assert wait_for(operator, 1) == [job_id]
    operator.post("/ui/jobs/cancel", {"id": job_id, "confirmed": "yes"})
    assert asking.status() == 410


def test_what_became_of_a_request_is_shown_by_the_id_of_its_answer(system: System, operator: Visitor) -> None:
    with system.client() as client:
        answer = client.post(CHAT, json=chat_body("m", PROMPT))
        refused = client.post(CHAT, json=chat_body(HOSTILE, PROMPT)).headers["x-request-id"]
    given = answer.json()["id"]
    wait_until(lambda: "Call" in operator.client.get(f"/ui/jobs?id={given}").text, 20, "its run to be told")
    page = operator.get(f"/ui/jobs?id={given}")
    assert answer.headers["x-request-id"] in page
    wait_until(
        lambda: answer.headers["x-request-id"] in rows(operator.get("/ui/jobs?state=ended&model=m")),
        20,
        "it in the list",
    )
    path = f"/ui/jobs?id={refused}"
    wait_until(lambda: "bad_thing" in operator.get(path), 20, "the refusal to be told")
    refusals = "/ui/jobs?state=ended&outcome=refused"
    wait_until(lambda: refused in rows(operator.get(refusals)), 20, "the refusal in the list")
    listed = operator.get(refusals)
    for page in (operator.get(path), listed):
        assert "400 bad_thing" in page and "&lt;b&gt;a&amp;b&lt;/b&gt;" in page
        assert HOSTILE not in page and PROMPT not in page
    assert "cancel" not in listed.replace("cancelled", "")


def test_a_group_is_told_from_a_token(system: System, operator: Visitor) -> None:
    with system.client(system.tokens["two"]) as client:
        request_id = client.post(CHAT, json=chat_body("m", PROMPT)).headers["x-request-id"]
    listed = "/ui/jobs?state=ended&token=two"
    wait_until(lambda: request_id in rows(operator.get(listed)), 20, "it in the list")
    for path in (listed, f"/ui/jobs?id={request_id}"):
        assert re.search(r"two(</a>)? <small[^>]*>group team-a</small>", operator.get(path)), path


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("lane=fast", 400, "Lane: Input should be"),
        ("older=soon", 400, "is no span such as"),
        ("model=nope", 404, "No model is called"),
        ("outcome=failed", 400, "Outcome: must be one of"),
        ("after=waiting~x~y", 400, "After: is no"),
        ("state=ended&after=ended~²~req_" + "0" * 32, 400, "After: is no"),
        ("state=ended&after=ended~" + "9" * 40 + "~req_" + "0" * 32, 400, "After: is no"),
        ("after=waiting~1_0~req_" + "0" * 32, 400, "After: is no"),
        ("after=waiting~%201~req_" + "0" * 32, 400, "After: is no"),
        ("after=waiting~" + "1" * 40 + "~req_" + "0" * 32, 400, "After: is no"),
        ("id=req_nope", 404, "is no id of a request"),
        ("id=req_" + "0" * 32, 404, "ended too long ago to be kept"),
    ],
)
def test_a_filter_that_means_nothing_is_told_so(operator: Visitor, query: str, status: int, words: str) -> None:
    assert words in html.unescape(operator.get(f"/ui/jobs?{query}", status))


@pytest.mark.parametrize(
    "sent",
    [{"to": "fast", "id": "x"}, {"to": "flex", "lane": "fast"}, {"to": "flex", "state": "ended"},
     {"to": "flex", "confirmed": "yes"}, {"to": "flex", "confirmed": "yes", "asked_at": "nan"}],
)  # fmt: skip
def test_a_form_that_means_nothing_does_nothing(operator: Visitor, sent: dict[str, str]) -> None:
    assert operator.post("/ui/jobs/move", sent).status_code == 400


def test_without_a_store_the_page_of_batches_says_so(operator: Visitor) -> None:
    assert "storage.url" in operator.get("/ui/batches", 404)
    assert operator.post("/ui/batches/cancel", {"id": "x", "confirmed": "yes"}).status_code == 404
