"""What the Use page is asked for: the query in; days, filters and sums out, or a word at the field that is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from shared.token_settings import NO_GROUP
from shared.usage.counters import Key
from shared.usage.ledger import DAY_HOURS, HOUR_SECONDS

MOST_DAYS: Final = 366
MOST_HOURLY_DAYS: Final = 7
SPANS: Final = {"today": "Today", "7d": "Last 7 days", "30d": "Last 30 days"}
DATES: Final = "dates"
MONTHS: Final = 13
"""That are offered by name, this one and those before."""
BY: Final = {"group": "group", "token": "token", "model": "model", "lane": "lane", "kind": "kind"}
MEASURES: Final = {"tokens": "Tokens", "requests": "Requests", "slot_hours": "Slot hours"}
ANY: Final = ""
_SPAN_DAYS: Final = {"today": 1, "7d": 7, "30d": 30}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked for, with defaults for what is not or is wrong."""

    span: str
    """One of SPANS, a month as `2026-10`, or DATES."""
    first: date
    last: date
    """Its day counts too. Days are UTC."""
    hourly: bool
    by: str
    measure: str
    filters: Mapping[str, str]
    """Of `group`, `token` and `model`; empty: any. The group `-` is none."""
    errors: Mapping[str, str]
    """By the field's name."""

    @property
    def hours(self) -> tuple[int, int]:
        """The first hour since 1970, and the one behind the last."""
        return _hour(self.first), _hour(self.last) + DAY_HOURS

    @property
    def span_name(self) -> str:
        """How the time is called, as in `October 2026`."""
        if self.span in SPANS:
            return SPANS[self.span].lower()
        if self.span != DATES:
            return f"{self.first:%B %Y}"
        return f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"

    def keeps(self, key: Key) -> bool:
        """Whether these counts are asked for."""
        return all(not wanted or _is(key, name, wanted) for name, wanted in self.filters.items())


def _is(key: Key, name: str, wanted: str) -> bool:
    if name == "group" and wanted == NO_GROUP[0]:
        return not key.group and bool(key.token)
    return str(getattr(key, name)) == wanted


def _hour(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) // HOUR_SECONDS


def months(today: date) -> dict[str, str]:
    """Return the months that are offered, as `2026-10` and by name, the newest first."""
    out = {}
    for back in range(MONTHS):
        year, month = divmod(today.year * 12 + today.month - 1 - back, 12)
        out[f"{year}-{month + 1:02}"] = f"{date(year, month + 1, 1):%B %Y}"
    return out


def read_wanted(query: Mapping[str, str], today: date) -> Wanted:
    """Return what a query asks for; what is wrong in it is told in `errors`, and has its default."""
    errors: dict[str, str] = {}
    span = _one_of(query, "span", (*SPANS, *months(today), DATES), "7d", errors)
    first, last = _days(span, query, today, errors)
    hourly = _one_of(query, "per", ("day", "hour"), "hour" if span == "today" else "day", errors) == "hour"
    if hourly and (last - first).days >= MOST_HOURLY_DAYS:
        errors["per"] = f"By the hour for {MOST_HOURLY_DAYS} days at most: choose fewer days, or `day`."
        hourly = False
    return Wanted(
        span=span, first=first, last=last, hourly=hourly, by=_one_of(query, "by", (*BY,), "group", errors),
        measure=_one_of(query, "measure", (*MEASURES,), "tokens", errors),
        filters={name: query.get(name, ANY).strip()[:200] for name in ("group", "token", "model")}, errors=errors,
    )  # fmt: skip


def _one_of(query: Mapping[str, str], name: str, known: Sequence[str], default: str, errors: dict[str, str]) -> str:
    given = query.get(name) or default
    if given in known:
        return given
    errors[name] = f"Choose one of {', '.join(known)}."
    return default


def _days(span: str, query: Mapping[str, str], today: date, errors: dict[str, str]) -> tuple[date, date]:
    if span in _SPAN_DAYS:
        return today - timedelta(days=_SPAN_DAYS[span] - 1), today
    if span != DATES:
        first = date.fromisoformat(f"{span}-01")
        return first, min(today, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1))
    first = _date(query, "from", today - timedelta(days=6), errors)
    last = _date(query, "to", max(first, today), errors)
    if last < first:
        errors["to"] = f"Must not be before {first}, where it begins."
    elif (last - first).days >= MOST_DAYS:
        errors["to"] = f"{MOST_DAYS} days at most: choose one up to {first + timedelta(days=MOST_DAYS - 1)}."
    return (first, last) if "to" not in errors else (first, first)


def _date(query: Mapping[str, str], name: str, default: date, errors: dict[str, str]) -> date:
    text = query.get(name, "").strip()
    if not text:
        return default
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = date.min
    if not date(1970, 1, 2) <= found <= date(2199, 12, 31):
        errors[name] = "Write a day as 2027-01-31."
        return default
    return found
