"""A job's story as steps."""

from __future__ import annotations

from typing import Any

import pytest

from api.ui.timeline import steps_of
from shared.holds import Hold

BEGIN = 1_700_000_000.0


def told(state: str, *, taken: float | None = None, ended: float | None = None, **more: Any) -> dict[str, Any]:
    times = {"accepted": BEGIN, "taken": taken, "first_token": None, "ended": ended}
    story: dict[str, Any] = {
        "state": state,
        "lane": "default",
        "runs": [],
        "timeline": times,
        "outcome": None,
        "held": None,
    }
    return {**story, "position": None, "worker": None, "attempts": 1, **more}


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("room", "all slots are busy, 3 before it"),
        (None, "all slots are busy, 3 before it"),
        ("paused", "an operator holds the model, 3 before it"),
        ("new-word", "new-word, 3 before it"),
    ],
)
def test_what_waits_says_for_what_in_words(reason: str | None, words: str) -> None:
    steps = steps_of(told("waiting", held=reason, position=3), BEGIN + 5)
    assert [(step.name, step.note, step.seconds) for step in steps[1:]] == [("Waits", words, 5.0)]


@pytest.mark.parametrize("reason", [*Hold, "new-word"])
def test_what_has_waited_says_for_what_in_the_words_of_the_now_page(reason: str) -> None:
    outcome = {"status": 200, "code": None, "waited_for": str(reason)}
    run: dict[str, Any] = {
        "attempt": 1,
        "worker": "w",
        "began": BEGIN + 2,
        "seconds": 1.0,
        "stopped": None,
        "calls": [],
        **outcome,
    }
    steps = steps_of(told("ended", taken=BEGIN + 2, ended=BEGIN + 3, outcome=outcome, runs=[run]), BEGIN + 9)
    (waited,) = (step.note for step in steps if step.name == "Waited")
    assert (waited == reason) == (reason == "new-word")
    assert reason != Hold.ROOM or waited == "all slots were busy"
