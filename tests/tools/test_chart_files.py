"""The chart's generated files are those of its `values.yaml`, and its versions are ours."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from shared.version import VERSION
from tests.support.processes import ROOT
from tools import chart


def test_table_schema_and_copies_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "chart.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_chart_is_of_this_version() -> None:
    found = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert found["appVersion"] == VERSION


def test_table_names_every_value_and_its_default() -> None:
    text = chart.README.read_text()

    def assert_told(values: dict[str, Any], above: str) -> None:
        for key, value in values.items():
            name = f"{above}{key}"
            if isinstance(value, dict) and f"| `{name}` |" not in text:
                assert_told(value, f"{name}.")
            else:
                (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
                if value not in ("", {}, []) and not isinstance(value, dict):
                    assert f"`{json.dumps(value)}`" in row

    assert_told(yaml.safe_load((chart.CHART / "values.yaml").read_text()), "")


def test_a_value_without_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values.yaml: a\.b needs a line"):
        chart.read_values("a:\n  b: 1\n")


def test_a_model_takes_what_workers_take() -> None:
    schema = json.loads(chart.SCHEMA.read_text())
    worker = schema["properties"]["worker"]["properties"]
    model = schema["properties"]["models"]["additionalProperties"]["properties"]
    assert model == worker | {name: model[name] for name in ("settings", "secret", "wake")}
