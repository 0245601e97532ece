"""`concurrency` as a setting: a number, or `auto` and between which numbers it may be found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import PlainValidator

MOST: Final = 100_000
DEFAULT_MOST: Final = 256
"""Of `auto` alone."""
START: Final = 1
"""The first number that is tried, where the range allows it: one request alone is the measure of all others."""


@dataclass(frozen=True, slots=True)
class Auto:
    """Found by measuring, between two numbers (`docs/adr/0025-capacity-that-finds-itself.md`)."""

    least: int = 1
    most: int = DEFAULT_MOST

    def within(self, number: float) -> int:
        """Return the nearest number allowed."""
        return max(self.least, min(self.most, int(number)))

    @property
    def first(self) -> int:
        """What is tried first."""
        return self.within(START)

    def at_most(self, most: int) -> Auto:
        """Return the part of the range up to a number."""
        return Auto(min(self.least, most), min(self.most, most))


def read_concurrency(value: Any) -> int | Auto:
    """Return what a setting means; raises ValueError that says what it may be."""
    if isinstance(value, Auto):
        return value
    if isinstance(value, str) and value.strip().lower() == "auto":
        return Auto()
    if isinstance(value, dict):
        return _range(value)
    return _number(value, "")


def _range(value: dict[Any, Any]) -> Auto:
    for name in value:
        if name not in ("min", "max"):
            raise ValueError(f"may hold min and max only, as `{{min: 1, max: 256}}`, not {str(name)[:40]}")
    least = _number(value.get("min", 1), "min ")
    most = _number(value.get("max", max(DEFAULT_MOST, least)), "max ")
    if least > most:
        raise ValueError(f"has a min ({least}) larger than its max ({most})")
    return Auto(least, most)


def _number(value: Any, what: str) -> int:
    is_shown = isinstance(value, int | float) and not isinstance(value, bool)  # a text may be a secret put there
    shown = f" (is {value})" if is_shown else ""
    wrong = ValueError(f"{what}must be a whole number{'' if what else ', auto, or {min: 1, max: 256}'}{shown}")
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if isinstance(value, bool) or (isinstance(value, float) and value != number):
        raise wrong
    if number < 1:
        raise ValueError(f"{what}must be at least 1{shown}")
    if number > MOST:
        raise ValueError(f"{what}must be at most {MOST}{shown}")
    return number


Concurrency = Annotated[int | Auto, PlainValidator(read_concurrency)]
OptionalConcurrency = Annotated[
    int | Auto | None, PlainValidator(lambda value: None if value is None else read_concurrency(value))
]
