"""The short run of the suite, among the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack.__main__ import attack


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_no_hostile_input_harms_the_stack_or_learns_a_secret(tmp_path: Path) -> None:
    found = attack(tmp_path, short=True)
    assert found.failures == []
    assert sum(checks for _, checks, _, _ in found.rows) > 500
