"""The Use page: who used how much, by group, token and model, over days and hours; as a chart, a table and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final
from urllib.parse import urlencode

from starlette.responses import Response

from api.ui.page import Page, Visit
from api.ui.use_query import BY, DATES, MEASURES, SPANS, Wanted, months, read_wanted
from api.ui.use_sums import HEIGHT, report
from shared.control.tokens import TokenDesk
from shared.token_settings import NO_GROUP
from shared.usage.ledger import HOUR_SECONDS, HOURS_DAYS, Ledger, Used, moment_of
from shared.usage.report import csv_text, summed

CSV_BY: Final = ("token", "group", "model", "lane", "kind")


async def _view(visit: Visit) -> Response:
    ledger, wanted, used = await _read(visit)
    found = report(used, wanted)
    groups = await visit.gateway.admin.tokens(_group_names)
    today = await _today(ledger)
    return visit.page(
        "use.html", 400 if wanted.errors else 200, wanted=wanted, report=found, height=HEIGHT,
        choices={
            "group": [("", "all"), (NO_GROUP[0], "no group"), *_pairs(wanted, "group", found.choices, groups)],
            "token": found.choices["token"],
            "model": [("", "all"), *_pairs(wanted, "model", found.choices, visit.gateway.settings.models)],
        },
        unit="hour" if wanted.hourly else "day", each="an hour" if wanted.hourly else "a day", whose=_whose(wanted),
        spans={**SPANS, **months(today), DATES: "Days that I choose"}, by=BY, measures=MEASURES,
        csv=_address(visit, "/csv"), uncounted=await ledger.uncounted(),
        linked=lambda **changed: _address(visit, "", **changed),
        is_counted=visit.gateway.settings.usage.count, is_kept=visit.gateway.store is not None,
        lacks_hours=wanted.hourly and (today - wanted.first).days > HOURS_DAYS,
    )  # fmt: skip


async def _csv(visit: Visit) -> Response:
    _, wanted, used = await _read(visit)
    by = ("hour" if wanted.hourly else "day", *CSV_BY)
    name = f"aqueduct-use-{wanted.first}-to-{wanted.last}.csv"
    return Response(
        csv_text(by, summed(used, by, wanted.keeps)), 400 if wanted.errors else 200,
        {"content-disposition": f'attachment; filename="{name}"'}, "text/csv",
    )  # fmt: skip


async def _read(visit: Visit) -> tuple[Ledger, Wanted, list[Used]]:
    ledger = Ledger(visit.gateway.client, visit.gateway.store)
    wanted = read_wanted(visit.query, await _today(ledger))
    return ledger, wanted, await ledger.read(*wanted.hours)


async def _today(ledger: Ledger) -> date:
    return moment_of(await ledger.now() // HOUR_SECONDS).date()


def _group_names(desk: TokenDesk) -> list[str]:
    return [group.name for group in desk.groups()]


def _pairs(
    wanted: Wanted, name: str, found: Mapping[str, Sequence[str]], known: Iterable[str]
) -> list[tuple[str, str]]:
    chosen = {wanted.filters[name]} - {"", NO_GROUP[0]}
    return [(one, one) for one in sorted({*found[name], *known, *chosen})]


def _whose(wanted: Wanted) -> str:
    group = wanted.filters["group"]
    parts = ["no group" if group == NO_GROUP[0] else f"group {group}"] if group else []
    parts += [f"{name} {wanted.filters[name]}" for name in ("token", "model") if wanted.filters[name]]
    text = ", ".join(parts) or "everybody"
    return text[0].upper() + text[1:]


def _address(visit: Visit, part: str, **changed: str) -> str:
    """Return the address of this page, or of a part of it, with what is asked for now and some of it changed."""
    asked = {**visit.query, **changed}
    return f"/ui/use{part}?{urlencode({name: value for name, value in asked.items() if value})}"


PAGE: Final = Page("use", "Use", _view, parts={"csv": _csv})
