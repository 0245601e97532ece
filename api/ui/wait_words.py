"""Why requests wait, in words, for what waits now and for what has waited; the reasons are those of shared/holds.py."""

from __future__ import annotations

from typing import Final

from shared.control.story import NO_WORKER
from shared.holds import Hold

WAITS_FOR: Final[dict[str, str]] = {
    Hold.PAUSED: "an operator holds the model",
    Hold.STARTING: "no backend is there yet",
    Hold.BACKEND: "all its backends are held",
    Hold.LANE: "batch work may not begin now",
    Hold.ROOM: "all slots are busy",
    NO_WORKER: "no worker serves the model",
}
WAITED_FOR: Final[dict[str, str]] = {
    Hold.PAUSED: "an operator held it",
    Hold.STARTING: "no backend was there yet",
    Hold.BACKEND: "the backends took fewer",
    Hold.TENANT: "its token or group may have no more running",
    Hold.LANE: "batch work outside its hours or share",
    Hold.ROOM: "all slots were busy",
}


def waits_for(reason: str | None) -> str:
    """Return why a request waits; a word that is not known as it is."""
    return WAITS_FOR.get(reason or "", reason or "")


def waited_for(reason: str | None) -> str:
    """Return why a request had to wait; a word that is not known as it is."""
    return WAITED_FOR.get(reason or "", reason or "")
