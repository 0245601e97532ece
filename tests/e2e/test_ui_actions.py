"""In a browser: what changes under load by itself, and every action of every page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import orjson
import pytest

pytest.importorskip("playwright", reason="`make install-dev` brings it")

from playwright.sync_api import expect

from api.ui.pages import PAGES
from tests.support.batches import CHAT as ENDPOINT
from tests.support.batches import chat_line
from tests.support.browser import Browser, Tab
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.ui_site import Load, ui_system, wait_for_waiting
from tests.support.waiting import wait_until

pytestmark = pytest.mark.full("chromium")


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    with ui_system(tmp_path_factory.mktemp("ui-actions"), module_redis.url, demo_backend.url) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


def test_what_waits_and_runs_changes_by_itself(system: System, browser: Browser) -> None:
    with browser.tab(system.base_url) as tab:
        tab.log_in(system.tokens["look"], "/ui/now")
        expect(tab.find("#total-waiting")).to_have_text("0")
        tab.page.evaluate("document.body.dataset.marked = 'yes'")
        with Load(system, "long", 4):
            expect(tab.find("#total-waiting")).to_have_text("3")
            expect(tab.find("#total-running")).to_contain_text("1 of")
            expect(tab.find("#model-long")).to_contain_text("3")
        expect(tab.find("#total-waiting")).to_have_text("0")
        expect(tab.find("body")).to_have_attribute("data-marked", "yes")  # it was never loaded anew


# --- every action -----------------------------------------------------------------------------------------------------


def told(tab: Tab, words: str) -> None:
    expect(tab.find("main .notice").first).to_contain_text(words)


def press_now(tab: Tab, system: System) -> None:
    tab.open("/ui/now")
    tab.page.get_by_role("link", name="chat", exact=True).first.click()
    actions = tab.find("#model-actions")
    for action, words in (
        ("Pause", "is paused"),
        ("Drain", "drains"),
        ("Retire", "is retired"),
        ("Resume", "takes work"),
    ):
        actions.get_by_role("button", name=action).click()
        if action != "Resume":
            tab.answer_yes()
        told(tab, words)
    for action, words in (("Pause", "called no more"), ("Resume", "called again"), ("Drain", "called no more")):
        tab.find("td.actions").get_by_role("button", name=action).click()
        if action != "Resume":
            tab.answer_yes()
        told(tab, words)
    tab.find("td.actions").get_by_role("button", name="Resume").click()
    told(tab, "called again")
    with system.client(system.tokens["op"]) as client:
        assert client.get("/admin/v1/models/chat").json()["state"] == "active"


def press_jobs(tab: Tab, system: System) -> None:
    with Load(system, "long", 5):
        wait_for_waiting(system, "long", 4)
        tab.open("/ui/jobs?model=long&state=waiting")
        rows = tab.find("#jobs tbody tr")
        expect(rows).to_have_count(4)
        rows.first.get_by_role("button", name="End").click()
        tab.answer_yes()
        told(tab, "req_")
        wait_for_waiting(system, "long", 3)
        rows.first.get_by_role("link").first.click()
        tab.find("select[name=to]").select_option("priority")
        tab.press("Move to this lane")
        told(tab, "req_")
        expect(tab.find("#job")).to_contain_text("priority")
        tab.open("/ui/jobs?model=long")
        tab.find("#all-to").select_option("flex")
        tab.press("Move all that wait …")
        expect(tab.find("h1")).to_have_text("Move 3 requests to the lane flex?")
        tab.press("Move them")
        told(tab, "3")
        tab.press("End all that match …")
        expect(tab.find("h1")).to_have_text("End 4 requests?")
        tab.page.get_by_role("link", name="No, go back").click()
        tab.open("/ui/jobs?model=long")
        tab.press("End all that match …")
        tab.press("End them")
        told(tab, "4")
        wait_for_waiting(system, "long", 0)


def press_playground(tab: Tab, _: System) -> None:
    tab.open("/ui/playground")
    tab.press("Send")
    expect(tab.find("#state")).to_have_text("Done.")


def press_tokens(tab: Tab, system: System) -> None:
    tab.expect_status(400)
    tab.open("/ui/tokens")
    tab.page.get_by_text("Create a token").click()
    tab.field("Name").fill("no such name")
    tab.press("Create the token")
    expect(tab.find("#new-name-error")).to_contain_text("May hold only letters")
    tab.field("Name").fill("dora")
    tab.press("Create the token")
    secret = tab.find("#secret").text_content() or ""
    with system.client(secret) as client:
        assert client.get("/v1/models").status_code == 200
    tab.page.get_by_role("link", name="I have it").click()
    tab.page.get_by_role("link", name="Change dora").click()
    tab.find("#edit").get_by_label("Requests a minute").fill("7")
    tab.press("Save")
    told(tab, "dora is changed")
    row = tab.find("#tokens tr").filter(has_text="dora")
    expect(row).to_contain_text("of 7 requests/min")
    row.get_by_role("button", name="Revoke").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="No").click()
    row.get_by_role("button", name="Revoke").click()
    tab.answer_yes()
    told(tab, "dora is revoked")
    assert tab.find("#tokens").get_by_text("dora").count() == 0
    tab.page.get_by_text("Create a group").click()
    tab.field("Group's name").fill("lab")
    tab.press("Create the group")
    told(tab, "lab is made")
    tab.page.get_by_role("link", name="Change the group lab").click()
    tab.find("#edit-group").get_by_label("Tokens a day").fill("1000")
    tab.press("Save the group")
    told(tab, "lab is changed")
    row = tab.find("#group-table tr").filter(has_text="lab")
    expect(row).to_contain_text("0 of 1,000 tokens today")
    row.get_by_role("button", name="Delete").click()
    tab.answer_yes()
    told(tab, "lab is deleted")


def press_batches(tab: Tab, system: System) -> None:
    with system.client(system.tokens["load"]) as client:
        ended, running = [sent_batch(client, name, count) for name, count in (("broken", 2), ("long", 4))]
        wait_until(lambda: client.get(f"/v1/batches/{ended}").json()["status"] == "completed", 30, "it to have ended")
        wait_until(lambda: client.get(f"/v1/batches/{running}").json()["status"] == "in_progress", 30, "it to run")
    tab.open(f"/ui/batches?id={ended}")
    expect(tab.find("#batch")).to_contain_text("Failures by reason")
    tab.press("Run again what did not succeed")
    tab.answer_yes()
    told(tab, "as this new batch")
    expect(tab.find("#batch")).to_contain_text(f"did not succeed of {ended}")
    tab.open(f"/ui/batches?id={running}")
    tab.press("Cancel it")
    tab.answer_yes()
    told(tab, "is being cancelled")
    expect(tab.find("#batch .badge").first).to_have_text("cancelled")
    assert tab.find("#batch").get_by_role("button", name="Cancel it").count() == 0
    assert tab.grave_faults() == []


def sent_batch(client: httpx.Client, name: str, count: int) -> str:
    lines = [orjson.dumps(chat_line(f"line-{number}", "Hi", name)) for number in range(count)]
    files: Any = {"file": ("lines.jsonl", b"\n".join(lines)), "purpose": (None, "batch")}
    file_id = client.post("/v1/files", files=files).json()["id"]
    given = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    return str(client.post("/v1/batches", json=given).json()["id"])


PRESSING: Final[dict[str, Callable[[Tab, System], None]]] = {
    "now": press_now, "jobs": press_jobs, "batches": press_batches, "playground": press_playground,
    "tokens": press_tokens,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.actions])
def test_every_action_does_what_it_says(system: System, browser: Browser, name: str) -> None:
    with browser.tab(system.base_url) as tab:
        tab.log_in(system.tokens["op"])
        PRESSING[name](tab, system)
        assert {f"/ui/{name}/{action}" for action in PAGES[name].actions} - tab.posted == set()
