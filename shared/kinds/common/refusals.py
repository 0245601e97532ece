"""Schema errors in the words OpenAI uses: in go pydantic's errors and the body, out comes one `InvalidRequest`.

Messages show numbers, lengths, and short values of enumerations; never text that could be a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import InvalidRequest

Path = tuple[int | str, ...]

MAX_SHOWN_CHARACTERS = 40
_ABSENT = object()

# Members of these objects are named by the client: a path stops at the object, and its rule is told whole.
_FREE_KEYS = {
    "logit_bias": "every key must be a token id in digits and every value an integer from -100 to 100",
    "metadata": "every key must be a string of at most 64 characters and every value a string of at most 512",
}
_EXPECTED_TYPES = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "dict_type": "an object",
    "list_type": "an array",
    "model_attributes_type": "an object",
}
_EITHER_OF = {
    "content": "one of a string or array of objects",
    "stop": "one of a string or array of strings",
    "prompt": "one of a string, array of strings, array of tokens or array of token arrays",
    "input": "one of a string, array of strings, array of tokens or array of token arrays",
}
_JSON_TYPES = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    str: "a string",
    list: "an array",
    dict: "an object",
}
_BOUNDS = {
    "less_than_equal": ("le", "above_max_value", "above maximum value", "<="),
    "greater_than_equal": ("ge", "below_min_value", "below minimum value", ">="),
}


def first_error(error: ValidationError, body: dict[str, Any], path_of: Callable[[Path], Path]) -> InvalidRequest:
    """Return the complaint about the first fault in the order of the body; missing members count as last.

    `path_of` makes of pydantic's location, which names the branches of unions too, a path into the body.
    """
    details = error.errors(include_url=False)
    located = [(path_of(detail["loc"]), detail) for detail in details]
    path, detail = min(located, key=lambda pair: _position(pair[0], body))
    return _complaint(path, detail)


def check(schema: TypeAdapter[Any], body: dict[str, Any], unions: Collection[str]) -> None:
    """Raise the complaint about the first fault of a body; `unions` are its members that have several forms."""

    def path_of(location: Path) -> Path:
        return location[:1] + location[2:] if location[0] in unions else location

    try:
        schema.validate_python(body, strict=True)
    except ValidationError as error:
        raise first_error(error, body, path_of) from None


def check_within(
    schema: TypeAdapter[Any],
    body: dict[str, Any],
    unions: Collection[str],
    within_limits: Callable[[dict[str, Any]], dict[str, Any]],
) -> InvalidRequest | None:
    """As `check`, but return a complaint that only OpenAI's limits give cause for: a model may not share them.

    `within_limits` returns a body with a legal value in the place of each that is past one, or the very body.
    """
    try:
        check(schema, body, unions)
    except InvalidRequest as fault:
        limited = within_limits(body)
        if limited is body:
            raise
        check(schema, limited, unions)
        return fault
    return None


def invalid_type(param: str, expected: str, value: object) -> InvalidRequest:
    """Return the complaint about a value of the wrong JSON type."""
    got = _JSON_TYPES.get(type(value), "something else")
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {got} instead.", param=param, code="invalid_type"
    )


def missing(param: str) -> InvalidRequest:
    """Return the complaint about a required member that is not there."""
    return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def path_text(path: Path) -> str:
    """Return a path as OpenAI writes it: `messages[0].content`."""
    text = ""
    for element in path:
        text += f"[{element}]" if isinstance(element, int) else f".{element}" if text else element
    return text


def _position(path: Path, body: Any) -> tuple[int, ...]:
    """Return where a path lies in the body, as a sort key."""
    places: list[int] = []
    node = body
    for element in path:
        if isinstance(node, dict):
            places.append(next((place for place, key in enumerate(node) if key == element), len(node)))
            node = node.get(element)
        elif isinstance(node, list) and isinstance(element, int):
            places.append(element)
            node = node[element]
    return tuple(places)


def _complaint(path: Path, detail: ErrorDetails) -> InvalidRequest:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    rule = _FREE_KEYS.get(str(path[0])) if len(path) > 1 else None
    if rule is not None:
        return _free_key_complaint(str(path[0]), rule, kind)
    param = path_text(path)
    if kind == "missing":
        return missing(param)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _union_complaint(path, context, value)
    if kind == "literal_error":
        return _enum_complaint(param, context["expected"], value)
    if kind in _BOUNDS:
        return _bound_complaint(param, kind, context, value)
    if kind in ("too_long", "too_short"):
        return _size_complaint(param, kind, context, value)
    if kind in ("string_too_long", "string_too_short"):
        return _length_complaint(param, kind, context, value)
    if kind == "string_pattern_mismatch":
        message = f"Invalid '{param}': it must match the pattern '{context['pattern']}'."
        return InvalidRequest(message, param=param, code="invalid_value")
    if kind in _EXPECTED_TYPES:
        return invalid_type(param, _EXPECTED_TYPES[kind], value)
    return InvalidRequest(f"Invalid value for '{param}'.", param=param, code="invalid_value")


def _free_key_complaint(param: str, rule: str, kind: str) -> InvalidRequest:
    if kind in _EXPECTED_TYPES:
        code = "invalid_type"
    elif kind in _BOUNDS:
        code = f"integer_{_BOUNDS[kind][1]}"
    elif kind == "string_too_long":
        code = "string_above_max_length"
    else:
        code = "invalid_value"
    return InvalidRequest(f"Invalid '{param}': {rule}.", param=param, code=code)


def _union_complaint(path: Path, context: dict[str, Any], value: Any) -> InvalidRequest:
    name = str(context["discriminator"]).strip("'")
    if name not in ("role", "type"):  # a union told apart by JSON type
        expected = _EITHER_OF.get(str(path[-1]), "one of a string or object")
        return invalid_type(path_text(path), expected, value)
    param = path_text((*path, name))
    given = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
    return missing(param) if given is _ABSENT else _enum_complaint(param, context["expected_tags"], given)


def _enum_complaint(param: str, supported: str, value: object) -> InvalidRequest:
    if not isinstance(value, str):
        return invalid_type(param, f"one of {supported}", value)
    shown = f"'{value}'" if len(value) <= MAX_SHOWN_CHARACTERS else f"a string of {len(value)} characters"
    message = f"Invalid value: {shown}. Supported values are: {supported}."
    return InvalidRequest(message, param=param, code="invalid_value")


def _bound_complaint(param: str, kind: str, context: dict[str, Any], value: object) -> InvalidRequest:
    key, code, what, sign = _BOUNDS[kind]
    bound = context[key]
    number = "decimal" if isinstance(bound, float) else "integer"
    text = str(value)
    got = text if len(text) <= MAX_SHOWN_CHARACTERS else f"a number of {len(text)} digits"
    limit = f"{bound:g}" if number == "decimal" else str(bound)
    message = f"Invalid '{param}': {number} {what}. Expected a value {sign} {limit}, but got {got} instead."
    return InvalidRequest(message, param=param, code=f"{number}_{code}")


def _size_complaint(param: str, kind: str, context: dict[str, Any], value: Any) -> InvalidRequest:
    if isinstance(value, dict):
        message = (
            f"Invalid '{param}': too many properties. Expected an object with at most {context['max_length']} "
            f"properties, but got one with {len(value)} instead."
        )
        return InvalidRequest(message, param=param, code="object_above_max_properties")
    if kind == "too_long":
        message = (
            f"Invalid '{param}': array too long. Expected an array with maximum length {context['max_length']}, "
            f"but got an array with length {len(value)} instead."
        )
        return InvalidRequest(message, param=param, code="array_above_max_length")
    message = (
        f"Invalid '{param}': empty array. Expected an array with minimum length {context['min_length']}, "
        "but got an empty array instead."
    )
    return InvalidRequest(message, param=param, code="empty_array")


def _length_complaint(param: str, kind: str, context: dict[str, Any], value: str) -> InvalidRequest:
    long = kind == "string_too_long"
    bound = f"maximum length {context['max_length']}" if long else f"minimum length {context['min_length']}"
    message = (
        f"Invalid '{param}': string too {'long' if long else 'short'}. Expected a string with {bound}, "
        f"but got a string with length {len(value)} instead."
    )
    return InvalidRequest(message, param=param, code="string_above_max_length" if long else "string_below_min_length")
