"""docs/compatibility.md says what is tried today: versions and numbers follow the tests."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_sdks_stand_there_in_the_versions_that_are_run() -> None:
    versions = {name: version for name, version, *_ in rows("Clients")}
    assert versions["OpenAI SDK for Python"] == importlib.metadata.version("openai")
    assert versions["httpx"] == importlib.metadata.version("httpx")
    node = json.loads((ROOT / "tests" / "node" / "package.json").read_text())["dependencies"]["openai"]
    assert versions["OpenAI SDK for Node"] == node


def test_every_case_of_a_server_is_counted() -> None:
    files = [path for path in (ROOT / "tests" / "matrix" / "servers").glob("*.txt") if path.name != "reports.txt"]
    cases = sum(len(re.findall("^== ", path.read_text(), re.MULTILINE)) for path in files)
    assert sum(int(count) for _, _, count, _ in rows("Servers")) == cases


def test_every_row_tells_a_version_and_how() -> None:
    for heading, columns in (("Clients", 4), ("Servers", 4)):
        for row in rows(heading):
            assert len(row) == columns, row
            assert all(row), row
