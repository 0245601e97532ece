"""The status page as a browser shows it: coming in, what changes under load, every action, a phone, and axe's eye."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="`make install-dev` brings it")

from playwright.sync_api import expect

from api.ui.pages import PAGES
from tests.support.browser import PHONE, WIDE, Browser, Scheme
from tests.support.chat import chat_body
from tests.support.node import node_script
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.ui_site import Load, ui_system, wait_for_waiting

pytestmark = pytest.mark.full("chromium")


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    with ui_system(tmp_path_factory.mktemp("ui-browser"), module_redis.url, demo_backend.url) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


# --- coming in --------------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_told_and_a_right_one_leads_on(system: System, browser: Browser) -> None:
    with browser.tab(system.base_url) as tab:
        tab.expect_status(401, 403)
        tab.open("/ui/use?span=30d")
        for token, words in (("sk-wrong", "Incorrect API key"), (system.tokens["load"], "needs the role")):
            tab.field("Token").fill(token)
            tab.press("Log in")
            expect(tab.page.get_by_role("alert")).to_contain_text(words)
            assert token not in tab.page.content()
        tab.field("Token").fill(system.tokens["look"])
        tab.page.keyboard.press("Enter")
        expect(tab.find("h1")).to_have_text("Use")
        assert tab.page.url.endswith("/ui/use?span=30d")
        tab.press("Log out")
        expect(tab.field("Token")).to_be_visible()


def test_a_session_that_has_ended_asks_for_the_token_again(
    system: System, browser: Browser, module_redis: RedisServer
) -> None:
    with browser.tab(system.base_url) as tab:
        tab.expect_status(401)
        tab.log_in(system.tokens["op"], "/ui/now")
        with module_redis.client() as client:
            assert client.delete(*client.keys("aq2:session:*")) >= 1
        # The page that is open finds out by itself, as it keeps itself up to date.
        expect(tab.field("Token")).to_be_visible()
        tab.field("Token").fill(system.tokens["op"])
        tab.press("Log in")
        expect(tab.find("h1")).to_have_text("Now")


def test_the_playground_tells_of_a_session_that_has_ended(
    system: System, browser: Browser, module_redis: RedisServer
) -> None:
    with browser.tab(system.base_url) as tab:
        tab.expect_status(401)
        tab.log_in(system.tokens["op"], "/ui/playground")
        with module_redis.client() as client:
            client.delete(*client.keys("aq2:session:*"))
        tab.press("Send")
        expect(tab.find("#state")).to_contain_text("Log in again")


# --- every page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light")])
def test_every_page_is_free_of_faults(system: System, browser: Browser, size: Any, scheme: Scheme) -> None:
    faults = {}
    with Load(system, "one", 3), browser.tab(system.base_url, size=size, scheme=scheme) as tab:
        tab.expect_status(404)
        tab.open("/ui/login")
        faults["login"] = [*tab.grave_faults(), *wider(tab.width(), size)]
        tab.log_in(system.tokens["op"])
        for path in paths():
            tab.open(path)
            for details in tab.find("details:not([open]) > summary").all():
                if details.is_visible():
                    details.click()
            faults[path] = [*tab.grave_faults(), *wider(tab.width(), size)]
    assert [f"{path}: {fault}" for path, found in faults.items() for fault in found] == []


def wider(width: int, size: Any) -> list[str]:
    return [f"{width} px wide"] if width > size["width"] else []


def paths() -> list[str]:
    """Return where pages look their own way."""
    return [*(f"/ui/{name}" for name in PAGES), "/ui/use?span=today&by=token", "/ui/now?model=one", "/ui/nowhere"]


def test_whoever_may_only_look_is_offered_nothing_else(system: System, browser: Browser) -> None:
    with Load(system, "one", 3), browser.tab(system.base_url) as tab:
        tab.log_in(system.tokens["look"])
        for name in PAGES:
            tab.open(f"/ui/{name}")
            posting = {form.get_attribute("action") for form in tab.find("form[method=post]").all()}
            assert posting == {"/ui/logout"}, name


# --- the playground ---------------------------------------------------------------------------------------------------


def test_the_playground_streams_and_shows_text_as_text(system: System, browser: Browser) -> None:
    prompt = '<img src=x onerror="document.title=\'owned\'"> it\'s \\ "quoted"\nand two lines'
    with browser.tab(system.base_url) as tab:
        tab.log_in(system.tokens["op"], "/ui/playground")
        tab.field("Model").select_option("chat")
        tab.field("Message").fill(prompt)
        tab.press("Send")
        expect(tab.find("#state")).to_have_text("Done.")
        assert tab.find("#answer").text_content() == f"{prompt} 0 1 2 3 4 "
        assert tab.find("#answer *").count() == 0
        assert tab.page.title() == "Playground · Aqueduct"
        expect(tab.find("#facts")).to_contain_text("6 out")
        tab.field("Stream the answer").uncheck()
        tab.press("Send")
        expect(tab.find("#state")).to_have_text("Done.")
        assert tab.find("#answer").text_content() == f"{prompt} 0 1 2 3 4 "
        assert system.tokens["op"] not in tab.page.content()
        tab.find("#request-link").click()
        expect(tab.find("h1")).to_contain_text("req_")
        expect(tab.find("main")).to_contain_text("chat")


def test_who_waits_sees_the_place_in_line_and_can_stop(system: System, browser: Browser) -> None:
    with browser.tab(system.base_url) as tab:
        tab.log_in(system.tokens["op"], "/ui/playground")
        tab.field("Model").select_option("long")
        with Load(system, "long", 3, "op"):
            wait_for_waiting(system, "long", 2)
            tab.press("Send")
            expect(tab.find("#state")).to_contain_text("Waiting: 2 before it")
            tab.press("Stop")
            expect(tab.find("#state")).to_contain_text("Stopped")
            wait_for_waiting(system, "long", 2)
        tab.press("Send")
        expect(tab.find("#answer")).to_contain_text("0 1 2")
        tab.press("Stop")
        expect(tab.find("#state")).to_contain_text("Stopped")


def test_what_is_refused_is_told(system: System, browser: Browser) -> None:
    with browser.tab(system.base_url) as tab:
        tab.expect_status(400)
        tab.log_in(system.tokens["op"], "/ui/playground")
        tab.field("Temperature").fill("5")
        tab.press("Send")
        expect(tab.find("#state")).to_contain_text("400")


@pytest.mark.full("chromium", "curl", "node", "npm")
@pytest.mark.parametrize("is_stream", [True, False])
def test_the_printed_lines_ask_the_same(
    system: System,
    browser: Browser,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    demo_backend: DemoBackend,
    is_stream: bool,
) -> None:
    prompt = f'it\'s $HOME, "quoted" \\ and ünï {is_stream}\nin two lines'
    with browser.tab(system.base_url) as tab:
        tab.log_in(system.tokens["op"], "/ui/playground")
        tab.field("Model").select_option("chat")
        tab.field("System").fill("Be brief.")
        tab.field("Message").fill(prompt)
        tab.field("Temperature").fill("0.5")
        tab.field("Stream the answer").set_checked(is_stream)
        code = {name: tab.find(f"#{name}").text_content() or "" for name in ("curl", "python", "node")}
        tab.press("Send")
        expect(tab.find("#state")).to_have_text("Done.")
    (tmp_path / "ask.py").write_text(code["python"])
    script = node_script("client.mjs", tmp_path_factory.mktemp("npm")).with_name("playground.mjs")
    script.write_text(code["node"])
    environment = {**os.environ, "AQUEDUCT_TOKEN": system.tokens["load"], "NO_PROXY": "*"}
    for command in (["sh", "-c", code["curl"]], [sys.executable, str(tmp_path / "ask.py")], ["node", str(script)]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (command, done)
        assert ("3" if command[0] == "sh" else "two lines 0 1 2 3 4") in done.stdout, (command, done)
    asked = [record["body"] for record in demo_backend.seen(prompt)]
    assert len(asked) == 4
    assert all(json.dumps(one, sort_keys=True) == json.dumps(asked[0], sort_keys=True) for one in asked)


# --- use ----------------------------------------------------------------------------------------------------------


def test_a_month_of_a_team_is_four_touches_away(system: System, browser: Browser) -> None:
    with browser.tab(system.base_url) as tab:
        tab.log_in(system.tokens["op"], "/ui/use")
        with system.client(system.tokens["op"]) as client:
            client.post("/v1/chat/completions", json=chat_body("chat"))
        tab.field("When").select_option(index=3)  # this month
        tab.field("Group").select_option("team-a")
        tab.press("Show")
        expect(tab.find("#answer")).to_contain_text("Group team-a")
        expect(tab.find("#sums tbody")).to_contain_text("team-a")
        with tab.page.expect_download() as download:
            tab.page.get_by_role("link", name="Download as CSV").click()
        text = Path(download.value.path()).read_text()
        assert download.value.suggested_filename.endswith(".csv") and ",op,team-a,chat,default," in text
        tab.field("From").fill("2026-01-05")
        expect(tab.field("When")).to_have_value("dates")
