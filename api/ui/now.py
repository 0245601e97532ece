"""The Now page: each model's queue, slots, times and backends as they are, and over the last hour; hold and let go."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from starlette.responses import Response

from api.ui.now_models import ModelNow, Viewing, backends_now, who_waits
from api.ui.page import Action, Page, Visit
from api.ui.wait_words import waited_for
from shared.config_problems import suggestion
from shared.control.audit import Entry, entries
from shared.control.models import ACTIONS, BACKEND_ACTIONS
from shared.errors import InvalidRequest, NotFound

LOOKED_THROUGH: Final = 200
"""Entries of the audit log among which who holds a model is looked for."""
MANY: Final = 40
"""More models than that are rows of a table, without charts, and asked for less often."""
_DONE: Final = {"active": "takes work", "paused": "is paused", "draining": "drains", "retired": "is retired"}
_WARNINGS: Final = {
    "pause": "New requests wait until it is resumed; what runs ends. Whoever waits may run into their time limit.",
    "drain": "New requests wait, nothing more is begun, and what runs ends.",
    "retire": "New requests are refused from now on, nothing more is begun, and what runs ends.",
}


def _viewing(visit: Visit) -> Viewing:
    if visit.gateway.viewing is None:  # only where the page itself is not served
        raise NotFound("The status page is off here.")
    return visit.gateway.viewing


async def _view(visit: Visit) -> Response:
    return await _shown(visit, "now_model.html" if visit.query.get("model") else "now.html", fresh=True)


async def _live(visit: Visit) -> Response:
    return await _shown(visit, "_now_model.html" if visit.query.get("model") else "_now.html", fresh=False)


async def _shown(visit: Visit, template: str, *, fresh: bool) -> Response:
    viewing = _viewing(visit)
    wanted = visit.query.get("model")
    seen = await viewing.snapshot(fresh=fresh)
    if not wanted:
        models = await viewing.models(seen)
        is_long = len(models) > MANY
        every = 5000 if is_long else 2000
        return visit.page(
            template, models=models, total=_total(models), every=every, is_long=is_long, has_metrics=_counts(visit)
        )
    names = visit.gateway.catalogue.names
    if wanted not in names or names[wanted] not in seen.depths:
        raise NotFound(f"No model is called {wanted[:100]!r}{suggestion(wanted, names)}.")
    name = names[wanted]
    model = viewing.model(name, seen)
    hour, charts = viewing.hour(name, seen)
    return visit.page(
        template, model=model, held_by=await _held_by(visit, model), hour=hour, charts=charts,
        backends=backends_now(model, seen.found.get(name, {})), who=await who_waits(visit.gateway.client, name),
        waited_for=waited_for, has_metrics=_counts(visit), actions=_offered(model),
        backend_actions=BACKEND_ACTIONS, warnings=_WARNINGS,
    )  # fmt: skip


async def _held_by(visit: Visit, model: ModelNow) -> Entry | None:
    """Return what the audit log says of who has set the model's state, if it was not too long ago."""
    if model.depth.state == "active":
        return None
    rows = await entries(visit.gateway.client, count=LOOKED_THROUGH)
    return next((row for row in rows if row.target == model.name and row.action.startswith("model.")), None)


def _counts(visit: Visit) -> bool:
    return visit.gateway.settings.metrics


def _total(models: list[ModelNow]) -> dict[str, Any]:
    """Return the figures of all together."""
    rates = [model.lately for model in models if model.lately.seconds]
    return {
        "waiting": sum(model.waiting for model in models),
        "running": sum(model.depth.running for model in models),
        "slots": sum(model.slots for model in models),
        "oldest": max((model.depth.oldest_ms for model in models), default=0) / 1000,
        "rate": sum(one.per_minute(one.total()) or 0 for one in rates) if rates else None,
        "failed": sum(one.per_minute(one.failed()) or 0 for one in rates) if rates else None,
        "looks": [model for model in models if model.verdict.kind in ("warn", "bad")],
    }


def _offered(model: ModelNow) -> list[str]:
    """Return the actions that would change something."""
    by_state = {"paused": "pause", "draining": "drain", "retired": "retire", "active": "resume"}
    return [action for action in ACTIONS if by_state.get(model.depth.state) != action]


async def _set_model(visit: Visit) -> Response:
    model, action = str(visit.form.get("model", "")), str(visit.form.get("action", ""))
    if action not in ACTIONS:
        raise InvalidRequest(f"'action' must be one of {', '.join(ACTIONS)}.", param="action")
    if action in _WARNINGS and not visit.is_confirmed:
        return visit.ask(f"{action.capitalize()} {model}?", _WARNINGS[action], action.capitalize())
    held = await visit.gateway.admin.set_model(model, action, None, visit.actor)
    changed = f"was {held.before}" if held.before != held.now else "as before"
    notice = f"{held.model} {_DONE.get(held.now, held.now)} ({changed}). {held.running} run, {held.waiting} wait."
    return await visit.done(notice, f"/ui/now?model={quote(held.model, safe='')}")


async def _set_backend(visit: Visit) -> Response:
    model, action = str(visit.form.get("model", "")), str(visit.form.get("action", ""))
    backend = str(visit.form.get("backend", ""))
    if action not in BACKEND_ACTIONS:
        raise InvalidRequest(f"'action' must be one of {', '.join(BACKEND_ACTIONS)}.", param="action")
    if action != "resume" and not visit.is_confirmed:
        warning = "It is called no more until it is resumed; what runs there ends."
        return visit.ask(f"{action.capitalize()} the backend {backend} of {model}?", warning, action.capitalize())
    held = await visit.gateway.admin.set_model(model, action, backend, visit.actor)
    what = "is called again" if held.now == "active" else "is called no more"
    notice = f"The backend {backend} of {held.model} {what}. {held.running} run, {held.waiting} wait."
    return await visit.done(notice, f"/ui/now?model={quote(held.model, safe='')}")


PAGE: Final = Page(
    "now",
    "Now",
    _view,
    parts={"live": _live},
    actions={"model": Action(_set_model), "backend": Action(_set_backend)},
)
