"""Pictures of the status page's pages, each as a browser shows it at the top."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from playwright.sync_api import ViewportSize, expect

from tests.support.browser import Browser, Scheme, Tab
from tests.support.system import System

MOST_BYTES: Final = 150_000
WIDE: Final = ViewportSize(width=1200, height=760)
PHONE: Final = ViewportSize(width=390, height=780)


def take_pictures(system: System, browser: Browser, token: str, folder: Path) -> list[Path]:
    """Write the pictures; returns where they are."""
    made = []
    for name, size, scheme, show in _PICTURES:
        with browser.tab(system.base_url, size=size, scheme=scheme) as tab:
            tab.log_in(token)
            show(tab)
            made.append(folder / f"ui-{name}.png")
            tab.page.screenshot(path=made[-1])
    return made


def _now(tab: Tab) -> None:
    tab.open("/ui/now")
    expect(tab.find("#models")).to_be_visible()


def _model(tab: Tab) -> None:
    tab.open("/ui/now?model=llama-3.3-70b")


def _jobs(tab: Tab) -> None:
    tab.open("/ui/jobs")


def _job(tab: Tab) -> None:
    tab.open("/ui/jobs?state=ended&model=llama-3.3-70b")
    tab.find("tbody th a").first.click()
    expect(tab.find("#job")).to_be_visible()


def _batch(tab: Tab) -> None:
    tab.open("/ui/batches")
    tab.find("#batches tbody a").first.click()


def _use(tab: Tab) -> None:
    tab.open("/ui/use?span=30d&by=group")


def _playground(tab: Tab) -> None:
    tab.open("/ui/playground")
    tab.field("Model").select_option("llama-3.3-70b")
    tab.field("System").fill("You are terse.")
    tab.field("Message").fill("Count as far as you can.")
    tab.press("Send")
    expect(tab.find("#answer")).to_contain_text("9 10 11", timeout=60_000)


def _tokens(tab: Tab) -> None:
    tab.open("/ui/tokens")


_PICTURES: Final[tuple[tuple[str, ViewportSize, Scheme, Callable[[Tab], None]], ...]] = (
    ("now", WIDE, "light", _now),
    ("model", WIDE, "dark", _model),
    ("jobs", WIDE, "light", _jobs),
    ("job", WIDE, "light", _job),
    ("batch", WIDE, "light", _batch),
    ("use", WIDE, "light", _use),
    ("playground", WIDE, "dark", _playground),
    ("tokens", WIDE, "light", _tokens),
    ("phone", PHONE, "light", _now),
)
"""Each one's name, the browser's size and colours, and what is shown."""
