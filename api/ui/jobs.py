"""The Jobs page: what waits, runs and has ended lately; one of them with its timeline; ended and moved from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.responses import Response

from api.admin.schemas import JobFilterBody, JobListQuery
from api.ui.page import Action, Page, Visit
from api.ui.timeline import end_text, steps_of
from api.ui.wait_words import WAITS_FOR
from shared.control.listing import OUTCOMES
from shared.control.story import Story
from shared.errors import InvalidRequest, NotFound, RequestError
from shared.holds import Hold
from shared.lanes import LANES
from shared.spans import span_seconds

ROWS: Final = 50
FIELDS: Final = ("model", "token", "group", "lane", "state", "outcome", "older")
"""Of the filter's form, and of links that lead here."""
STATES: Final = {"waiting": "waiting", "held": "held", "running": "running", "ended": "ended lately"}
_TOLD: Final = "Whoever waits for it is told 410 cancelled_by_operator, and does not try again by itself."


async def _view(visit: Visit) -> Response:
    if given := visit.query.get("id", "").strip():
        return visit.page("job.html", **await _job(visit, given))
    return await _list(visit, "jobs.html")


async def _live(visit: Visit) -> Response:
    if given := visit.query.get("id", "").strip():
        return visit.page("_job.html", **await _job(visit, given))
    return await _list(visit, "_jobs.html")


# --- the list ---------------------------------------------------------------------------------------------------------


async def _list(visit: Visit, template: str) -> Response:
    asked = {name: value for name in FIELDS if (value := visit.query.get(name, "").strip())}
    rows: list[dict[str, Any]] = []
    page, problem, status = None, "", 200
    try:
        wanted = _query(asked, after=visit.query.get("after") or None, limit=ROWS)
        page = await visit.gateway.admin.page_of_jobs(wanted)
        rows = [_row(story, _now(visit)) for story in page.stories]
    except RequestError as error:  # a filter that means nothing is shown in its place
        problem, status = error.message, error.status
    if template.startswith("_"):
        status = 200
    more = urlencode({**asked, "after": page.next}) if page is not None and page.next else ""
    return visit.page(
        template, status, asked=asked, here=urlencode(asked), rows=rows, listed=page, more=more, problem=problem,
        is_first="after" not in visit.query, is_ended=asked.get("state") == "ended",
        models=[*visit.gateway.settings.models], lanes=LANES, states=STATES, outcomes=[*OUTCOMES],
        live=f"/ui/jobs/live?{visit.request.url.query}",
    )  # fmt: skip


def _query(asked: Mapping[str, str], **more: Any) -> JobListQuery:
    """Return what a filter's fields mean; raises InvalidRequest that names the field."""
    given = {name: value for name, value in asked.items() if name in FIELDS and name != "older"}
    try:
        return JobListQuery.model_validate({**given, "older_than_seconds": _older(asked), **more})
    except ValidationError as error:
        raise _invalid(error) from None


def _older(asked: Mapping[str, str]) -> float | None:
    text = asked.get("older")
    if not text:
        return None
    seconds = span_seconds(text)
    if seconds is None:
        raise InvalidRequest(f"Older than: {text[:32]!r} is no span such as 90s, 15m, 2h or 1d.", param="older")
    return seconds


def _invalid(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "filter"
    return InvalidRequest(f"{name.capitalize()}: {first['msg']}.", param=name)


def _now(visit: Visit) -> float:
    """Return Redis's clock in Unix seconds, by which jobs have their times."""
    return visit.gateway.admissions.redis_now_ms() / 1000


def _row(story: Story, now: float) -> dict[str, Any]:
    told, job = story.as_json(), story.job
    reason = told["held"] if job.state == "waiting" else None
    ended = job.ended / 1000 or None
    return {
        **told,
        "age": max(0.0, now - job.admitted / 1000),
        "waited": max(0.0, (job.taken / 1000 or ended or now) - job.admitted / 1000),
        "ran": max(0.0, (ended or now) - job.taken / 1000) if job.taken else None,
        "why": WAITS_FOR.get(reason or "", ""),
        "is_held": reason is not None and reason != Hold.ROOM,
        "end": end_text(told["outcome"]) if job.state == "ended" else "",
        "kind_of_end": _kind_of_end(told),
    }


def _kind_of_end(told: Mapping[str, Any]) -> str:
    outcome = told["outcome"]
    if outcome is None or outcome["status"] == 499:
        return ""
    if outcome["status"] == 200 and outcome["code"] is None:
        return "good"
    return "warn" if 400 <= (outcome["status"] or 0) < 500 else "bad"


# --- one job ----------------------------------------------------------------------------------------------------------


async def _job(visit: Visit, given: str) -> dict[str, Any]:
    """Return what the page of a job shows; raises NotFound."""
    story = await visit.gateway.admin.story(given)
    now, told = _now(visit), story.as_json()
    return {
        "job": told,
        "row": _row(story, now),
        "steps": steps_of(told, now),
        "given": given,
        "lanes": LANES,
        "live": ""
        if story.job.state == "ended" and story.end is not None
        else f"/ui/jobs/live?{urlencode({'id': given})}",
    }


# --- actions ----------------------------------------------------------------------------------------------------------


async def _cancel(visit: Visit) -> Response:
    if given := visit.form.get("id"):
        if not visit.is_confirmed:
            return visit.ask(f"End {given}?", _TOLD, "End it")
        return await _act_on_one(visit, str(given), None)
    return await _act_on_all(visit, None)


async def _move(visit: Visit) -> Response:
    lane = visit.form.get("to")
    if lane not in LANES:
        raise InvalidRequest(f"Move to: must be one of {', '.join(LANES)}.", param="to")
    if given := visit.form.get("id"):
        return await _act_on_one(visit, str(given), str(lane))
    return await _act_on_all(visit, str(lane))


async def _act_on_one(visit: Visit, given: str, lane: str | None) -> Response:
    back = "/ui/jobs?" + (urlencode({"id": given}) if visit.form.get("from") == "job" else _filter_query(visit))
    try:
        done = await visit.gateway.admin.act_on_job(given, lane, visit.actor)
    except NotFound as error:
        return await visit.done(error.message, "/ui/jobs")
    words = {"cancelled": "was ended", "moved": f"waits in the lane {lane} now", "was there": f"was in {lane} already",
             "runs already": "runs already and cannot be moved", "had ended": "had ended already"}  # fmt: skip
    return await visit.done(f"{done['id']} {words.get(done['outcome'], done['outcome'])}.", back)


async def _act_on_all(visit: Visit, lane: str | None) -> Response:
    """End or move all that match; asks first, and tells how many they are."""
    asked = {name: str(value) for name in FIELDS if (value := visit.form.get(name))}
    query, back = _query(asked), "/ui/jobs?" + _filter_query(visit)
    body = JobFilterBody(**query.model_dump(include=set(JobFilterBody.model_fields) - {"state"}), state=_state(query))
    desk, now = visit.gateway.admin, _now(visit)
    if visit.is_confirmed:
        # What came after the question was not counted, and is left alone.
        since = now - _asked_at(visit)
        body.older_than_seconds = max(body.older_than_seconds or 0.0, since)
        done = await desk.act_on_jobs(body, lane, visit.actor, everything=True, dry_run=False)
        told = ", ".join(f"{number} {what}" for what, number in done.outcomes.items())
        return await visit.done(f"{told.capitalize()}." if told else "Nothing matched any more.", back)
    found = await desk.act_on_jobs(body, lane, visit.actor, everything=True, dry_run=True)
    if not found.matched:
        return await visit.done("Nothing matches that could be " + ("moved." if lane else "ended."), back)
    visit.form = FormData([*visit.form.multi_items(), ("asked_at", f"{now:.3f}")])
    which = ", ".join(f"{name} {value}" for name, value in asked.items()) or "everything, of every model and token"
    requests = "1 request" if found.matched == 1 else f"{found.matched:,} requests"
    warning = f"They match: {which}. What comes from now on is left alone."
    if lane is not None:
        return visit.ask(f"Move {requests} to the lane {lane}?", warning, "Move them")
    return visit.ask(f"End {requests}?", f"{warning} {_TOLD}", "End them")


def _state(query: JobListQuery) -> Any:
    if query.state == "ended":
        raise InvalidRequest("What has ended cannot be ended or moved. Choose another state.", param="state")
    return query.state


def _asked_at(visit: Visit) -> float:
    """Return when the question was asked; raises InvalidRequest."""
    try:
        at = float(str(visit.form.get("asked_at")))
    except ValueError:
        at = -1.0
    if not 0 <= at <= _now(visit) + 60:
        raise InvalidRequest("The form is not whole. Load the page again, and send it from there.", param="asked_at")
    return at


def _filter_query(visit: Visit) -> str:
    return urlencode({name: str(value) for name in FIELDS if (value := visit.form.get(name))})


PAGE: Final = Page(
    "jobs", "Jobs", _view, parts={"live": _live}, actions={"cancel": Action(_cancel), "move": Action(_move)}
)
