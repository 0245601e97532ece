"""A real Chromium, driven by Playwright: `Browser` opens a `Tab`, which takes note of everything that is wrong.

Playwright and axe-core come with `make install-dev`; the browser is the one on the PATH.
"""

from __future__ import annotations

import shutil
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Locator, Page, Request, Response, ViewportSize, expect, sync_playwright

from tests.support.startable import Startable

PATIENCE_MS: Final = 20_000
WIDE: Final = ViewportSize(width=1280, height=900)
PHONE: Final = ViewportSize(width=360, height=780)
Scheme = Literal["light", "dark"]
GRAVE: Final = ("serious", "critical")
expect.set_options(timeout=PATIENCE_MS)


class Tab:
    """One page of a browser with cookies of its own; use it in a `with`, whose end raises what went wrong in it."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self.faults: list[str] = []
        self.posted: set[str] = set()
        """Paths of what was posted."""
        self._expected: set[int] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("request", self._on_request)
        page.on("response", self._on_response)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.page.context.close()
        if kind is None:
            assert self.faults == []

    def expect_status(self, *statuses: int) -> None:
        """Take these answers for what they are: a page that tells of a mistake."""
        self._expected.update(statuses)

    def _on_console(self, message: ConsoleMessage) -> None:
        is_of_status = message.text.startswith("Failed to load resource")  # told by its response
        if message.type in ("error", "warning") and not is_of_status:
            self.faults.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if f"{parts.scheme}://{parts.netloc}" != self.base_url and parts.scheme not in ("data", "blob"):
            self.faults.append(f"foreign request: {request.url}")
        if request.method == "POST":
            self.posted.add(parts.path)

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self._expected:
            self.faults.append(f"{response.status} {response.request.method} {response.url}")

    # --- acting -------------------------------------------------------------------------------------------------------

    def open(self, path: str) -> None:
        """Go to a page."""
        self.page.goto(path)

    def log_in(self, token: str, path: str = "/ui") -> None:
        """Open a page, and log in on the way."""
        self.open(path)
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("button", name="Log out")).to_be_visible()

    def find(self, selector: str) -> Locator:
        """Return what a CSS selector finds."""
        return self.page.locator(selector)

    def field(self, label: str) -> Locator:
        """Return the field of a form with exactly this label."""
        return self.page.get_by_label(label, exact=True)

    def press(self, name: str) -> None:
        """Press the button that is called so."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def answer_yes(self) -> None:
        """Confirm what is asked in a dialog."""
        self.page.get_by_role("dialog").get_by_role("button", name="Yes").click()

    # --- looking ------------------------------------------------------------------------------------------------------

    def grave_faults(self) -> list[str]:
        """Return what axe finds that is serious or critical, each with where it is."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']} ({one['impact']}): {node['html'][:200]} {node['failureSummary']}"
            for one in found
            if one["impact"] in GRAVE
            for node in one["nodes"]
        ]

    def width(self) -> int:
        """Return how wide what there is to see is, in pixels."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))


class Browser(Startable):
    """A running Chromium without a window."""

    def start(self) -> Self:
        """Start it."""
        path = shutil.which("chromium")
        assert path is not None
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        return self

    def stop(self) -> None:
        """End it."""
        self._chromium.close()
        self._playwright.stop()

    def tab(self, base_url: str, *, size: ViewportSize = WIDE, scheme: Scheme = "light", scripts: bool = True) -> Tab:
        """Return a tab that nobody is logged in."""
        context = self._chromium.new_context(
            base_url=base_url, viewport=size, color_scheme=scheme, java_script_enabled=scripts, locale="en-GB"
        )
        return Tab(context.new_page(), base_url)
