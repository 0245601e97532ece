"""Flower's tasks page in a browser of 1400 px: wait, lane, token, tokens and outcome in a row, nothing to scroll."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import free_port
from tests.support.system import System
from tests.support.waiting import wait_until

LOGIN = ("aqueduct", "correct-horse")
MODELS = {
    "meta-llama/Llama-3.1-70B-Instruct": model("tokens=3"),
    "refuses-what-it-is-asked-for": model("status=400&code=context_length_exceeded&message=no"),
}
TOKENS: dict[str, dict[str, Any]] = {"application-of-team-a": {"lane": "priority"}, "op": {"role": "operator"}}
MEASURE = """() => {
  const body = document.querySelector('.dataTables_scrollBody');
  const cells = [...body.querySelectorAll('td')].filter(cell => !cell.querySelector('.task-uuid-full'));
  return [
    document.documentElement.scrollWidth, body.scrollWidth - body.clientWidth,
    Math.max(...cells.map(cell => cell.scrollWidth - cell.clientWidth)),
  ];
}"""
"""Width of the page; by how much the table, and its widest cell, are too wide."""


@pytest.fixture
def addresses(make_system: MakeSystem) -> Iterator[tuple[System, str, str]]:
    """The system; Flower's own address, and the one behind the API."""
    flower_url = f"http://127.0.0.1:{free_port()}"
    flower = {"port": int(flower_url.rpartition(":")[2]), "password": LOGIN[1], "upstream": flower_url}
    system = make_system(models=MODELS, settings={"flower": flower}, tokens=TOKENS)
    with system.command("flower") as process:
        wait_until(lambda: "aqueduct.flower ready" in process.log() or not process.running, 30, "Flower to listen")
        with system.client(system.tokens["application-of-team-a"]) as client:
            for name in [*MODELS] * 10:
                client.post(CHAT, json=chat_body(name, "Hello"))
        yield system, flower_url, f"{system.base_url}/flower"


@pytest.mark.full("chromium")
def test_a_row_says_all_at_1400_px_and_no_page_asks_others(addresses: tuple[System, str, str], tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only the full run has it

    system, own, behind = addresses
    errors: list[str] = []
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for url in (own, behind):
            context = browser.new_context(
                viewport={"width": 1400, "height": 900},
                http_credentials={"username": LOGIN[0], "password": LOGIN[1]} if url == own else None,
            )
            page = context.new_page()
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"{url}/tasks")
            if url == behind:
                page.fill("input[name=token]", system.tokens["op"])
                page.press("input[name=token]", "Enter")
            page.wait_for_selector("td:has-text('context_length_exceeded')")
            page.wait_for_selector("td:has-text('priority')")
            page.screenshot(path=tmp_path / "tasks.png")
            headings = [text.lower() for text in page.locator(".dataTables_scrollHead th").all_inner_texts()]
            cells = page.locator("tr", has_text="context_length_exceeded").first.locator("td").all_inner_texts()
            assert headings == [
                *("name", "request", "state", "lane", "token", "waited", "ran", "tokens", "outcome", "began"),
            ]
            assert (cells[3:5], cells[8]) == (["priority", "application-of-team-a"], "400 context_length_exceeded")
            assert page.evaluate(MEASURE) == [1400, 0, 0]
            page.locator("td a[href*='/task/']").first.click()
            page.wait_for_selector("#task-page")
            page.click("text=Workers")
            page.wait_for_selector("td:has-text('Online')")
            assert page.url.rstrip("/") == f"{url}/workers"
            context.close()
        browser.close()
    assert errors == []
    assert [url for url in asked if not re.match(rf"{own}|{system.base_url}|data:", url)] == []
