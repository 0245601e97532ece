"""The lanes of a model's waiting room, by name: the most urgent first."""

from __future__ import annotations

from typing import Literal

Lane = Literal["priority", "default", "flex", "batch"]
LANES: tuple[Lane, ...] = ("priority", "default", "flex", "batch")

_TIERS: dict[Lane, str] = {"priority": "priority", "default": "default", "flex": "flex", "batch": "flex"}


def tier_of(lane: Lane, asked: str | None) -> str | None:
    """Return the `service_tier` that an answer names, in OpenAI's words; None where its request named none.

    Those have no word for the batch lane; `flex` is the one for work that lets all other go first.
    """
    return None if asked is None else _TIERS[lane]
