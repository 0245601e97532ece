"""The Tokens page: who may send requests, what they may use and have used of it; made, changed and revoked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import Response

from api.ui.page import Action, Page, Visit
from api.ui.token_forms import LIMITS, FormErrors, against, attempt, changed, number_fields, settings_of
from shared.control.groups import GroupDesk
from shared.control.tokens import TokenDesk
from shared.lanes import LANES
from shared.roles import ROLES
from shared.room.limits_used import limits_used
from shared.token_settings import GroupSettings, TokenSettings

PAGE_ROWS: Final = 100
_NEW: Final[Mapping[str, Any]] = {"role": "user", "models": ["*"], "lane": "default", "weight": 1.0}
_NEW_GROUP: Final[Mapping[str, Any]] = {"models": ["*"], "lane": "priority", "weight": 1.0}


async def _view(visit: Visit) -> Response:
    return await _page(visit)


async def _page(
    visit: Visit, *, what: str = "", values: Mapping[str, Any] | None = None, errors: Mapping[str, str] | None = None,
    secret: str = "", made: str = "",
) -> Response:  # fmt: skip
    """Return the page; with `what` ("token" or "group") and `values` the form that was sent, with its errors."""
    tokens, groups = await visit.gateway.admin.tokens(lambda desk: (desk.list(), desk.groups_told()))
    wanted, of_group = visit.query.get("q", "").strip()[:64], visit.query.get("group", "")
    shown = [one for one in tokens if wanted in one["name"] and of_group in ("", one["group"])]
    start = max(0, min(_start(visit), len(shown) - 1)) // PAGE_ROWS * PAGE_ROWS
    rows = shown[start : start + PAGE_ROWS]
    subjects = [one["name"] for one in rows if _has_limits(one)]
    subjects += [f"group:{one['name']}" for one in groups if _has_limits(one)]
    used = await limits_used(visit.gateway.client, subjects)
    edited = _edited(visit, tokens, groups) if values is None else (what, values)
    return visit.page(
        "tokens.html", 400 if errors else 200, errors=errors or {}, secret=secret, made=made,
        tokens=[one | {"against": against(one, used.get(one["name"]))} for one in rows],
        groups=[one | {"against": against(one, used.get(f"group:{one['name']}"))} for one in groups],
        found=len(shown), start=start, page_rows=PAGE_ROWS, wanted=wanted, of_group=of_group, edited=edited,
        new=_NEW, new_group=_NEW_GROUP, roles=[(one, one) for one in ROLES], lanes=[(one, one) for one in LANES],
        numbers=number_fields(TokenSettings), group_numbers=number_fields(GroupSettings),
        models=sorted(visit.gateway.settings.public_names()),
        group_names=[(one["name"], one["name"]) for one in groups],
    )  # fmt: skip


def _start(visit: Visit) -> int:
    text = visit.query.get("start", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def _has_limits(record: Mapping[str, Any]) -> bool:
    return any(record.get(name) is not None for name in LIMITS)


def _edited(
    visit: Visit, tokens: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]
) -> tuple[str, Mapping[str, Any]] | None:
    """Return what the page was asked to show as a form, if it was made here and is there."""
    for what, records, name in (
        ("token", tokens, visit.query.get("edit")), ("group", groups, visit.query.get("edit_group")),
    ):  # fmt: skip
        for one in records:
            if one["name"] == name and not one["static"]:
                return what, {**one, "expires_at": _utc(one.get("expires_at"))}
    return None


def _utc(text: str | None) -> str:
    """Return a time with a zone as a field of a form has it, which has none."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%dT%H:%M:%S}" if text else ""


# --- tokens -----------------------------------------------------------------------------------------------------------


async def _create(visit: Visit) -> Response:
    fields = {"name": _name(visit), **settings_of(visit.form, TokenSettings)}
    try:
        secret, record = await attempt(visit.gateway.admin.tokens, lambda desk: desk.create(fields, visit.actor))
    except FormErrors as wrong:
        return await _page(visit, what="token", values=fields | {"is_new": True}, errors=wrong.errors)
    return await _page(visit, secret=secret, made=record.name)


async def _set(visit: Visit) -> Response:
    name, fields = _name(visit), settings_of(visit.form, TokenSettings)

    def change(desk: TokenDesk) -> None:
        known = [one for one in desk.list() if one["name"] == name]
        meant = changed(known[0], fields, TokenSettings) if known else fields
        if meant:  # so that the audit log names what was changed, and no more
            desk.change(name, meant, visit.actor)

    try:
        await attempt(visit.gateway.admin.tokens, change)
    except FormErrors as wrong:
        return await _page(visit, what="token", values={"name": name, **fields}, errors=wrong.errors)
    return await visit.done(f"The token {name} is changed. It takes effect within 5 seconds.")


async def _revoke(visit: Visit) -> Response:
    name = _name(visit)
    if not visit.is_confirmed:
        own = " It is the one that you are logged in with." if name == visit.token.name else ""
        return visit.ask(f"Revoke {name}?", f"Whoever uses it is refused from then on, for good.{own}", "Revoke it")
    await visit.gateway.admin.tokens(lambda desk: desk.revoke(name, visit.actor))
    return await visit.done(f"The token {name} is revoked. Every process refuses it within 5 seconds.")


# --- groups -----------------------------------------------------------------------------------------------------------


async def _create_group(visit: Visit) -> Response:
    fields = {"name": _name(visit), **settings_of(visit.form, GroupSettings)}
    try:
        await attempt(visit.gateway.admin.groups, lambda desk: desk.create(fields, visit.actor))
    except FormErrors as wrong:
        return await _page(visit, what="group", values=fields | {"is_new": True}, errors=wrong.errors)
    return await visit.done(f"The group {fields['name']} is made. Put tokens into it, and it counts.")


async def _set_group(visit: Visit) -> Response:
    name, fields = _name(visit), settings_of(visit.form, GroupSettings)

    def change(desk: GroupDesk) -> None:
        known = [one.model_dump(mode="json") for one in desk.store.list() if one.name == name]
        meant = changed(known[0], fields, GroupSettings) if known else fields
        if meant:
            desk.change(name, meant, visit.actor)

    try:
        await attempt(visit.gateway.admin.groups, change)
    except FormErrors as wrong:
        return await _page(visit, what="group", values={"name": name, **fields}, errors=wrong.errors)
    return await visit.done(f"The group {name} is changed. It takes effect within 5 seconds.")


async def _delete_group(visit: Visit) -> Response:
    name = _name(visit)
    if not visit.is_confirmed:
        return visit.ask(f"Delete the group {name}?", "Its limits and its weight go with it.", "Delete it")
    try:
        await attempt(visit.gateway.admin.groups, lambda desk: desk.delete(name, visit.actor))
    except FormErrors as wrong:
        return await visit.done(" ".join(wrong.errors.values()))
    return await visit.done(f"The group {name} is deleted.")


def _name(visit: Visit) -> str:
    return str(visit.form.get("name", "")).strip()


PAGE: Final = Page(
    "tokens", "Tokens", _view,
    actions={
        "create": Action(_create), "set": Action(_set), "revoke": Action(_revoke),
        "create-group": Action(_create_group), "set-group": Action(_set_group), "delete-group": Action(_delete_group),
    },
)  # fmt: skip
