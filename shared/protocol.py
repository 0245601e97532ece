"""What every process on one Redis must agree on: the protocol's number, and the numbers that Lua and Python share.

The scripts get these by name (`shared/scripting.py`), so each stands once. `docs/protocol.md` tells the rules.
"""

from __future__ import annotations

from typing import Final

PROTOCOL: Final = 2
"""Grows with every change after which older processes would misread newer ones' data. Two never share one Redis."""

DAY_MS: Final = 86_400_000
"""Lifetime of a model's keys, renewed by every sweep while any process lives."""
COUNTS_MS: Final = 30 * DAY_MS
"""What metrics have counted for a model stays so long after the last word of it."""
HISTORY_POINTS: Final = 240
"""So many points of a model's past are kept: an hour of them."""
HISTORY_MS: Final = 2 * 3_600_000
"""They stay so long after the last word of any process."""
KEEP_MS: Final = 60_000
"""An ended job's record and log stay so long, so that a reader may still catch up; a reclaimed job waits so long."""
STANDSTILL_MS: Final = 3_000
"""A gap between two sweeps from which on Redis counts as having stood still, and nobody as having been silent."""
LIVE_WORKER_MS: Final = 6_000
"""A worker that renewed within this time is live."""
OWNER_MS: Final = 8_000
"""Lifetime of an API process's heartbeat."""
PROCESS_MS: Final = 10_000
"""A process that spoke within this time is there."""
PROMISE_MS: Final = 20
"""For how long Redis believes that a busy worker looks; should it die, a sweep's ticket wakes another."""
ENDS_SLOT_MS: Final = 20_000
"""A model's ends are counted in slots of this length: three full ones and a part of a fourth make the last minute."""
ENDS_SLOT: Final = 1_000_000
"""A slot's field holds the slot's number times this, and the ends in it: more than there can be."""
ORPHANS: Final = 500
"""Jobs of a dead API process that one sweep clears."""
MOST_MOVED: Final = 500
"""Batch jobs that one step hands back, at most."""
MOST_LOOKED: Final = 2_000
"""Running batch jobs among which it looks for the youngest."""

LOOK_AGAIN_MS: Final = 200
"""Whoever waits for a sleep hook to end looks again so soon at the latest."""

RUNNING_LOOKED: Final = 64
"""So many running jobs of a model are looked at to judge when slots get free; they stand for all."""
RUNNING_FEW: Final = 16
"""At admission they are looked at only where no more run."""

BY_OPERATOR: Final = "by-operator"
"""Stands before the ids of jobs to cancel where an operator wants it; older processes take it for one more id."""
AUDIT_ENTRIES: Final = 10_000
"""So many actions of operators are kept."""
TICKETS_AT_ONCE: Final = 64
"""Tickets at most that wake workers when a held model is let go."""

INLINE_BYTES: Final = 64 * 1024
"""Bodies and events up to this size travel inside calls and frames; larger ones are stored apart."""
LOG_ONLY: Final = 0xFFFFFFFF
"""A frame's length where the event stands in the log alone."""
NONCE_BYTES: Final = 12
"""Hex digits at an attempt's end, by which it differs from all others."""
NO_NONCE: Final = "-" * NONCE_BYTES
"""Stands in frames and answers where a job has not been taken."""
MAX_COST: Final = 1e12
"""Tokens of one job at most, far above any real one: the scripts count in 64-bit integers."""
STORED: Final = "stored"
"""The sink of jobs whose answers are stored; those of batches have other names."""
MAX_UNSTORED: Final = 10_000
"""So many ended answers wait in Redis for a file store that is away or full; later ones are not stored."""
HOUR_MS: Final = 3_600_000
"""Usage is counted by hours that begin with multiples of this."""
USAGE_HOURS_MS: Final = 30 * DAY_MS + DAY_MS
"""How long an hour's usage stays: 30 days, and the day in which it ends."""
USAGE_DAYS_MS: Final = 62 * DAY_MS
"""How long a day's usage stays in Redis."""
MAX_USAGE_FIELDS: Final = 10_000
"""Of one hour at most; what is more is counted together."""
MOST_ESTIMATED_BYTES: Final = 1024 * 1024
"""Of a cut answer's log this much is read to judge how many tokens were relayed."""
QUEUE_PREFIX: Final = "aqueduct."
"""A model's Celery queue, which is also a Redis list, is called so and as the model."""

CLOCK_GRAIN_S: Final = 2
"""By so many seconds Redis's clock may be set back without a window of a minute being counted anew."""
PROMISE_S: Final = 120
"""How far ahead a place is promised to whom a limit a minute refuses; openai-python waits no longer."""
PROMISE_KEPT_S: Final = 2
"""How long such a place is kept once it falls due."""
WINDOW_MS: Final = 200_000
"""How long the window of a subject is kept: until all that is used and promised has left it."""
BUDGET_MS: Final = 40 * 86_400_000
"""How long budgets are kept after a day's first use: until the month is over."""
MOST_PERIODS: Final = 40
"""Days and months of a budget that are kept together, against clocks that step."""

OLD_OWNERS: Final = "aq:owners"
OLD_OWNER: Final = "aq:owner:"
OLD_WORKERS: Final = "aq:workers:"
"""Where processes of protocol 1 leave their heartbeats; it had no number."""

SHARED: Final[dict[str, int | float | str]] = {
    name: value for name, value in globals().items() if name.isupper() and isinstance(value, int | float | str)
}
"""All of the above, by name."""


def process_name(name: str) -> str:
    """Return how a process is known to those of every protocol."""
    return f"{PROTOCOL} {name}"
