"""The lines of one batch that have begun and not ended, and which of them Redis is to be given when."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import Final

from shared.room.lines import LineJob

FIRST_BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 60.0
MAX_BYTES: Final = 32 * 1024 * 1024
"""Of bodies that one feeder holds; one line may be larger."""


@dataclass(slots=True)
class Flight:
    """A line under way."""

    number: int
    custom_id: str
    job: LineJob
    tries: int = 1
    is_missed: bool = False
    """Redis said that it has ended, and the sink did not tell of it."""


class Window:
    """At most so many lines at once, as the model's slots for batches call for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """May change."""
        self._flights: dict[int, Flight] = {}
        self._bytes = 0
        self._waiting: list[tuple[float, int]] = []
        """Lines that Redis is to be given, and when."""
        self._numbers: set[int] = set()
        """The same, without when."""

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def has_room(self) -> bool:
        """Whether another line may begin."""
        return len(self._flights) < self.limit and (self._bytes < MAX_BYTES or not self._flights)

    @property
    def is_slack(self) -> bool:
        """Whether many lines pause before another try, so that others could use the slots."""
        return 2 * len(self._numbers) > self.limit

    def begin(self, flight: Flight) -> None:
        """Take a line in; it is to be admitted at once."""
        self._flights[flight.number] = flight
        self._bytes += len(flight.job.body)
        self._give(flight, 0.0)

    def _give(self, flight: Flight, when: float) -> None:
        if flight.number not in self._numbers:
            self._numbers.add(flight.number)
            heapq.heappush(self._waiting, (when, flight.number))

    def find(self, number: int) -> Flight | None:
        """Return a line that is under way."""
        return self._flights.get(number)

    def end(self, flight: Flight) -> None:
        """Let a line go."""
        del self._flights[flight.number]
        self._bytes -= len(flight.job.body)

    def again(self, flight: Flight, now: float, retry_after: float | None) -> None:
        """Have a line that failed tried again, after a pause that grows; or as long as the backend asks for."""
        pause = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (flight.tries - 1)) * random.uniform(0.5, 1.0)
        flight.tries += 1
        self._give(flight, now + max(pause, retry_after or 0.0))

    def lost(self, flight: Flight) -> None:
        """Have a line admitted again of which Redis knows nothing."""
        flight.is_missed = False
        self._give(flight, 0.0)

    def due(self, now: float) -> list[Flight]:
        """Return the lines that are to be admitted now; what is not is put back by `lost`."""
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            number = heapq.heappop(self._waiting)[1]
            self._numbers.discard(number)
            if (flight := self._flights.get(number)) is not None:
                found.append(flight)
        return found

    def admitted(self) -> list[Flight]:
        """Return the lines that Redis should know."""
        return [flight for number, flight in self._flights.items() if number not in self._numbers]

    def all(self) -> list[Flight]:
        """Return every line."""
        return list(self._flights.values())
