"""Who plays in the random runs: models, tokens, processes, and what workers hold."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from shared.room.scripts import AppendRow, LimitRow
from tests.shared.room_state import nonce_of

APIS: Final = ("api-1", "api-2", "api-3")
WORKERS: Final = ("w1", "w2", "w3")
BATCHES: Final = ("batch_1", "batch_2")
LEASE_MS: Final = 6_000
PERIOD_MS: Final = 1_000


class Tenant(NamedTuple):
    """A token's settings; weights are powers of two, so that every tag is an exact number."""

    weight: float
    rows: tuple[LimitRow, ...]
    """Its limits, and its group's."""
    group: str = ""
    group_weight: float = 0


GROUP: Final = LimitRow("group:g", 40, 12_000, 9, 4, 0, 30_000, 0, 60_000)
TENANTS: Final = {
    "a": Tenant(1, ()),
    "b": Tenant(2, (LimitRow("b", 30, 0, 0, 0, 0, 0, 0, 0), GROUP), "g", 2),
    "c": Tenant(0.5, (LimitRow("c", 0, 5_000, 4, 2, 9_000, 0, 25_000, 0), GROUP), "g", 2),
    "d": Tenant(1, (LimitRow("d", 3, 2_000, 0, 1, 0, 0, 0, 0),)),
    "e": Tenant(1, (), "few", 0.5),
}


class Step(NamedTuple):
    """What happens next."""

    name: str
    number: int


@dataclass(slots=True)
class Held:
    """A job in a worker's hands."""

    id: str
    model: str
    attempt: str
    sent: int = 0
    has_ended: bool = False
    until: float = math.inf
    """The worker knows that it holds it up to here."""


ENDINGS: Final[tuple[dict[str, Any], ...]] = (
    {"status": 200, "cost": 0.0, "usage": None, "run_ms": 5},
    {"status": 200, "cost": 16.0, "usage": {"prompt_tokens": 11, "completion_tokens": 5}},
    {"status": 500, "cost": 300.0, "usage": {"prompt_tokens": 200, "completion_tokens": 100}, "run_ms": 7},
)
CUTS: Final[tuple[dict[str, Any] | None, ...]] = (
    None,
    {"status": 499, "usage": {"prompt_tokens": 3, "completion_tokens": 1}, "cut": True, "run_ms": 2},
    {"status": 499, "usage": {"prompt_tokens": 0, "completion_tokens": 0}},
)


class Sent(NamedTuple):
    """Events of one job, and how it ended where the last one ends it."""

    held: Held
    start: int
    end: dict[str, Any] | None
    payloads: list[str]

    def row(self) -> AppendRow:
        """Return it as the script takes it."""
        ending = b"" if self.end is None else json.dumps(self.end).encode()
        payloads = tuple(map(str.encode, self.payloads))
        return AppendRow(self.held.id, self.held.attempt.encode(), self.start, ending, payloads)


class Broken(AssertionError):
    """Redis and the model differ, or a promise is broken."""


def event(attempt: str, number: int, kind: str) -> str:
    """Return an event that says whose it is."""
    return f"{kind}{nonce_of(attempt)}.{number}"
