"""Members that a schema does not know, inside of a request: left out, or refused with the path of the first.

Top-level names are `without_extras`'s; this goes into what they hold. Only models that do not pass everything on ask.
"""

from __future__ import annotations

from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from typing_extensions import get_type_hints, is_typeddict

from shared.errors import InvalidRequest
from shared.kinds.common.refusals import Path, path_text

MAX_NAME_CHARACTERS = 64
"""Of a member's name in a message; it is the client's text."""
_TELLING = ("type", "role")
"""Members whose value tells which of a union's objects it is."""

Policy = Literal["allow", "drop", "refuse"]


def without_unknown_members(body: dict[str, Any], schema: type, policy: Policy) -> dict[str, Any]:
    """Return a valid body as the policy wants it; the order stays.

    Raises:
        InvalidRequest: the policy is `refuse` and there is one.
    """
    if policy == "allow":
        return body
    shapes = _members(schema)
    return {
        name: _known(value, shapes[name], (name,), policy) if name in shapes else value for name, value in body.items()
    }


def _known(value: Any, shape: Any, path: Path, policy: Policy) -> Any:
    if type(value) is list:
        item = next((get_args(one)[0] for one in _branches(shape) if get_origin(one) is list), None)
        if item in (None, str, int):  # tokens may be a million
            return value
        return [_known(one, item, (*path, place), policy) for place, one in enumerate(value)]
    if type(value) is not dict:
        return value
    members = next((found for one in _branches(shape) if (found := _members_that_fit(value, one)) is not None), None)
    if members is None:
        return value
    known: dict[str, Any] = {}
    for name, inner in value.items():
        if name in members:
            known[name] = _known(inner, members[name], (*path, name), policy)
        elif policy == "refuse":
            param = path_text((*path, name[:MAX_NAME_CHARACTERS]))
            raise InvalidRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    return known


def _branches(shape: Any) -> tuple[Any, ...]:
    if get_origin(shape) not in (Union, UnionType):
        return (shape,)
    return tuple(inner for one in get_args(shape) if one is not NoneType for inner in _branches(one))


def _members_that_fit(value: dict[str, Any], shape: Any) -> dict[str, Any] | None:
    """Return the members of the object that a value is, or None when it is another or one of free names."""
    if not is_typeddict(shape):
        return None
    members = _members(shape)
    told = ((value.get(name), get_args(members[name])) for name in _TELLING if name in members)
    return members if all(given in words for given, words in told) else None


@cache
def _members(shape: type) -> dict[str, Any]:
    return get_type_hints(shape)
