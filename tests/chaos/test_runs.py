"""A small run of the suite's own, among the tests: cancels at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.cancels import run_cancels

pytestmark = pytest.mark.chaos


def test_clients_that_leave_at_any_moment_mix_no_answers_up_and_keep_no_slot(tmp_path: Path) -> None:
    assert run_cancels(tmp_path, 400) == []
