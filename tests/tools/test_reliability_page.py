"""`docs/reliability.md` names a test for each promise: every file and every test it names must be there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_every_named_test_exists() -> None:
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8"))
    }
    names = re.findall(r"`(test_\w+)(…?)`", PAGE)
    assert len(names) > 20
    assert [
        name for name, cut in names if not any(one == name or (cut and one.startswith(name)) for one in defined)
    ] == []


def test_every_promise_of_the_design_has_its_line() -> None:
    promises = DESIGN.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][2:]
    tested = PAGE.partition("## Promises")[2].partition("| rule |")[0]
    assert len([line for line in tested.splitlines() if line.startswith("| ")]) - 2 >= len(rows)
