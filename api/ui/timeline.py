"""A job's story as steps on a line: what it waited for, who ran it, each call of a backend, first token, end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from api.ui.wait_words import waited_for, waits_for
from shared.holds import Hold

WIDTH: Final = 1000
"""Of the picture, in units of its own."""
LEAST: Final = 6
"""A step that took no time is still seen."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row: words, and a bar from `x` on, so `width` wide."""

    name: str
    note: str
    at: float
    seconds: float | None
    """None for a moment."""
    kind: str
    """wait, run, call, bad or mark."""
    after: float = 0.0
    """Seconds since the job was accepted."""
    x: int = 0
    width: int = 0


def steps_of(told: Mapping[str, Any], now: float) -> list[Step]:
    """Return the steps of a job as `Story.as_json` tells it, at a moment (Unix seconds)."""
    times = told["timeline"]
    begin, end = times["accepted"], times["ended"] or now
    was_accepted = told["state"] != "ended" or told["runs"] or times["taken"]
    first = Step("Accepted" if was_accepted else "Arrived", f"{told['lane'] or 'no'} lane", begin, None, "mark")
    found = [first, *_middle(told, begin, end)]
    if times["first_token"]:
        found.append(Step("First token", "", times["first_token"], None, "mark"))
    if times["ended"]:
        outcome = told["outcome"]
        is_good = outcome is not None and outcome["status"] == 200 and outcome["code"] is None
        found.append(Step("Ended", end_text(outcome), times["ended"], None, "mark" if is_good else "bad"))
    # Times of several processes: a step may seem to begin a little before the one that it follows.
    order = {"call": 1, "mark": 1}
    found.sort(key=lambda step: (step.at, step.name == "Ended", order.get(step.kind, 0) if step is not first else -1))
    span = max(end - begin, 0.001)
    return [_placed(step, begin, span) for step in found]


def end_text(outcome: Mapping[str, Any] | None) -> str:
    """Return how a job ended, in a few words."""
    if outcome is None:
        return "how is told within moments"
    if outcome["status"] == 499 and not outcome["code"]:
        return "499: its client left"
    return f"{outcome['status']} {outcome['code'] or ''}".strip()


def _middle(told: Mapping[str, Any], begin: float, end: float) -> Iterator[Step]:
    """Yield what it waited for and who ran it."""
    outcome, state, taken = told["outcome"], told["state"], told["timeline"]["taken"]
    reason = told["held"] or (outcome["waited_for"] if outcome is not None else None)
    at, number = begin, 0
    for run in told["runs"]:
        yield from _lost(number + 1, run["attempt"], at)
        number = run["attempt"]
        yield from _wait(at, run["began"], reason if at == begin else None)
        at = run["began"] + (run["seconds"] or 0)
        yield from _run(run)
    if state == "waiting":
        place = f", {told['position']} before it" if told["position"] is not None else ""
        yield Step("Waits", f"{waits_for(reason or Hold.ROOM)}{place}", at, max(0.0, end - at), "wait")
    elif state in ("running", "cancelled") and taken:
        yield from _lost(number + 1, told["attempts"], at)
        yield from _wait(at, taken, None)
        who = told["worker"] or "a worker that was not heard of lately"
        name = "Is stopped" if state == "cancelled" else "Runs"
        yield Step(name, f"attempt {told['attempts']}, {who}", taken, max(0.0, end - taken), "run")
    elif not told["runs"] and taken:
        yield from _wait(begin, taken, reason)
        yield Step("Ran", "of its run nothing is kept", taken, max(0.0, end - taken), "run")
    elif not told["runs"] and end > begin:
        yield from _wait(begin, end, reason)


def _wait(since: float, until: float, reason: str | None) -> Iterator[Step]:
    if until - since >= 0.001:
        yield Step("Waited", waited_for(reason), since, until - since, "wait")


def _lost(first: int, before: int, at: float) -> Iterator[Step]:
    for attempt in range(first, before):
        yield Step(f"Attempt {attempt}", "its worker was lost, or has not told of it", at, None, "bad")


def _run(run: Mapping[str, Any]) -> Iterator[Step]:
    end = f"stopped: {run['stopped']}" if run["stopped"] else end_text(run)
    note = f"attempt {run['attempt']}, {run['worker']}: {end}"
    yield Step("Run", note, run["began"], run["seconds"] or 0.0, "run")
    for call in run["calls"]:
        is_good = call["status"] == 200
        what = f"{call['backend'] or 'a backend that is gone'}: {end_text(call)}"
        yield Step("Call", what, call["began"], call["seconds"] or 0.0, "call" if is_good else "bad")


def _placed(step: Step, begin: float, span: float) -> Step:
    x = round(min(1.0, max(0.0, (step.at - begin) / span)) * (WIDTH - LEAST))
    width = round(min(WIDTH - x, max(LEAST, (step.seconds or 0.0) / span * WIDTH)))
    return replace(step, after=max(0.0, step.at - begin), x=x, width=width)
