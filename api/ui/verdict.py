"""What a model's figures come to, in a sentence for whoever has to decide whether to do something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from api.ui.filters import seconds
from shared.holds import Hold
from shared.metrics.history import Calls, Span, is_failure
from shared.room.upkeep import Depth
from shared.settings import ModelSettings

Kind = Literal["good", "warn", "bad", ""]

FEW: Final = 3
"""Fewer failures are no pattern."""
TOO_MANY: Final = 0.05
TOO_MANY_CALLS: Final = 0.2
LONG_SHARE: Final = 0.25
"""Of `max_wait_seconds`: who has waited longer is worth a look."""


class Verdict(NamedTuple):
    """How a model is."""

    kind: Kind
    word: str
    """For a badge."""
    text: str
    """A sentence or two."""


def verdict(
    settings: ModelSettings, depth: Depth, slots: int, lately: Span, calls: Mapping[str, Calls] | None = None
) -> Verdict:
    """Return what stands out most; `lately` are the last minutes, `calls` what became of each backend's."""
    return (
        _held(settings, depth)
        or _failing(lately, calls or {})
        or _waiting(settings, depth, slots, lately)
        or (
            Verdict("good", "well", f"{depth.running} of {slots} slots are busy, and nothing waits.")
            if depth.running
            else Verdict("", "idle", "Nothing runs, and nothing waits.")
        )
    )


def _held(settings: ModelSettings, depth: Depth) -> Verdict | None:
    waiting, running = sum(depth.waiting.values()), depth.running
    still = f"{_many(running, 'request')} still run{'s' if running == 1 else ''}, {waiting} wait."
    if not running:
        still = f"Nothing runs any more, {waiting} wait." if waiting else "Nothing runs, and nothing waits."
    match depth.state:
        case "retired":
            return Verdict("warn", "retired", f"An operator has retired it: new requests are refused. {still}")
        case "draining":
            word = "draining" if running else "drained"
            return Verdict("warn", word, f"An operator drains it: nothing is begun. {still}")
        case "paused":
            return Verdict("warn", "paused", f"An operator has paused it: nothing is begun. {still}")
    if not depth.workers and settings.when_absent == "fail":
        return Verdict("bad", "no worker", f"No worker serves it: requests are refused with 503. {waiting} wait.")
    if not depth.workers:
        if waiting:
            return Verdict("warn", "no worker", f"No worker serves it yet. {waiting} wait until one does.")
        return Verdict("", "asleep", "No worker serves it; whoever comes waits until one does.")
    if depth.held == Hold.STARTING:
        if waiting:
            return Verdict("warn", "starting", f"No backend is there yet. {waiting} wait until one is.")
        return Verdict("", "asleep", "No backend is there; the next request wakes it.")
    if depth.held == Hold.BACKEND:
        return Verdict("warn", "backends held", f"Operators hold all of its backends: nothing is begun. {still}")
    return Verdict("warn", "held", f"It is held: {depth.held}. {still}") if depth.held else None


def _failing(lately: Span, calls: Mapping[str, Calls]) -> Verdict | None:
    total, failed = lately.total(), lately.failed()
    if failed >= FEW and failed >= TOO_MANY * total:
        outcomes = {name: number for name, number in lately.requests().items() if is_failure(name)}
        worst = max(outcomes, key=lambda name: outcomes[name])
        return Verdict("bad", "failing", f"{failed} of {total} requests failed in the last minutes, most with {worst}.")
    for address, one in calls.items():
        if one.failed >= FEW and one.failed >= TOO_MANY_CALLS * one.total:
            text = f"The backend {address} failed {one.failed} of {one.total} calls in the last minutes."
            return Verdict("warn", "backend fails", text)
    return None


def _waiting(settings: ModelSettings, depth: Depth, slots: int, lately: Span) -> Verdict | None:
    waiting = sum(depth.waiting.values())
    if not waiting:
        return None
    is_long = depth.oldest_request_ms / 1000 > LONG_SHARE * settings.max_wait_seconds
    oldest = seconds(depth.oldest_ms / 1000)
    many = f"{_many(waiting, 'request')} wait{'s' if waiting == 1 else ''}, the oldest for {oldest}"
    if depth.running < slots:
        why = _reason(depth, lately)
        return Verdict("warn" if is_long else "good", "waiting", f"{many}, though slots are free{why}.")
    text = f"All {slots} slots are busy. {many}."
    if depth.ends:
        text += f" At {depth.ends} ends a minute the last of them begins in about {seconds(waiting * 60 / depth.ends)}."
    return Verdict("warn" if is_long else "good", "busy", text)


_REASONS: Final = {
    Hold.TENANT: "their token, or its group, may have no more running",
    Hold.LANE: "batch work is outside its hours, or leaves the rest to others",
    Hold.BACKEND: "the backends take fewer now",
    Hold.ROOM: "they have only just come, or their turn is next",
}


def _reason(depth: Depth, lately: Span) -> str:
    if depth.waiting["batch"] == sum(depth.waiting.values()):
        return f": {_REASONS[Hold.LANE]}"
    word = next(iter(lately.held()), "")
    return f": {_REASONS[Hold(word)]}" if word in _REASONS else ""


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
