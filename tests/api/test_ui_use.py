"""What the Use page is asked for, and what it makes of hours of usage."""

from __future__ import annotations

from datetime import date

import pytest

from api.ui.use_query import read_wanted
from api.ui.use_sums import HEIGHT, SERIES, nice, report
from shared.usage.counters import Counters, Key
from shared.usage.ledger import Used

TODAY = date(2026, 11, 26)
OCTOBER = (date(2026, 10, 1) - date(1970, 1, 1)).days * 24


def test_a_month_is_asked_for_by_its_name_and_is_whole() -> None:
    wanted = read_wanted({"span": "2026-10", "group": "team-a"}, TODAY)
    assert (wanted.first, wanted.last, wanted.span_name) == (date(2026, 10, 1), date(2026, 10, 31), "October 2026")
    assert wanted.hours == (OCTOBER, OCTOBER + 31 * 24)
    assert not wanted.errors
    assert read_wanted({"span": "2026-11"}, TODAY).last == TODAY  # not what is to come
    assert read_wanted({"span": "7d"}, TODAY).first == date(2026, 11, 20)
    assert read_wanted({"span": "today"}, TODAY).hourly
    assert read_wanted({"span": "2025-12"}, date(2026, 1, 5)).last == date(2025, 12, 31)


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ({"span": "1999-01"}, "span", "Choose one of today"),
        ({"span": "dates", "from": "1.2.2026"}, "from", "2027-01-31"),
        ({"span": "dates", "from": "0001-01-01"}, "from", "2027-01-31"),
        ({"span": "dates", "from": "2026-02-30"}, "from", "2027-01-31"),
        ({"span": "dates", "from": "2026-10-02", "to": "2026-10-01"}, "to", "before 2026-10-02"),
        ({"span": "dates", "from": "2024-01-01", "to": "2026-01-01"}, "to", "366 days at most"),
        ({"span": "30d", "per": "hour"}, "per", "7 days at most"),
        ({"by": "colour"}, "by", "group, token, model"),
        ({"measure": "euros"}, "measure", "tokens, requests"),
    ],
)
def test_what_is_wrong_is_told_at_its_field(query: dict[str, str], field: str, words: str) -> None:
    wanted = read_wanted(query, TODAY)
    assert list(wanted.errors) == [field]
    assert words in wanted.errors[field]
    first, end = wanted.hours
    assert 0 < end - first <= 366 * 24


def used() -> list[Used]:
    def counts(tokens: int) -> Counters:
        return Counters(requests=1, prompt_tokens=tokens, completion_tokens=1, slot_ms=3_600_000)

    first = {Key(f"t{at}", "team-a" if at % 2 else "", "m", "default", "k"): counts(10 * at) for at in range(1, 11)}
    return [Used(OCTOBER + 5, first), Used(OCTOBER + 24, {Key("t1", "team-a", "n", "default", "k"): counts(99)})]


def test_sums_and_columns_agree() -> None:
    wanted = read_wanted({"span": "2026-10", "by": "token"}, TODAY)
    found = report(used(), wanted)
    assert found.total.requests == 11
    assert [(row.name, row.counts.requests) for row in found.rows[:3]] == [("t1", 2), ("t10", 1), ("t9", 1)]
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    assert len(found.columns) == 31
    assert len(found.series) == SERIES + 1 and found.series[-1] == "others"
    tokens = [sum(part.height for part in column.parts) / HEIGHT * found.top for column in found.columns]
    assert tokens[:3] == pytest.approx([560, 100, 0], rel=1e-3)
    assert all(0 <= part.y <= HEIGHT for column in found.columns for part in column.parts)


def test_who_is_in_no_group_is_asked_for_by_a_dash() -> None:
    wanted = read_wanted({"span": "2026-10", "group": "-", "by": "token"}, TODAY)
    assert [row.name for row in report(used(), wanted).rows] == ["t10", "t8", "t6", "t4", "t2"]
    unnamed = [Used(OCTOBER, {Key("", "", "", "", ""): Counters(requests=3)})]
    assert report(unnamed, wanted).total.requests == 0
    everybody = read_wanted({"span": "2026-10", "by": "token"}, TODAY)
    assert [row.name for row in report(unnamed, everybody).rows] == ["(too many to name)"]


@pytest.mark.parametrize(
    ("most", "edge"), [(0, 1), (1, 1), (1.2, 1.5), (7, 8), (1000, 1000), (1001, 1500), (0.035, 0.04)]
)
def test_a_chart_ends_at_a_round_number(most: float, edge: float) -> None:
    assert nice(most) == pytest.approx(edge)
