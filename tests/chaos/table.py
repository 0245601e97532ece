"""What a fault's run showed: a row of the printed table, and every broken promise in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.answers import Answer
from tests.chaos.faults import ORPHAN_SECONDS, Fault
from tests.chaos.load import REFUSAL_SECONDS, Load
from tests.chaos.stand import Episode, Stand

COLUMNS = (
    "fault", "accepted", "completed", "errored", "client cut", "lost", "twice", "altered", "spliced", "ran again",
    "served again s", "slowest recovery s", "refused", "slowest refusal s", "leaked slots", "leaked keys",
)  # fmt: skip
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One fault's figures, in the order of `COLUMNS`, and what was wrong."""

    cells: tuple[str, ...]
    problems: tuple[str, ...]


def recovery_seconds(answers: Sequence[Answer], episodes: Sequence[Episode]) -> float:
    """Return the longest that a request under way at a harm heard nothing after the harm was over.

    Waiting for a slot behind others is part of it, as the caller waits all the same.
    """
    slowest = 0.0
    for episode in episodes:
        for answer in answers:
            if answer.verdict == "cut" or not answer.sent_at < episode.began_at < answer.ended_at:
                continue
            heard = next((at for at in answer.progress_at if at > episode.healed_at), answer.ended_at)
            slowest = max(slowest, heard - episode.healed_at)
    return slowest


def served_again_seconds(answers: Sequence[Answer], episodes: Sequence[Episode]) -> float:
    """Return the longest from the end of a harm to the next complete answer of anybody."""
    ends = sorted(answer.ended_at for answer in answers if answer.verdict == "completed")
    healed = [episode.healed_at for episode in episodes]
    return max((next((at for at in ends if at > since), math.inf) - since for since in healed), default=0.0)


def judge(fault: Fault, stand: Stand, load: Load, wanted: int) -> Row:
    """Ask the stand what is left, and compare all with what the fault allows."""
    slots = stand.leaked_slots()
    leaked = stand.leaked_keys()
    calls = stand.all_calls()
    load.settle_unsure(calls)
    answers = load.answers
    verdicts = Counter(answer.verdict for answer in answers)
    cut = [answer for answer in answers if answer.verdict == "cut"]
    lost = [answer for answer in answers if answer.verdict == "lost"] + ([] if fault.cuts else cut)
    twice = [answer for answer in answers if answer.is_doubled]
    altered = [answer for answer in answers if answer.is_altered]
    spliced = [answer for answer in answers if answer.is_spliced]
    again = sum(1 for answer in answers if calls[answer.marker] > 1)
    recovery = recovery_seconds(answers, stand.episodes)
    problems = [
        *_examples("lost", lost),
        *_examples("answered twice", twice),
        *_examples("altered", altered),
        *_examples("spliced from two runs", spliced),
        *_examples("an error that this fault does not excuse", _unexcused(fault, answers)),
        *stand.unexpected_exits(),
    ]
    if len(answers) < wanted:
        problems.append(f"only {len(answers)} requests were accepted, {wanted} are wanted")
    if slots:
        problems.append(f"{slots} slots, places in a queue or backend calls were not freed")
    if leaked:
        problems.append(f"keys without a lifetime: {leaked[:EXAMPLES]}")
    if recovery > fault.recovery_seconds:
        problems.append(f"a request heard nothing for {recovery:.1f} s, {fault.recovery_seconds:g} s are allowed")
    if load.slowest_refusal_seconds > REFUSAL_SECONDS:
        problems.append(f"a refusal took {load.slowest_refusal_seconds:.1f} s")
    if stand.slowest_orphan_seconds > ORPHAN_SECONDS:
        problems.append(f"jobs of a dead API process lived for {stand.slowest_orphan_seconds:.1f} s")
    cells = (
        fault.name, len(answers), verdicts["completed"], verdicts["errored"], len(cut) if fault.cuts else 0, len(lost),
        len(twice), len(altered), len(spliced), again, f"{served_again_seconds(answers, stand.episodes):.1f}",
        f"{recovery:.1f}", load.refused, f"{load.slowest_refusal_seconds:.1f}", slots, len(leaked),
    )  # fmt: skip
    return Row(tuple(map(str, cells)), tuple(problems))


def _unexcused(fault: Fault, answers: Sequence[Answer]) -> list[Answer]:
    errored = [answer for answer in answers if answer.verdict == "errored"]
    if fault.errors == "told":
        return []
    if fault.errors == "published":
        return [answer for answer in errored if not answer.content]
    return errored


def _examples(what: str, answers: Sequence[Answer]) -> list[str]:
    if not answers:
        return []
    shown = [
        f"{a.marker} ({'stream' if a.stream else 'plain'}, {a.model}, {a.verdict} {a.code} {a.detail}, "
        f"{a.ended_at - a.sent_at:.1f} s, {a.content[:20]!r}..{a.content[-12:]!r})"
        for a in answers[:EXAMPLES]
    ]
    return [f"{what}: {len(answers)}, such as " + "; ".join(shown)]


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as an aligned Markdown table."""
    lines = [COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    written = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    written.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(written)
