"""A small run of the suite's own, among the tests: cancels at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.cancels import run_cancels
from tests.chaos.usage import run_usage

pytestmark = pytest.mark.chaos


def test_clients_that_leave_at_any_moment_mix_no_answers_up_and_keep_no_slot(tmp_path: Path) -> None:
    assert run_cancels(tmp_path, 400) == []


def test_usage_is_what_the_backend_said_whatever_was_killed(tmp_path: Path) -> None:
    assert run_usage(tmp_path, 300) == []
