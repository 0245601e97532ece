"""The documentation is true to the code: the settings table is the present one, and no link leads nowhere."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from api.record import RequestRecord
from api.record import write_log as request_log
from api.traces import RequestTraces
from aqueduct.cli import COMMANDS
from shared import keys
from shared.catalogue import Catalogue
from shared.config import describe_settings
from shared.jobs import End, JobSpec, TakenJob
from shared.room.scripts import ALL
from shared.settings import ModelSettings, Settings
from shared.tracing.sdk import Tracing
from tests.support.processes import ROOT
from tools.reference import error_codes, found_codes
from workers.record import RunRecord
from workers.record import write_log as run_log
from workers.traces import RunTraces

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)")
SCRIPTS = sorted(path.stem for path in (ROOT / "shared" / "scripts").glob("*.lua"))


def test_what_is_written_from_the_code_is_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "docs.py", "--check"], capture_output=True, text=True, timeout=90, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_readme_lists_every_setting_but_the_test_switches() -> None:
    text = (ROOT / "README.md").read_text()
    for row in describe_settings():
        assert (f"| `{row.name}` |" in text) is not row.name.startswith("testing."), row.name


CODES = found_codes.found(ROOT)


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_of_the_code_is_described_with_its_status(code: str) -> None:
    assert CODES[code] <= set(error_codes.EVERY[code].statuses)


def test_no_error_code_is_described_that_is_not_there() -> None:
    assert sorted(error_codes.EVERY) == sorted(CODES)


def test_error_codes_of_the_readme_are_those_of_the_code() -> None:
    rows = (ROOT / "README.md").read_text().partition("\n## Errors\n")[2].partition("\n## ")[0].splitlines()
    told = [row.split("|")[2] for row in rows if row.startswith("| 4") or row.startswith("| 5")]
    assert [code for cell in told for code in re.findall(r"`(\w+)`", cell) if code not in CODES] == []
    assert len(told) > 20


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
    fixed = [*keys.SINGLES.values(), keys.TOKENS, keys.GROUPS]
    assert [name for name in (*keys.PREFIXES.values(), *fixed) if f"`{name}" not in text] == []


_FIELD = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def _documented_fields(heading: str) -> set[str]:
    text = (ROOT / "docs" / "reference" / "log-fields.md").read_text()
    return set(_FIELD.findall(text.partition(f"## {heading}")[2].partition("\n## ")[0]))


def _written(caplog: pytest.LogCaptureFixture, write: Callable[[], None]) -> set[str]:
    """Return the fields beside those of every record that a line has."""
    caplog.clear()
    with caplog.at_level("DEBUG"):
        write()
    (line,) = caplog.records
    return vars(line).keys() - vars(logging.makeLogRecord({})).keys() - {"message", "asctime", "taskName"}


def test_every_field_of_a_requests_line_is_described(caplog: pytest.LogCaptureFixture) -> None:
    record = RequestRecord("0", "req_0", method="POST", path=b"/", client="?")
    record.kind, record.group = "chat.completions", "g"
    record.trace = RequestTraces(Tracing((), "api", "x")).begin(record, ())
    assert _written(caplog, lambda: request_log(record)) == _documented_fields("A request")


def test_every_field_of_a_runs_line_is_described(caplog: pytest.LogCaptureFixture) -> None:
    spec = JobSpec(tenant="a").within("g").traced(f"00-{1:032x}-{1:016x}-01")
    run = RunRecord(TakenJob(id="0", model="m", attempt=b"1.0", spec=spec, body=b"", queue_ms=0))
    run.end = End(status=500, code="internal_error")
    model = ModelSettings.model_validate({"backends": [{"url": "http://127.0.0.1:1/v1"}]})
    run.trace = RunTraces(Tracing((), "worker", "x"), Catalogue(Settings(models={"m": model}))).begin(run.job)
    assert _written(caplog, lambda: run_log(run)) == _documented_fields("A run")
