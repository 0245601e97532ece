"""The models of the random runs, and what their settings say at each admission."""

from __future__ import annotations

from typing import Final, NamedTuple

from shared import keys
from shared.room.scripts import AdmitLimits
from shared.scripting import flag
from shared.settings import LaneWeights

GRACE_MS: Final = 15_000
TICKET: Final = b"@ID@"
MAX_TRIES: Final = 2
WEIGHTS_TEXT: Final = LaneWeights().text


class ModelLimits(NamedTuple):
    """A model's settings."""

    concurrency: int
    batch_reserve: int
    max_queue: int
    max_queue_tokens: int
    max_queue_bytes: int
    tenant_share: int
    max_wait_ms: int
    patience_ms: int
    """After which batch work makes room; 0: never."""
    waits_unserved: bool = False
    """What waits does so without a worker too."""


MODELS: Final = {
    "m": ModelLimits(3, 1, 7, 3_000, 500, 4, 30_000, 300),
    "n:x": ModelLimits(2, 0, 4, 0, 0, 3, 10_000, 0, waits_unserved=True),
}
ADMIT_LIMITS: Final = {
    name: AdmitLimits(
        life_ms=limits.max_wait_ms + 240_000, max_queue=limits.max_queue, max_queue_tokens=limits.max_queue_tokens,
        max_queue_bytes=limits.max_queue_bytes, tenant_share=limits.tenant_share, concurrency=limits.concurrency,
        batch_reserve=limits.batch_reserve, grace_ms=10**15 if limits.waits_unserved else GRACE_MS,
        queue=keys.queue(name), ticket=TICKET,
        max_tries=MAX_TRIES, people_first=flag(limits.patience_ms), weights_text=WEIGHTS_TEXT,
    )
    for name, limits in MODELS.items()
}  # fmt: skip
