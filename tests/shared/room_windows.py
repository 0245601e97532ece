"""The model of limits: what was used and promised stands in lists by second, and is counted anew at each look."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from shared.protocol import BUDGET_MS, CLOCK_GRAIN_S, PROMISE_KEPT_S, PROMISE_S, WINDOW_MS
from shared.room.scripts import AdmitArguments, LimitRow
from tests.shared.room_limits import ADMIT_LIMITS

if TYPE_CHECKING:
    from tests.shared.room_state import Job

Amount = tuple[int, int]
"""Requests and tokens."""


@dataclass(slots=True)
class Window:
    """What a subject used and was promised, by second."""

    at: int
    used: dict[int, Amount] = field(default_factory=dict)
    promised: dict[int, Amount] = field(default_factory=dict)
    expires: float = -math.inf

    def add(self, second: int, requests: int, tokens: int) -> None:
        """Count in a second."""
        known = self.used.get(second, (0, 0))
        self.used[second] = known[0] + requests, max(0, known[1] + tokens)

    def promise(self, second: int, requests: int, tokens: int) -> None:
        """Count a promise, or with -1 take it away."""
        known = self.promised.get(second, (0, 0))
        self.promised[second] = max(0, known[0] + requests), max(0, known[1] + requests * tokens)

    def at_second(self, second: int) -> Amount:
        """Return what counts in a second: all of the 60 before it, and promises as if they came late."""
        used = [amount for when, amount in self.used.items() if second - 61 < when <= second]
        late = [amount for when, amount in self.promised.items() if second - 61 - PROMISE_KEPT_S < when <= second]
        both = [*used, *late]
        return sum(amount[0] for amount in both), sum(amount[1] for amount in both)


class Promises(NamedTuple):
    """Places of one token and body: second and tokens."""

    places: tuple[tuple[int, int], ...]
    expires: float


@dataclass(slots=True)
class Claim:
    """What a request that is let in may take."""

    key: str
    windows: dict[str, Window]
    claimed: tuple[int, int] | None
    left: tuple[tuple[int, int], ...]


class Limits:
    """What limits count."""

    now: float
    ttl_now: float

    def __init__(self) -> None:
        self.second = 0
        """Of the windows' clock, which moves by whole seconds only."""
        self.real_ms = 0
        """As budgets count days."""
        self.windows: dict[str, Window] = {}
        self.promises: dict[str, Promises] = {}
        self.budgets: dict[str, tuple[dict[str, int], float]] = {}
        self.token_jobs: dict[str, dict[str, float]] = {}
        self.token_jobs_expire: dict[str, float] = {}
        self.subject_waits: dict[str, dict[str, float]] = {}
        self.subject_waits_expire: dict[str, float] = {}

    def limits_at(self, ttl_now: float) -> None:
        """Let what has outlived its lifetime go."""
        self.windows = {name: kept for name, kept in self.windows.items() if kept.expires > ttl_now}
        self.promises = {name: kept for name, kept in self.promises.items() if kept.expires > ttl_now}
        self.budgets = {name: kept for name, kept in self.budgets.items() if kept[1] > ttl_now}
        for ends, expire in (
            (self.token_jobs, self.token_jobs_expire),
            (self.subject_waits, self.subject_waits_expire),
        ):
            for name in [name for name, until in expire.items() if until <= ttl_now]:
                ends.pop(name, None)
                del expire[name]

    # Who is let in --------------------------------------------------------------------------------------------------

    def judge(self, asked: AdmitArguments, rows: Sequence[LimitRow]) -> tuple[str, int, Claim | None]:
        """Return the verdict, for a rate the second to come again, and what is claimed."""
        tokens = math.ceil(asked.cost)
        for row in rows:
            if 0 < row.tokens_per_minute < tokens:
                return "large", 0, None
            if self._is_spent(row):
                return "budget", 0, None
            ends = self.token_jobs.get(row.subject, {}).values()
            if row.concurrent_jobs and sum(end > self.now for end in ends) >= row.concurrent_jobs:
                return "jobs", 0, None
        minutely = [row for row in rows if row.requests_per_minute or row.tokens_per_minute]
        return self._rate(asked, minutely, tokens) if minutely else ("", 0, None)

    def is_full_of_waits(self, rows: Sequence[LimitRow]) -> bool:
        """Say whether some subject has too many waiting."""
        return any(
            row.waiting_jobs
            and sum(end > self.now for end in self.subject_waits.get(row.subject, {}).values()) >= row.waiting_jobs
            for row in rows
        )

    def _is_spent(self, row: LimitRow) -> bool:
        used = self.budgets.get(row.subject, ({}, 0.0))[0]
        day, month = self._periods()
        limits = {day + "t": row.tokens_per_day, month + "t": row.tokens_per_month}
        limits |= {day + "s": row.slot_ms_per_day, month + "s": row.slot_ms_per_month}
        return any(most and used.get(name, 0) >= most for name, most in limits.items())

    def _periods(self) -> tuple[str, str]:
        day = datetime.fromtimestamp(self.real_ms / 1000, UTC)
        return f"d{self.real_ms // 86_400_000}", f"m{day.year * 12 + day.month - 1}"

    def _rate(self, asked: AdmitArguments, rows: Sequence[LimitRow], tokens: int) -> tuple[str, int, Claim | None]:
        windows = {row.subject: self._present(row.subject) for row in rows}
        present = max(window.at for window in windows.values())
        known = self.promises.get(asked.promised_to)
        places = [one for one in known.places if one[0] + PROMISE_KEPT_S >= present] if known else []
        if all(not any(window.promised.values()) for window in windows.values()) and self._fit(
            rows, windows, present, tokens, 61
        ):
            return "", 0, Claim(asked.promised_to, windows, None, ())
        claimed = places.pop(0) if places and (asked.is_retry or places[0][0] <= present) else None
        if claimed is not None:
            for window in windows.values():
                window.promise(claimed[0], -1, claimed[1])
        if self._fit(rows, windows, present, tokens, 61):
            return "", 0, Claim(asked.promised_to, windows, claimed, tuple(places))
        if claimed is not None and claimed[0] > present:
            return "rate", claimed[0], None
        seconds = range(present + 1, present + PROMISE_S + 1)
        due = next((one for one in seconds if self._fit(rows, windows, one, tokens, 61 + PROMISE_KEPT_S)), None)
        if due is None:
            return "rate", 0, None
        places = sorted([*places, (due, tokens)])
        self._keep_promises(asked.promised_to, places)
        for subject, window in windows.items():
            window.promise(due, 1, tokens)
            window.add(window.at, 0, 0)  # it has a place for that second, though nothing was used in it
            window.expires = self.ttl_now + WINDOW_MS
            self.windows[subject] = window
        return "rate", due, None

    def _present(self, subject: str) -> Window:
        """Return a window as it is now, apart from what is kept."""
        kept, second = self.windows.get(subject), self.second
        if kept is None:
            return Window(second)
        if 0 < kept.at - second <= CLOCK_GRAIN_S:
            second = kept.at
        fresh = Window(second, expires=kept.expires)
        if kept.at > second:
            fresh.add(second, sum(one[0] for one in kept.used.values()), sum(one[1] for one in kept.used.values()))
        else:
            fresh.used = {when: amount for when, amount in kept.used.items() if when > second - 61}
            fresh.promised = {when: one for when, one in kept.promised.items() if when + PROMISE_KEPT_S >= second}
        return fresh

    @staticmethod
    def _fit(rows: Sequence[LimitRow], windows: dict[str, Window], start: int, tokens: int, seconds: int) -> bool:
        for row in rows:
            for second in range(start, start + seconds):
                used = windows[row.subject].at_second(second)
                if row.requests_per_minute and used[0] + 1 > row.requests_per_minute:
                    return False
                if row.tokens_per_minute and used[1] + tokens > row.tokens_per_minute:
                    return False
        return True

    def _keep_promises(self, key: str, places: Sequence[tuple[int, int]]) -> None:
        self.promises.pop(key, None)
        if places:
            lives_ms = (places[-1][0] - self.second + PROMISE_KEPT_S + 1) * 1000 - self.real_ms % 1000
            self.promises[key] = Promises(tuple(places), self.ttl_now + max(1, lives_ms))

    # What is kept of a job ------------------------------------------------------------------------------------------

    def charge(self, job: Job, claim: Claim | None, life_ms: int, *, must_wait: bool) -> None:
        """Count a job that is let in."""
        if claim is not None:
            for subject, window in claim.windows.items():
                window.add(window.at, 1, math.ceil(job.asked.cost))
                self._keep(subject, window)
                job.seconds[subject] = window.at
            if claim.claimed is not None:
                self._keep_promises(claim.key, claim.left)
        for row in job.rows:
            if row.concurrent_jobs:
                self._hold(self.token_jobs, self.token_jobs_expire, row.subject, job.id, self.now + life_ms, life_ms)
            if row.waiting_jobs and must_wait:
                self._hold(self.subject_waits, self.subject_waits_expire, row.subject, job.id, job.deadline, life_ms)

    def _keep(self, subject: str, window: Window) -> None:
        kept = self.windows.get(subject)
        if kept is None or kept.at != window.at:
            window.expires = self.ttl_now + WINDOW_MS
        self.windows[subject] = window

    def _hold(
        self, held: dict[str, dict[str, float]], expire: dict[str, float], subject: str, job_id: str, until: float,
        life_ms: int,
    ) -> None:  # fmt: skip
        known = held.get(subject, {})
        if not known or expire[subject] - self.ttl_now < life_ms:
            expire[subject] = self.ttl_now + 2 * life_ms
            # What lies behind goes with it: that may be the job itself, which waits again after its deadline.
            held[subject] = {name: end for name, end in {**known, job_id: until}.items() if end > self.now}
            return
        held[subject] = {**known, job_id: until}

    def leave_waits(self, job: Job) -> None:
        """Let a job wait no more."""
        for row in job.rows:
            self.subject_waits.get(row.subject, {}).pop(job.id, None)

    def limits_wait_again(self, job: Job) -> None:
        """Let a job wait that had begun."""
        life = ADMIT_LIMITS[job.model].life_ms
        for row in job.rows:
            if row.concurrent_jobs and job.id in self.token_jobs.get(row.subject, {}):
                del self.token_jobs[row.subject][job.id]
                self._hold(self.token_jobs, self.token_jobs_expire, row.subject, job.id, self.now + life, life)
            if row.waiting_jobs:
                self._hold(self.subject_waits, self.subject_waits_expire, row.subject, job.id, job.deadline, life)
            if slot_ms := self._slot_ms(job):
                self._charge_budgets(row, 0, slot_ms)

    def _slot_ms(self, job: Job) -> float:
        held = 0.0 if job.taken is None else self.now - job.taken
        return min(max(0.0, held), ADMIT_LIMITS[job.model].life_ms)

    def settle_limits(self, job: Job, log_length: int) -> None:
        """Give back what an ended job held, and charge what it has used."""
        was_waiting = job.state == "waiting"
        if was_waiting:
            tokens = 0
            self.leave_waits(job)
        elif job.used is not None:
            tokens = math.floor(job.used + 0.5)
        else:
            tokens = math.ceil(min(job.asked.cost, job.asked.size / 4 + log_length))
        slot_ms = 0 if was_waiting else self._slot_ms(job)
        for row in job.rows:
            self.token_jobs.get(row.subject, {}).pop(job.id, None)
            more = tokens - math.ceil(job.asked.cost)
            if more and row.tokens_per_minute:
                self._settle_window(row.subject, job.seconds[row.subject], more)
            if tokens or slot_ms:
                self._charge_budgets(row, tokens, slot_ms)

    def _settle_window(self, subject: str, second: int, more: int) -> None:
        kept = self.windows.get(subject)
        is_there = kept is not None and max(kept.at, self.second) - 61 < second <= kept.at
        if kept is not None and is_there and second in kept.used:
            kept.add(second, 0, more)
        elif more > 0:
            window = self._present(subject)
            window.add(window.at, 0, more)
            self._keep(subject, window)

    def _charge_budgets(self, row: LimitRow, tokens: int, slot_ms: float) -> None:
        if not any((row.tokens_per_day, row.tokens_per_month, row.slot_ms_per_day, row.slot_ms_per_month)):
            return
        used, expires = self.budgets.get(row.subject, ({}, 0.0))
        day, month = self._periods()
        if day + "t" not in used:
            expires = self.ttl_now + BUDGET_MS
        for name, more in ((day + "t", tokens), (day + "s", slot_ms), (month + "t", tokens), (month + "s", slot_ms)):
            used[name] = used.get(name, 0) + round(more)
        self.budgets[row.subject] = used, expires

    def seconds_of(self, subject: str) -> Iterator[tuple[str, int]]:
        """Yield what a window's hash must hold, but for zeros."""
        window = self.windows[subject]
        used = {when: amount for when, amount in window.used.items() if window.at - 61 < when <= window.at}
        yield "r", sum(amount[0] for amount in used.values())
        yield "t", sum(amount[1] for amount in used.values())
        for when, (requests, tokens) in used.items():
            yield f"r@{when}", requests
            yield f"t@{when}", tokens
        for when, (requests, tokens) in window.promised.items():
            if when + PROMISE_KEPT_S >= window.at:
                yield f"p@{when}", requests
                yield f"pt@{when}", tokens
