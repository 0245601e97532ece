"""Two harms of `python -m tests.chaos batches`, in its short form; `make chaos-short` does all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.batches import TESTED, run_harm
from tests.support.batch_site import Site


@pytest.mark.parametrize("harm", TESTED)
def test_whatever_dies_each_line_has_one_record_and_few_run_again(tmp_path: Path, harm: Callable[[Site], None]) -> None:
    assert run_harm(tmp_path, harm, 200) == []
