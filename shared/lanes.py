"""The lanes of a model's waiting room, by name: the most urgent first."""

from __future__ import annotations

from typing import Literal

Lane = Literal["priority", "default", "flex", "batch"]
LANES: tuple[Lane, ...] = ("priority", "default", "flex", "batch")
