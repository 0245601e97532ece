"""A backend on a simulated clock: its capacity is shared evenly among the requests in flight, as an engine's batch is.

Up to the knee each request runs at full speed; past it all together get no more, or slightly less.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from shared.concurrency import Auto
from workers.capacity.controller import Controller, Reason
from workers.capacity.measure import Counts


@dataclass(frozen=True)
class Load:
    """What clients ask."""

    clients: Callable[[float], int]
    """How many want an answer at a time."""
    tokens: float = 60
    """Of an answer on average; they differ widely."""
    first_seconds: float = 0.2
    """To read a prompt, alone."""
    tokens_a_second: float = 30
    """Of one request, alone."""
    streams: bool = True


@dataclass
class Run:
    """What one run brought, a number a second."""

    limits: list[int] = field(default_factory=list)
    throughput: list[float] = field(default_factory=list)
    firsts: list[tuple[float, float]] = field(default_factory=list)
    """When a request had its first token, and after how long."""
    reasons: list[Reason] = field(default_factory=list)
    most_in_flight: int = 0

    def tokens(self, begin: int, end: int) -> float:
        """Return the tokens a second between two times."""
        return sum(self.throughput[begin:end]) / (end - begin)

    def first_token(self, begin: float, end: float) -> float:
        """Return the mean time to first token of what began to answer between two times."""
        times = [took for at, took in self.firsts if begin <= at < end]
        return sum(times) / max(1, len(times))


class Curve:
    """The backend and its clients; `run` it with a limit."""

    def __init__(
        self,
        knee: Callable[[float], float],
        load: Load,
        seed: int,
        *,
        falls: float = 0.0,
        smooth: float = 0.0,
        refuses_from: int = 10**9,
        seats: int = 10**9,
        noise: float = 0.0,
    ) -> None:
        self._knee, self._load, self._draw = knee, load, Random(seed)
        self._falls, self._smooth, self._refuses_from, self._seats = falls, smooth, refuses_from, seats
        self._noise = noise
        self._now, self._work = 0.0, 0.0
        self._heap: list[tuple[float, int, bool, float, float, float]] = []
        """Ends of phases by work done: (work, number, is first phase, began, tokens, length of the second phase)."""
        self._first, self._second = 0, 0
        self._queue: list[tuple[float, float, float]] = []
        """Inside the backend, where it has fewer seats than requests."""
        self._number = 0
        self._refused_until = 0.0
        self._changed_at = 0.0

    def speed(self, running: int) -> float:
        """Return the part of its full speed at which each request runs."""
        knee = self._knee(self._now)
        if self._smooth:
            return knee / (knee * (1 - self._smooth) + self._smooth * running + knee * self._smooth) if running else 1.0
        if running <= knee:
            return 1.0
        return knee / running * max(0.2, 1 - self._falls * (running - knee) / knee)

    def run(self, seconds: int, limit: int | Controller) -> Run:
        """Run for some seconds, with a fixed limit or with what a controller says each second."""
        run, load = Run(), self._load
        begin = round(self._now)
        for second in range(begin, begin + seconds):
            allowed = limit if isinstance(limit, int) else limit.limit
            if run.limits and allowed != run.limits[-1]:
                self._changed_at = self._now
            run.limits.append(allowed)
            counts = Counts(seconds=1.0)
            tokens = self._advance(second + 1.0, min(allowed, load.clients(float(second))), counts, run)
            run.throughput.append(tokens)
            if isinstance(limit, Controller):
                reason = limit.tick(counts, float(len(self._queue)) if self._seats < 10**9 else None)
                if reason is not None:
                    run.reasons.append(reason)
        return run

    def _in_flight(self) -> int:
        return self._first + self._second + len(self._queue)

    def _fill(self, wanted: int, counts: Counts, run: Run) -> None:
        load, draw = self._load, self._draw
        while self._in_flight() < wanted:
            if self._in_flight() >= self._refuses_from:
                if self._now >= self._refused_until:
                    counts.refused += 1
                    self._refused_until = self._now + 0.3
                break
            tokens = max(1.0, draw.lognormvariate(math.log(load.tokens) - 0.18, 0.6))
            prompt = load.first_seconds * draw.lognormvariate(-0.125, 0.5)
            self._queue.append((self._now, tokens, prompt))
            self._seat()
        run.most_in_flight = max(run.most_in_flight, self._in_flight())

    def _seat(self) -> None:
        while self._queue and self._first + self._second < self._seats:
            began, tokens, prompt = self._queue.pop(0)
            self._number += 1
            rest = tokens / self._load.tokens_a_second
            heapq.heappush(self._heap, (self._work + prompt, self._number, True, began, tokens, rest))
            self._first += 1

    def _advance(self, until: float, wanted: int, counts: Counts, run: Run) -> float:
        done = 0.0
        while True:
            self._fill(wanted, counts, run)
            running = self._first + self._second
            speed = self.speed(running)
            if self._noise:
                speed *= self._draw.lognormvariate(0, self._noise)
            step = until - self._now
            if self._heap:
                step = min(step, max(0.0, (self._heap[0][0] - self._work) / speed))
            step = min(step, 0.05)
            self._pass(step, speed, counts)
            done += step * speed * self._second * self._load.tokens_a_second
            while self._heap and self._heap[0][0] <= self._work + 1e-9:
                self._end_of_phase(counts, run)
            if self._now >= until - 1e-9:
                return done

    def _pass(self, step: float, speed: float, counts: Counts) -> None:
        self._now += step
        self._work += step * speed
        counts.slot_seconds += step * self._in_flight()
        if self._load.streams:
            counts.first_seconds += step * (self._first + len(self._queue))
            counts.stream_seconds += step * self._second
            counts.chunks += step * speed * self._second * self._load.tokens_a_second  # type: ignore[assignment]

    def _end_of_phase(self, counts: Counts, run: Run) -> None:
        work, number, is_first, began, tokens, rest = heapq.heappop(self._heap)
        if is_first:
            self._first, self._second = self._first - 1, self._second + 1
            run.firsts.append((self._now, self._now - began))
            counts.firsts += self._load.streams
            heapq.heappush(self._heap, (work + rest, number, False, began, tokens, rest))
            return
        self._second -= 1
        if self._load.streams:
            counts.ends += 1
            counts.end_chunks += round(tokens)
            counts.end_tokens += round(tokens)
        elif began >= self._changed_at:
            counts.plain_ends += 1
            counts.plain_seconds += self._now - began
            counts.plain_units += tokens
        self._seat()


def found(curve: Curve, seconds: int, most: int = 256) -> tuple[Run, Controller]:
    """Return a run from a cold start, and its controller."""
    controller = Controller(Auto(1, most))
    return curve.run(seconds, controller), controller
