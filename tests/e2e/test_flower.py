"""Flower over the running system: what operators see of requests, and what nobody may see or do there."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis

from shared.flower import pass_key
from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer, free_port
from tests.support.system import DemoBackend, System
from tests.support.ui import Visitor
from tests.support.waiting import wait_until

LOGIN = ("aqueduct", "correct-horse")
TOKENS: dict[str, dict[str, Any]] = {"op": {"role": "operator"}, "look": {"role": "viewer"}, "user": {}}
PROMPT = "a-prompt-that-must-stay-hidden"
MODELS = {
    "good": model("tokens=3"),
    "refuses": model("status=400&code=bad_thing&message=no"),
    "long": model("tokens=400&token_seconds=0.05"),
    "silent": model("tokens=4&first_token_seconds=25"),
}


class View:
    """A running system and the Flower that looks at it."""

    def __init__(self, system: System, url: str) -> None:
        self.system = system
        self.url = url

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", auth=LOGIN, follow_redirects=True, timeout=10)

    def workers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get("/workers?json=1").json()["data"]
        return [row for row in rows if row["status"]]

    def task(self, request_id: str) -> dict[str, Any] | None:
        """Return one request as Flower's JSON API lists it."""
        found: dict[str, Any] | None = self.get("/api/tasks").json().get(request_id)
        return found

    def ended(self, request_id: str, state: str) -> dict[str, Any]:
        seen: list[Any] = [None]

        def reached() -> bool:
            seen[0] = self.task(request_id)
            return seen[0] is not None and seen[0]["state"] == state

        try:
            wait_until(reached, 10, f"Flower to show {state}", poll_seconds=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}; the task: {seen[0]}") from None
        task: dict[str, Any] = seen[0]
        return task


@pytest.fixture(scope="module")
def view(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[View]:
    port = free_port()
    flower_settings = {
        "port": port, "user": LOGIN[0], "password": LOGIN[1], "upstream": f"http://127.0.0.1:{port}",
    }  # fmt: skip
    system = System(
        tmp_path_factory.mktemp("flower-e2e"), redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS,
        settings={"flower": flower_settings}, tokens=TOKENS, workers=[["good", "refuses"], ["long", "silent"]],
    )  # fmt: skip
    system.write_config()
    with system.command("flower") as flower, system:
        wait_until(lambda: "aqueduct.flower ready" in flower.log() or not flower.running, 30, "Flower to listen")
        assert flower.running, flower.log()
        view = View(system, f"http://127.0.0.1:{port}")
        wait_until(lambda: len(view.workers()) == 2, 20, "Flower to see both workers", poll_seconds=0.1)
        yield view


def ask(view: View, name: str, *, stream: bool = False) -> httpx.Response:
    with view.system.client() as client:
        return client.post(CHAT, json=chat_body(name, PROMPT, stream=stream))


def leave_early(view: View, name: str) -> str:
    """Read the first chunk of a stream, close the connection, and return the request id."""
    body = chat_body(name, PROMPT, stream=True)
    with view.system.client() as client, client.stream("POST", CHAT, json=body) as answer:
        next(answer.iter_lines())
        return answer.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_answered_request_is_a_succeeded_task_under_its_request_id(view: View, stream: bool) -> None:
    answer = ask(view, "good", stream=stream)
    assert answer.status_code == 200
    task = view.ended(answer.headers["x-request-id"], "SUCCESS")
    assert task["name"] == "chat.completions:good"
    assert task["routing_key"] == "aqueduct.good"
    assert task["result"] == "200 3 tokens"
    assert 0 < task["runtime"] < 10
    assert task["worker"].startswith("good+refuses-")


def test_every_kind_has_its_name_in_flower(view: View) -> None:
    with view.system.client() as client:
        answer = client.post("/v1/embeddings", json={"model": "good", "input": "a b"})
    assert answer.status_code == 200
    task = view.ended(answer.headers["x-request-id"], "SUCCESS")
    assert (task["name"], task["result"]) == ("embeddings:good", "200 0 tokens")


def test_refused_request_is_a_failed_task_with_status_and_code(view: View) -> None:
    answer = ask(view, "refuses")
    assert answer.status_code == 400
    task = view.ended(answer.headers["x-request-id"], "FAILURE")
    assert task["name"] == "chat.completions:refuses"
    assert task["exception"] == "400 bad_thing"


def test_request_whose_client_left_is_a_revoked_task(view: View) -> None:
    task = view.ended(leave_early(view, "long"), "REVOKED")
    assert task["result"] == "client left"
    assert task["name"] == "chat.completions:long"
    assert task["routing_key"] == "aqueduct.long"


@pytest.mark.parametrize("name", ["long", "silent"])
def test_request_that_an_operator_ended_is_told_from_one_whose_client_left(view: View, name: str) -> None:
    """One whose worker hears of it while it writes events, and one whose worker hears of it from Redis alone."""
    with view.system.client(view.system.tokens["op"]) as operator, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, view, name, stream=True)
        running: list[dict[str, Any]] = []

        def runs() -> bool:
            running[:] = operator.get("/admin/v1/jobs", params={"model": name, "state": "running"}).json()["data"]
            return bool(running)

        wait_until(runs, 20, "the request to run")
        request_id = running[0]["id"]
        assert operator.post(f"/admin/v1/jobs/{request_id}/cancel").json()["outcome"] == "cancelled"
        asked.result()
    task = view.ended(request_id, "REVOKED")
    assert task["result"] == "ended by an operator"


def test_both_workers_are_online_under_the_names_of_their_models(view: View) -> None:
    names = sorted(row["hostname"] for row in view.workers())
    assert names[0].startswith("good+refuses-")
    assert names[1].startswith("long+silent-")


def test_arguments_say_model_lane_and_tenant_and_never_a_prompt(view: View) -> None:
    request_id = ask(view, "good").headers["x-request-id"]
    task = view.ended(request_id, "SUCCESS")
    assert task["args"] == "('good',)"
    assert task["kwargs"] == "{'lane': 'default', 'tenant': 'test'}"
    for path in ("/api/tasks", f"/api/task/info/{request_id}", f"/task/{request_id}", "/tasks", "/workers", "/broker"):
        page = view.get(path)
        assert page.status_code == 200, path
        assert PROMPT not in page.text, path


def test_job_events_can_be_turned_off(make_system: MakeSystem) -> None:
    system = make_system(models={"demo": model("tokens=2")}, settings={"worker": {"job_events": False}})
    with redis.Redis.from_url(system.redis_url) as client, client.pubsub() as heard, system.client() as caller:
        heard.psubscribe("/0.celeryev/*")
        assert caller.post(CHAT, json=chat_body("demo")).status_code == 200
        topics = set()
        ends_at = time.monotonic() + 2.5  # a heartbeat comes every two seconds, job events twice a second
        while time.monotonic() < ends_at:
            message = heard.get_message(timeout=0.2)
            if message and message["type"] == "pmessage":
                topics.add(message["channel"])
    assert topics == {b"/0.celeryev/worker.heartbeat"}


def test_tickets_are_no_tasks(view: View) -> None:
    view.ended(ask(view, "good").headers["x-request-id"], "SUCCESS")
    names = {task["name"] for task in view.get("/api/tasks").json().values()}
    assert names
    assert all(name.startswith(("chat.completions:", "embeddings:")) for name in names), names


def test_nothing_is_shown_without_the_login(view: View) -> None:
    request_id = ask(view, "good").headers["x-request-id"]
    for path in ("/", "/tasks", f"/task/{request_id}", "/workers", "/api/tasks", "/api/workers"):
        assert httpx.get(f"{view.url}{path}").status_code == 401, path


@pytest.mark.parametrize(
    "path",
    [
        "/api/task/apply/aqueduct.ticket",
        "/api/task/async-apply/aqueduct.ticket",
        "/api/task/send-task/aqueduct.ticket",
        "/api/task/abort/some-id",
        "/api/task/revoke/some-id",
        "/api/task/rate-limit/some-worker",
        "/api/task/timeout/some-worker",
        "/api/worker/shutdown/{worker}",
        "/api/worker/pool/restart/{worker}",
        "/api/worker/pool/grow/{worker}",
        "/api/worker/pool/shrink/{worker}",
        "/api/worker/pool/autoscale/{worker}",
        "/api/worker/queue/add-consumer/{worker}",
        "/api/worker/queue/cancel-consumer/{worker}",
    ],
)
def test_whoever_is_logged_in_can_look_and_not_touch(view: View, path: str) -> None:
    worker = view.workers()[0]["hostname"]
    answer = httpx.post(f"{view.url}{path.format(worker=worker)}", auth=LOGIN, json={"args": ["good"]}, timeout=10)
    assert answer.status_code == 403, answer.text
    assert len(view.workers()) == 2


# --- the tasks page ---------------------------------------------------------------------------------------------------


def rows(view: View, *, sort: str = "received", search: str = "") -> list[dict[str, Any]]:
    """Return the rows that the tasks page shows, as its script asks for them."""
    asked: dict[str, Any] = {
        "draw": 1, "start": 0, "length": 100, "search[value]": search,
        "order[0][column]": 0, "order[0][dir]": "desc", "columns[0][data]": sort,
    }  # fmt: skip
    answer = httpx.post(f"{view.url}/tasks/datatable", data=asked, auth=LOGIN, timeout=10).raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def row(view: View, request_id: str) -> dict[str, Any]:
    return next(found for found in rows(view) if found["uuid"] == request_id)


def test_a_row_says_lane_token_wait_tokens_and_outcome(view: View) -> None:
    good, refused = ask(view, "good").headers["x-request-id"], ask(view, "refuses").headers["x-request-id"]
    view.ended(good, "SUCCESS")
    view.ended(refused, "FAILURE")
    one, other = row(view, good), row(view, refused)
    assert (one["lane"], one["tenant"], one["outcome"]) == ("default", "test", "200")
    assert one["tokens"].endswith(" + 3")
    assert one["waited"].endswith(" ms")
    assert (other["outcome"], other["tokens"]) == ("400 bad_thing", None)
    headings = view.get("/tasks").text
    for name in ("Lane", "Token", "Waited", "Tokens", "Outcome"):
        assert f">{name}</th>" in headings
    assert "Outcome" in view.get(f"/task/{good}").text


def test_rows_are_sorted_by_numbers(view: View) -> None:
    for count in (9, 100, 20):
        with view.system.client() as client:
            body = chat_body("good", PROMPT) | {"demo": f"tokens={count}"}
            view.ended(client.post(CHAT, json=body).headers["x-request-id"], "SUCCESS")
    found = [int(one["tokens"].split(" + ")[1]) for one in rows(view, sort="tokens") if one["tokens"]]
    assert found[:2] == [100, 20]
    assert found == sorted(found, reverse=True)


# --- behind the API ---------------------------------------------------------------------------------------------------


def test_who_is_logged_in_at_the_status_page_has_flower_under_the_apis_host(view: View) -> None:
    request_id = ask(view, "good").headers["x-request-id"]
    view.ended(request_id, "SUCCESS")
    with Visitor(view.system, "look") as visitor:
        for path in ("/flower", "/flower/", "/flower/tasks", f"/flower/task/{request_id}", "/flower/broker"):
            page = visitor.get(path)
            links = re.findall(r"""(?:href|src)="(/[^"]*)""" + '"', page)
            assert links, path
            assert all(link.startswith("/flower/") for link in links), links
            assert "set-cookie" not in visitor.client.get(path).headers
        assert visitor.client.get("/flower/static/js/flower.js").headers["content-type"].startswith("text/javascript")
        asked = {"draw": "1", "start": "0", "length": "5", "order[0][column]": "0"}
        listed = visitor.client.post("/flower/tasks/datatable", data=asked, headers={"origin": visitor.origin})
        assert request_id in listed.text
        assert PROMPT not in listed.text


def test_flower_behind_the_api_wants_a_session_and_leads_to_the_login_and_back(view: View) -> None:
    with Visitor(view.system) as visitor:
        for path in ("/flower", "/flower/", "/flower/tasks?name=x", "/flower/static/js/flower.js", "/flower/api/tasks"):
            answer = visitor.client.get(path)
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/ui/login"), path
            assert visitor.client.get(path, auth=LOGIN).status_code == 303, path
        answer = visitor.login(view.system.tokens["look"], "/flower/tasks")
        assert answer.headers["location"] == "/flower/tasks"
        visitor.get("/flower/tasks")
        assert visitor.login(view.system.tokens["look"], "/flower").headers["location"] == "/flower"
    with Visitor(view.system) as visitor:
        assert "role `viewer`" in visitor.login(view.system.tokens["user"], "/flower/").text
        assert visitor.client.get("/flower/").status_code == 303


def test_nothing_is_changed_through_the_api_and_no_other_page_posts(view: View) -> None:
    with Visitor(view.system, "op") as visitor:
        for path in ("/flower/api/task/revoke/x", "/flower/api/worker/shutdown/x", "/flower/tasks"):
            answer = visitor.client.post(path, headers={"origin": visitor.origin})
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD"), path
        evil = {"origin": "https://evil.example"}
        assert visitor.client.post("/flower/tasks/datatable", data={"draw": "1"}, headers=evil).status_code == 403
    assert len(view.workers()) == 2


def test_an_odd_address_below_flower_is_a_page_that_is_not_there(view: View) -> None:
    port = int(view.system.base_url.rpartition(":")[2])
    with Visitor(view.system, "look") as visitor:
        cookie = "; ".join(f"{name}={value}" for name, value in visitor.client.cookies.items())
        # A client of Python's would have made the last one shorter before it sends it.
        for target in (b"/%66lower/tasks", b"/flower/tasks?name=\xff", b"/flower/../admin/v1/tokens"):
            head = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: %b\r\n\r\n" % (target, cookie.encode())
            with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
                wire.sendall(head)
                status = wire.makefile("rb").readline()
            assert status.split()[1] in (b"400", b"404"), (target, status)
    assert view.system.api is not None and "Traceback" not in view.system.api.log()


def test_a_list_of_tasks_is_asked_for_within_64_kb(view: View) -> None:
    with Visitor(view.system, "look") as visitor:
        asked = {"draw": "1", "x": "x" * 70_000}
        answer = visitor.client.post("/flower/tasks/datatable", data=asked, headers={"origin": visitor.origin})
        assert answer.status_code == 413


@pytest.mark.parametrize("given", ["", "x", "x" * 5000])
def test_a_pass_of_ones_own_making_opens_nothing(view: View, given: str) -> None:
    headers = {"x-aqueduct-flower-pass": given}
    assert httpx.get(f"{view.url}/tasks", headers=headers).status_code == 401
    assert httpx.get(f"{view.url}/api/tasks", headers=headers).status_code == 401


def test_a_pass_is_good_for_one_request(view: View) -> None:
    with redis.Redis.from_url(view.system.redis_url) as client:
        client.set(pass_key("a-word"), "1", ex=30)
    headers = {"x-aqueduct-flower-pass": "a-word"}
    assert [httpx.get(f"{view.url}/tasks", headers=headers).status_code for _ in range(2)] == [200, 401]


def test_a_prefix_of_anothers_choice_is_not_believed(view: View) -> None:
    for prefix in ("//evil.example", "/evil", "/flower/../x", '"><script>'):
        page = httpx.get(f"{view.url}/tasks", headers={"x-forwarded-prefix": prefix}, auth=LOGIN).text
        assert prefix not in page


def test_a_flower_that_is_away_is_told(make_system: MakeSystem) -> None:
    upstream = f"http://127.0.0.1:{free_port()}"
    system = make_system(models={"demo": model()}, settings={"flower": {"upstream": upstream}}, tokens=TOKENS)
    with Visitor(system, "op") as visitor:
        assert "Flower does not answer" in visitor.get("/flower/", 503)


def test_without_an_upstream_there_is_no_such_page(make_system: MakeSystem) -> None:
    system = make_system(models={"demo": model()}, tokens=TOKENS)
    with Visitor(system, "op") as visitor:
        assert visitor.client.get("/flower/").status_code == 404
