"""The Batches page: how far those of every token are, why lines failed, when they should be through; cancel, retry."""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from api.ui.page import Action, Page, Visit
from shared.batches.open import OpenBatch
from shared.errors import AqueductError, InvalidRequest, RequestError

ROWS: Final = 50
STATES: Final = {"open": "open", "ended": "ended", "all": "all"}
_KINDS: Final = {"in_progress": "good", "completed": "good", "failed": "bad", "expired": "bad", "cancelling": "warn"}
_MAY_CANCEL: Final = ("validating", "in_progress", "finalizing")


async def _view(visit: Visit) -> Response:
    if given := visit.query.get("id", "").strip():
        return visit.page("batch.html", **await _batch(visit, given))
    return await _list(visit, "batches.html")


async def _live(visit: Visit) -> Response:
    if given := visit.query.get("id", "").strip():
        return visit.page("_batch.html", **await _batch(visit, given))
    return await _list(visit, "_batches.html")


async def _list(visit: Visit, template: str) -> Response:
    state, token = visit.query.get("state") or "open", visit.query.get("token", "").strip()
    asked = {"state": state, "token": token}
    problem, status, rows, more = "", 200, list[dict[str, Any]](), ""
    try:
        if state not in STATES:
            raise InvalidRequest(f"State: must be one of {', '.join(STATES)}.", param="state")
        desk = visit.gateway.batches_of_all()
        found, has_more = await desk.page(state, token or None, visit.query.get("after") or None, ROWS)  # type: ignore[arg-type]
        rows = [_row(one) for one in found]
        more = urlencode({**asked, "after": found[-1].id}) if has_more and found else ""
    except RequestError as error:
        problem, status = error.message, error.status
    if template.startswith("_"):
        status = 200
    return visit.page(
        template, status, asked=asked, rows=rows, more=more, problem=problem, states=STATES,
        is_first="after" not in visit.query, here=urlencode(asked), live=f"/ui/batches/live?{visit.request.url.query}",
    )  # fmt: skip


def _row(batch: OpenBatch) -> dict[str, Any]:
    now = time.time()
    has_ended = batch.ended_at is not None
    return {
        **batch.as_json(),
        "has_ended": has_ended,
        "kind": _KINDS.get(batch.status, ""),
        "done": batch.completed + batch.failed,
        "left": max(0.0, batch.finish_at - now) if batch.finish_at is not None else None,
        "window_left": batch.expires_at - now if not has_ended else None,
        "is_late": not has_ended and batch.finish_at is not None and batch.finish_at > batch.expires_at,
    }


async def _batch(visit: Visit, given: str) -> dict[str, Any]:
    """Return what the page of a batch shows; raises NotFound."""
    shown = await visit.gateway.batches_of_all().show(given)
    row = _row(shown.row)
    failures = sorted((shown.row.failures or {}).items(), key=lambda one: -one[1])
    return {
        "batch": row,
        "told": shown.batch,
        "failures": failures,
        "are_counted": shown.row.failures is not None,
        "may_cancel": row["status"] in _MAY_CANCEL,
        "may_retry": shown.may_retry,
        "live": "" if row["has_ended"] else f"/ui/batches/live?{urlencode({'id': given})}",
    }


async def _cancel(visit: Visit) -> Response:
    given = str(visit.form.get("id", ""))
    if not visit.is_confirmed:
        return visit.ask(
            f"Cancel {given}?", "What has ended by then is kept; what waits and runs is given up.", "Cancel it"
        )
    done = await visit.gateway.batches_of_all().cancel(given, visit.actor)
    words = {"cancelling": "is being cancelled", "was cancelling": "is being cancelled already",
             "had ended": "had ended already"}  # fmt: skip
    return await visit.done(f"{done.id} {words[done.outcome]}.", f"/ui/batches?id={done.id}")


async def _retry(visit: Visit) -> Response:
    given = str(visit.form.get("id", ""))
    if not visit.is_confirmed:
        return visit.ask(
            f"Run the lines of {given} again that did not succeed?", "As a new batch of its token.", "Run them"
        )
    try:
        done = await visit.gateway.batches_of_all().retry(given, visit.actor)
    except AqueductError as error:
        if error.status not in (409, 429):
            raise
        return await visit.done(error.message, f"/ui/batches?{urlencode({'id': given})}")
    what = (
        "They run again as this new batch."
        if done.outcome == "retried"
        else "They were run again before, as this batch."
    )
    return await visit.done(what, f"/ui/batches?id={done.new_id}")


PAGE: Final = Page(
    "batches",
    "Batches",
    _view,
    parts={"live": _live},
    actions={"cancel": Action(_cancel), "retry": Action(_retry)},
)
