"""The Now page without a browser: what it shows is so, who may act does, and who may not is refused."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path

import pytest

from api.ui.now import MANY
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.ui import Visitor
from tests.support.waiting import wait_until

HOSTILE = "<b>a&b</b>"
MODELS = {
    "slow": model("tokens=3000&token_seconds=0.02", concurrency=1),
    "quick": model("tokens=2"),
    "broken": model("status=503", max_attempts=1),
    "unserved": model("tokens=2"),
    HOSTILE: model("tokens=2"),
}
TOKENS = {"op": {"role": "operator"}, "look": {"role": "viewer"}}
SERVED = tuple(name for name in MODELS if name != "unserved")


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    with System(
        tmp_path_factory.mktemp("ui-now"), redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS,
        tokens=TOKENS, workers=(SERVED,), settings={"testing": {"history_seconds": 1}},
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def operator(system: System) -> Iterator[Visitor]:
    with Visitor(system, "op") as visitor:
        yield visitor


@pytest.fixture(scope="module")
def viewer(system: System) -> Iterator[Visitor]:
    with Visitor(system, "look") as visitor:
        yield visitor


def shown(visitor: Visitor, name: str) -> str:
    """Return the text of a model's page, without tags."""
    text = visitor.client.get("/ui/now", params={"model": name}).text
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_a_full_model_says_who_fills_it_and_since_when(system: System, viewer: Visitor) -> None:
    def ask() -> None:
        with system.client(timeout=60) as client:
            client.post(CHAT, json=chat_body("slow", "one"))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: "All 1 slots are busy. 2 requests wait" in shown(viewer, "slow"), 20)
    text = shown(viewer, "slow")
    assert "Who fills the queue Who Waiting test 2" in text
    assert re.search(r"Running 1 of 1 ", text)
    live = viewer.get("/ui/now/live")
    assert '<dd id="total-waiting">2</dd>' in live and "<html" not in live
    with system.client(system.tokens["op"]) as client:
        assert client.post("/admin/v1/jobs/cancel", json={"model": "slow"}).status_code == 200
    for thread in threads:
        thread.join(30)
    wait_until(lambda: "Nothing runs, and nothing waits" in shown(viewer, "slow"), 20)


def test_what_fails_is_worth_a_look_and_says_with_what(system: System, viewer: Visitor) -> None:
    with system.client() as client:
        for _ in range(4):
            assert client.post(CHAT, json=chat_body("broken", "x")).status_code >= 500
    wait_until(lambda: "requests failed in the last minutes" in shown(viewer, "broken"), 20)
    text = shown(viewer, "broken")
    assert re.search(r"failing .*4 of 4 requests failed", text)
    # Workers tell of their calls by themselves, up to two seconds later.
    wait_until(lambda: re.search(r"Calls, 5 min .*failing .* 4 4 503: 4 ", shown(viewer, "broken")) is not None, 20)
    assert "no worker" in shown(viewer, "unserved")
    page = viewer.get("/ui/now")
    looks = page.split('id="looks"')[1].split("</section>")[0]
    assert "broken" in looks and "unserved" in looks and "quick" not in looks


def test_the_hour_is_drawn_and_told_in_words(system: System, viewer: Visitor) -> None:
    with system.client() as client:
        for _ in range(3):
            client.post(CHAT, json=chat_body("quick", "x", stream=True)).raise_for_status()

    def said() -> bool:
        text = viewer.client.get("/ui/now?model=quick").text
        return 'aria-label="Requests a minute, last hour. answered:' in text and 'class="line c1" d="M' in text

    wait_until(said, 20)
    wait_until(
        lambda: re.search(r"How requests ended Status 5 min Hour 200 3 3", shown(viewer, "quick")) is not None, 20
    )
    assert "First token, half within" in shown(viewer, "quick")


def test_an_operator_holds_and_lets_go_and_the_audit_log_says_who(system: System, operator: Visitor) -> None:
    asked = operator.post("/ui/now/model", {"model": "quick", "action": "pause"})
    assert asked.status_code == 200 and "<h1>Pause quick?</h1>" in asked.text
    assert "idle" in shown(operator, "quick")
    done = operator.post("/ui/now/model", {"model": "quick", "action": "pause", "confirmed": "yes"})
    assert (done.status_code, done.headers["location"]) == (303, "/ui/now?model=quick")
    text = shown(operator, "quick")
    assert "quick is paused (was active)." in text and "An operator has paused it" in text and "(op, 20" in text
    assert "quick is paused (was active)." not in shown(operator, "quick")  # it is said once
    assert operator.post("/ui/now/model", {"model": "quick", "action": "resume"}).status_code == 303
    held = operator.post("/ui/now/backend", {"model": "quick", "backend": "0", "action": "pause", "confirmed": "yes"})
    assert held.status_code == 303
    assert "Operators hold all of its backends" in shown(operator, "quick")
    assert operator.post("/ui/now/backend", {"model": "quick", "backend": "0", "action": "resume"}).status_code == 303
    assert "An operator" not in shown(operator, "quick")
    rows = re.findall(r"<td>op</td><td>ui</td><td>([a-z.]+)</td><td>([^<]*)</td>", operator.get("/ui/audit"))
    assert rows[:4] == [
        ("backend.resume", "quick backend 0"), ("backend.pause", "quick backend 0"), ("model.resume", "quick"),
        ("model.pause", "quick"),
    ]  # fmt: skip


def test_a_script_gets_json(operator: Visitor) -> None:
    wrong = operator.post("/ui/now/model", {"model": "nope", "action": "resume"}, accept="application/json")
    assert wrong.status_code == 404 and "no model is called 'nope'" in wrong.json()["error"]["message"].lower()
    right = operator.post("/ui/now/model", {"model": "quick", "action": "resume"}, accept="application/json")
    assert right.json() == {"notice": "quick takes work (as before). 0 run, 0 wait."}


def test_a_viewer_sees_no_action_and_is_refused_one(viewer: Visitor) -> None:
    page = viewer.client.get("/ui/now?model=quick").text
    assert "/ui/now/model" not in page and "/ui/now/backend" not in page
    for path, fields in (("model", {}), ("backend", {"backend": "0"})):
        given = {"model": "quick", "action": "pause", "confirmed": "yes", **fields}
        refused = viewer.post(f"/ui/now/{path}", given)
        assert refused.status_code == 403 and "role `operator`" in unescape(refused.text)
    assert "paused" not in shown(viewer, "quick")


def test_bad_input_is_told_on_a_page(operator: Visitor) -> None:
    for fields, status in (
        ({"model": "quick", "action": "explode"}, 400),
        ({"action": "pause", "confirmed": "yes"}, 404),
        ({"model": "m" * 5000, "action": "resume"}, 404),
        ({"model": "quick", "action": "\x00"}, 400),
    ):
        assert operator.post("/ui/now/model", fields).status_code == status
    assert operator.post("/ui/now/backend", {"model": "quick", "backend": "9", "action": "resume"}).status_code == 404
    assert operator.post("/ui/now/model", {"model": "x" * 70_000}).status_code == 413
    many = {f"f{number}": "" for number in range(1001)}
    assert operator.post("/ui/now/model", many).status_code == 400
    missing = operator.client.get("/ui/now", params={"model": "<script>alert(1)</script>"})
    assert missing.status_code == 404 and "<script>alert" not in missing.text


def test_a_models_name_is_text_wherever_it_stands(operator: Visitor) -> None:
    for path in ("/ui/now", "/ui/now/live"):
        for params in ({}, {"model": HOSTILE}):
            text = operator.client.get(path, params=params).text
            assert HOSTILE not in text and escape(HOSTILE) in text
    asked = operator.post("/ui/now/model", {"model": HOSTILE, "action": "pause"})
    assert HOSTILE not in asked.text and escape(HOSTILE) in asked.text


def test_while_redis_is_away_the_page_says_so_and_comes_back(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    models = {f"m{number}": model() for number in range(MANY + 1)}
    with System(
        tmp_path, redis_url=own_redis.url, backend_url=demo_backend.url, models=models, tokens=TOKENS,
        settings={"metrics": False},
    ) as running, Visitor(running, "op") as visitor:  # fmt: skip
        page = visitor.get("/ui/now")
        assert page.count('<tr id="model-m') == MANY + 1 and 'data-every="5000"' in page  # many are rows of a table
        assert 'id="no-metrics"' in page
        csrf = visitor.csrf
        own_redis.freeze()
        for path in ("/ui/now", "/ui/now/live"):
            away = visitor.client.get(path)
            assert away.status_code == 503 and "Traceback" not in away.text and "<h1>Not now</h1>" in away.text
        fields = {"csrf": csrf, "model": "m1", "action": "resume"}
        assert visitor.client.post("/ui/now/model", data=fields, headers={"origin": visitor.origin}).status_code == 503
        assert visitor.login(running.tokens["op"]).status_code == 503
        own_redis.thaw()
        wait_until(lambda: visitor.client.get("/ui/now").status_code == 200, 20)
        assert running.api is not None and "Traceback" not in running.api.log()


def test_switched_off_there_is_no_page_and_no_history(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    with System(
        tmp_path, redis_url=own_redis.url, backend_url=demo_backend.url, models={"m": model()}, tokens=TOKENS,
        settings={"ui": False, "testing": {"history_seconds": 0.2}},
    ) as running, running.client() as client:  # fmt: skip
        for path in ("/ui", "/ui/now", "/ui/login"):
            assert client.get(path).status_code == 404
        assert "/ui" not in client.get("/", headers={"accept": "text/html"}).text
        with own_redis.client() as redis_client:
            assert not list(redis_client.scan_iter("aq2:hist*"))
