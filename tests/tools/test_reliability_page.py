"""Two pages name a test for each promise and each attack: every file and every test they name must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("reliability.md", "security.md")]
on_each_page = pytest.mark.parametrize("page", PAGES, ids=["reliability", "security"])
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


@on_each_page
def test_every_linked_file_exists(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@on_each_page
def test_every_named_test_exists(page: str) -> None:
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8"))
    }
    names = re.findall(r"`(test_\w+)(…?)`", page)
    assert len(names) > 20
    assert [
        name for name, cut in names if not any(one == name or (cut and one.startswith(name)) for one in defined)
    ] == []


def test_every_promise_of_the_design_has_its_line() -> None:
    promises = DESIGN.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][2:]
    tested = PAGES[0].partition("## Promises")[2].partition("| rule |")[0]
    assert len([line for line in tested.splitlines() if line.startswith("| ")]) - 2 >= len(rows)
