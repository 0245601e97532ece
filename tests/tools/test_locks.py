"""Lock files hold versions and hashes, never where they were fetched: that is each machine's own business."""

from __future__ import annotations

import pytest

from tests.support.processes import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock", "tests/node/package-lock.json")


@pytest.mark.parametrize("name", LOCKS)
def test_lock_file_names_no_index(name: str) -> None:
    lock = (ROOT / name).read_text()
    assert lock.count("\n") > 10
    assert "resolved" not in lock
    assert "://" not in lock
