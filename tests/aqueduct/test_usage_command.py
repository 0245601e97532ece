"""`aqueduct usage`: what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from aqueduct.cli import main

CONFIG = "models: {m: {backends: [{url: 'http://127.0.0.1:1/v1'}]}}\nredis_url: redis://127.0.0.1:1/0\n"


@pytest.mark.parametrize(
    "arguments",
    [["--since", "2h", "--until", "3h"], ["--until", "2020-01-01"], ["--since", "2999-01-01"]],
)
def test_a_time_that_ends_before_it_begins_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "aqueduct.yaml").write_text(CONFIG)
    assert main(["usage", "--config", str(tmp_path / "aqueduct.yaml"), *arguments]) == 2
    assert "--since: must be before --until, which is now where it is not given" in capsys.readouterr().err
