"""Forms of tokens and groups: what was typed in, settings or a word at each wrong field out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import ValidationError
from starlette.datastructures import FormData

from shared.config_problems import reason
from shared.control.groups import GroupDesk
from shared.control.tokens import TokenDesk
from shared.errors import Conflict, InvalidRequest
from shared.limit_settings import LimitSettings
from shared.token_settings import GroupSettings, TokenSettings

Result = TypeVar("Result")
Desk = TypeVar("Desk", TokenDesk, GroupDesk)
Kind = TypeVar("Kind", TokenSettings, GroupSettings)

LIMITS: Final = (*LimitSettings.model_fields,)
BATCH_LIMITS: Final = ("max_open_batches", "max_enqueued_batch_tokens", "max_stored_bytes")
_LABELS: Final = {
    "requests_per_minute": "Requests a minute", "tokens_per_minute": "Tokens a minute",
    "concurrent_jobs": "Requests at once", "waiting_jobs": "Requests that wait", "tokens_per_day": "Tokens a day",
    "tokens_per_month": "Tokens a month", "slot_seconds_per_day": "Slot seconds a day",
    "slot_seconds_per_month": "Slot seconds a month", "max_open_batches": "Open batches",
    "max_enqueued_batch_tokens": "Tokens of open batches", "max_stored_bytes": "Bytes of files",
}  # fmt: skip
_SHORT: Final = {
    "requests_per_minute": "requests/min", "tokens_per_minute": "tokens/min", "concurrent_jobs": "at once",
    "waiting_jobs": "waiting", "tokens_per_day": "tokens today", "tokens_per_month": "tokens this month",
    "slot_seconds_per_day": "slot s today", "slot_seconds_per_month": "slot s this month",
}  # fmt: skip


class Field(NamedTuple):
    """A number that may be left empty, as a form asks for it."""

    name: str
    label: str
    hint: str


class Against(NamedTuple):
    """A limit, and how much of it is used."""

    label: str
    used: int
    limit: int


class FormErrors(Exception):
    """What is wrong with a form, by field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(", ".join(errors))
        self.errors = dict(errors)


def number_fields(kind: type[TokenSettings] | type[GroupSettings]) -> list[Field]:
    """Return the numbers that a token, or a group, may have."""
    names = (*LIMITS, *(BATCH_LIMITS if kind is TokenSettings else ()))
    return [Field(name, _LABELS[name], _hint(kind.model_fields[name].description or "")) for name in names]


def _hint(description: str) -> str:
    return description.partition(". Past it")[0].partition(". Once they")[0].partition("; past it")[0].replace("`", "")


def settings_of(form: FormData, kind: type[TokenSettings] | type[GroupSettings]) -> dict[str, Any]:
    """Return the settings that a form holds, as typed; an empty field is None, or the default where there must be one.

    The name is not among them.
    """
    given = {name: value.strip() for name, value in form.multi_items() if isinstance(value, str)}
    fields: dict[str, Any] = {name: given.get(name) or None for name in (one.name for one in number_fields(kind))}
    fields["models"] = [name.strip() for name in given.get("models", "*").split(",") if name.strip()]
    fields["lane"] = given.get("lane") or kind.model_fields["lane"].default
    fields["weight"] = given.get("weight") or 1
    if kind is TokenSettings:
        expires = given.get("expires_at")
        fields["role"] = given.get("role") or "user"
        fields["group"] = given.get("group") or None
        fields["expires_at"] = f"{expires}Z" if expires and not expires.endswith("Z") else expires or None
    return fields


def changed(record: Mapping[str, Any], fields: Mapping[str, Any], kind: type[Kind]) -> dict[str, Any]:
    """Return which of the settings of a form differ from a token's or group's; raises ValidationError."""
    needed = {"sha256": record["sha256"]} if "sha256" in record else {}
    meant = kind.model_validate({**fields, **needed, "name": record["name"]}).model_dump(mode="json")
    return {name: value for name, value in fields.items() if meant[name] != record[name]}


async def attempt(
    desk_of: Callable[[Callable[[Desk], Result]], Awaitable[Result]], act: Callable[[Desk], Result]
) -> Result:
    """Do something with tokens or groups, as `AdminDesk` lets one; raises FormErrors for fields of a form."""

    def work(desk: Desk) -> Result:
        try:
            return act(desk)
        except ValidationError as error:
            raise FormErrors(dict(map(_told, error.errors(include_url=False)))) from None

    try:
        return await desk_of(work)
    except (InvalidRequest, Conflict) as error:
        if error.param is None:
            raise
        raise FormErrors({error.param: error.message}) from None


def _told(found: Any) -> tuple[str, str]:
    field = str(found["loc"][0]) if found["loc"] else ""
    text = reason(dict(found), (field,), show=True)
    return field, f"{text[:1].upper()}{text[1:]}."


def against(record: Mapping[str, Any], used: Mapping[str, int] | None) -> list[Against]:
    """Return the limits of a token or a group with what is used of them."""
    if used is None:
        return []
    return [Against(_SHORT[name], used[name], record[name]) for name in LIMITS if record.get(name) is not None]
