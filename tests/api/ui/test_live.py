"""Parts of pages that keep up to date by themselves are asked for every two seconds: they stand in no log."""

from __future__ import annotations

from api.envelope import _QUIET_PATHS
from api.ui.pages import PAGES


def test_the_log_leaves_out_the_parts_that_there_are_and_nothing_else_of_the_pages() -> None:
    live = {f"/ui/{page.name}/live" for page in PAGES.values() if "live" in page.parts}
    assert live and {path for path in _QUIET_PATHS if path.startswith("/ui")} == live
