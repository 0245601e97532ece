"""Why requests wait though they were accepted: the words that counters, comments, headers and commands use.

`paused`, `starting` and `backend` may hold a whole model: then they stand in the field `held` of its room
(`aq2:room:<model>`), separated by blanks, and while the field stands nothing of the model is taken.
`shared/scripts/lib/holds.lua` sets and clears them, and `take` reads the field with others, so that it costs nothing.
Another script adds its own word with `set_hold(model, word)` and takes it back with `clear_hold(model, word)`; neither
touches the other words.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Hold(StrEnum):
    """One reason; where several hold, those that stand first are told."""

    PAUSED = "paused"
    """An operator holds the model, or all its backends."""
    STARTING = "starting"
    """The model has no live backend yet; it is being woken."""
    BACKEND = "backend"
    """The backends take fewer than the model's concurrency now: some have failed, or are held."""
    TENANT = "tenant"
    """The token, or its group, may have no more running."""
    LANE = "lane"
    """The lane is shut: batch work outside its hours or beyond its reserve."""
    ROOM = "room"
    """All slots are busy: the plain case."""


WHOLE_MODEL: Final = (Hold.PAUSED, Hold.STARTING, Hold.BACKEND)
"""Those that stand in the room; `backend` while operators hold all of them."""

ACTIVE: Final = "active"
PAUSED: Final = "paused"
"""Accepts and holds; what runs ends."""
DRAINING: Final = "draining"
"""The same, towards a stop: it is told when nothing runs any more."""
RETIRED: Final = "retired"
"""As draining, and new requests are refused."""
HELD_STATES: Final = (PAUSED, DRAINING, RETIRED)
"""What an operator may set beside `active`; the field `state` of the room."""


def first_hold(held: str) -> str:
    """Return the word to tell of those in a room's field `held`; empty for none."""
    words = held.split()
    return next((str(hold) for hold in Hold if hold in words), words[0] if words else "")
