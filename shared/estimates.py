"""What requests will cost, by what earlier ones of the same tenant and model were thought to cost, and did.

Fair sharing charges a request when it is let in, by its prompt's length and its `max_tokens`, which most answers stay
far below: who states a high limit would be charged for words that nobody had. So the estimate is corrected.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from shared.protocol import MAX_COST

KEPT: Final = 0.9
"""Of what was known, at each end: some ten ends make the picture."""
MOST_KEYS: Final = 4096
LEAST_FACTOR: Final = 1 / 64
"""A tenant whose answers were short for long must not be let in for nothing when they grow."""
MOST_FACTOR: Final = 64.0


def corrected(estimate: float, factor: float) -> int:
    """Return what a request is charged, in whole tokens: Redis takes twice as long to write a long fraction."""
    return min(int(MAX_COST), max(1, round(estimate * factor)))


class Estimates:
    """How far estimates were off, by a key such as tenant and model. Forgotten with the process."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[float, float]] = {}
        """Estimated and real tokens, what is long ago counting less."""

    def factor(self, key: Hashable) -> float:
        """Return what to multiply an estimate by; 1 where nothing is known."""
        known = self._known.get(key)
        return 1.0 if known is None else min(MOST_FACTOR, max(LEAST_FACTOR, known[1] / known[0]))

    def learn(self, key: Hashable, estimated: float, real: float) -> None:
        """Take one request's estimate, as it was before any factor, and its real tokens.

        One that is off by more than a factor may be counts as if it were off by that much: else a single absurd
        `max_tokens` would outweigh hundreds of requests that follow.
        """
        known = self._known
        before = known.get(key)
        if before is None:
            if len(known) >= MOST_KEYS:
                del known[next(iter(known))]  # whom this process has known longest
            before = 0.0, 0.0
        estimated, real = estimated or 1.0, real or 1.0
        if estimated > real / LEAST_FACTOR:
            estimated = real / LEAST_FACTOR
        elif real > estimated * MOST_FACTOR:
            real = estimated * MOST_FACTOR
        known[key] = before[0] * KEPT + estimated, before[1] * KEPT + real
