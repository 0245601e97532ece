"""The documentation is true to the code: the settings table is the present one, and no link leads nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from aqueduct.cli import COMMANDS
from shared import keys
from shared.config import describe_settings
from shared.room.scripts import ALL
from tests.support.processes import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)")
SCRIPTS = sorted(path.stem for path in (ROOT / "shared" / "scripts").glob("*.lua"))


def test_settings_table_of_the_readme_is_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "docs.py", "--check"], capture_output=True, text=True, timeout=30, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_readme_lists_every_setting_but_the_test_switches() -> None:
    text = (ROOT / "README.md").read_text()
    for row in describe_settings():
        assert (f"| `{row.name}` |" in text) is not row.name.startswith("testing."), row.name


def test_readme_lists_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"| `aqueduct {name}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link and not link.startswith("mailto:")]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_protocol_page_describes_every_script(name: str) -> None:
    assert name in {script.name for script in ALL}
    assert f"`{name}`" in (ROOT / "docs" / "protocol.md").read_text()


def test_protocol_page_describes_every_key() -> None:

    text = (ROOT / "docs" / "protocol.md").read_text()
    fixed = [*keys.SINGLES.values(), keys.TOKENS]
    assert [name for name in (*keys.PREFIXES.values(), *fixed) if f"`{name}" not in text] == []
