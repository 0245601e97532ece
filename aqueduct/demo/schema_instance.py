"""A JSON schema in, a deterministic instance that is valid for it out; for the schemas that applications write.

Known: type, enum, const, properties, required, items, prefixItems, minItems, maxItems, uniqueItems, anyOf, oneOf,
allOf, $ref into the same document, string formats and lengths, numeric bounds. Not known: `pattern`, `not`, `if`.
"""

from __future__ import annotations

import math
from typing import Any

_DEEP = 4
"""Past this depth only what is required is made, so that recursive schemas end."""
_TOO_DEEP = 40
MAX_STEPS = 100_000
"""A tenth of a second or so; schemas of applications take hundreds."""
_CHARS_A_STEP = 64

_FORMATS = {
    "date-time": "2024-01-0{n}T12:00:00Z",
    "date": "2024-01-0{n}",
    "time": "12:00:0{n}Z",
    "duration": "P{n}D",
    "email": "demo{n}@example.com",
    "uuid": "00000000-0000-4000-8000-00000000000{n}",
    "uri": "https://example.com/{n}",
    "hostname": "demo{n}.example.com",
    "ipv4": "192.0.2.{n}",
    "ipv6": "2001:db8::{n}",
}


class UnusableSchema(ValueError):
    """The schema needs an infinite or huge instance, or refers to something that is not there."""


def make_instance(schema: Any) -> Any:
    """Return an instance of `schema`. Raises UnusableSchema."""
    return _Maker(schema).make(schema, depth=0, variant=0)


class _Maker:
    """Makes one instance. Its steps are counted: a small schema can unfold to any number of them."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0

    def _spend(self, steps: int) -> None:
        self._steps += max(0, steps)
        if self._steps > MAX_STEPS:
            raise UnusableSchema(f"the schema unfolds to more than {MAX_STEPS:,} steps")

    def make(self, schema: Any, *, depth: int, variant: int) -> Any:
        """Make one value; different `variant`s give different values, where the schema has room."""
        if depth > _TOO_DEEP:
            raise UnusableSchema("the schema needs an endless instance")
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][variant % len(schema["enum"])]
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                rest = {name: value for name, value in schema.items() if name != key}
                chosen = self._choose(schema[key], depth)
                return self.make(self._merge(rest, self._resolve(chosen)), depth=depth + 1, variant=variant)
        match _type_of(schema, depth):
            case "object":
                return self._make_object(schema, depth)
            case "array":
                return self._make_array(schema, depth)
            case "integer":
                return _make_number(schema, variant, whole=True)
            case "number":
                return _make_number(schema, variant, whole=False)
            case "boolean":
                return variant % 2 == 0
            case "null":
                return None
        self._spend(schema.get("minLength", 0) // _CHARS_A_STEP)
        return _make_string(schema, variant)

    def _resolve(self, schema: Any) -> dict[str, Any]:
        """Follow $ref, fold allOf in, and turn `true` into an empty schema."""
        self._spend(1)
        if not isinstance(schema, dict):
            if schema is False:
                raise UnusableSchema("the schema `false` has no instance")
            return {}
        hops = 0
        while "$ref" in schema:
            hops += 1
            if hops > _TOO_DEEP:
                raise UnusableSchema("a $ref points to itself")
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = self._merge(rest, _lookup(schema["$ref"], self._root))
        if schema.get("allOf"):
            merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
            for part in schema["allOf"]:
                merged = self._merge(merged, self._resolve(part))
            return merged
        return dict(schema)

    def _merge(self, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        merged = {**other, **one}
        if "properties" in one and "properties" in other:
            merged["properties"] = {**other["properties"], **one["properties"]}
        if "required" in one and "required" in other:
            merged["required"] = list(dict.fromkeys([*other["required"], *one["required"]]))
        self._spend(1 + len(merged) + len(merged.get("properties", ())) + len(merged.get("required", ())))
        return merged

    def _choose(self, options: list[Any], depth: int) -> Any:
        """Take the first option that is not null; deep down the one that nests least."""
        if depth <= _DEEP:
            return next((one for one in options if self._resolve(one).get("type") != "null"), options[0])
        return min(options, key=lambda one: _nesting(self._resolve(one)))

    def _make_object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        names = list(properties) if depth <= _DEEP else [name for name in properties if name in required]
        names += [name for name in required if name not in properties]
        return {name: self.make(properties.get(name, {}), depth=depth + 1, variant=0) for name in names}

    def _make_array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first = list(schema.get("prefixItems", ()))
        least = schema.get("minItems", 0)
        wanted = max(least, len(first), 0 if depth > _DEEP or schema.get("items") is False else 1)
        wanted = min(wanted, schema.get("maxItems", wanted))
        self._spend(wanted)
        kinds = (first + [schema.get("items", {})] * wanted)[:wanted]
        return [self.make(kind, depth=depth + 1, variant=place) for place, kind in enumerate(kinds)]


def _type_of(schema: dict[str, Any], depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        if depth > _DEEP and "null" in kind:
            return "null"
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None and ("properties" in schema or "required" in schema):
        return "object"
    if kind is None and ("items" in schema or "prefixItems" in schema):
        return "array"
    return str(kind or "string")


def _lookup(pointer: Any, root: Any) -> dict[str, Any]:
    if not isinstance(pointer, str) or not pointer.startswith("#"):
        raise UnusableSchema(f"$ref {pointer!r} is not inside the schema")
    target = root
    for part in pointer.lstrip("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or key not in target:
            raise UnusableSchema(f"$ref {pointer!r} points to nothing")
        target = target[key]
    return target if isinstance(target, dict) else {}


def _nesting(schema: dict[str, Any]) -> int:
    if any(schema.get(key) for key in ("anyOf", "oneOf")):
        return 3
    kind = _type_of(schema, _DEEP + 1)
    if kind == "object":
        return 1 + len(schema.get("required", ()))
    return 1 + bool(schema.get("minItems")) if kind == "array" else 0


def _make_number(schema: dict[str, Any], variant: int, *, whole: bool) -> float:
    step = schema.get("multipleOf") or 1
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    floor, ceiling = (low if above is None else above), (high if below is None else below)
    if floor is not None and ceiling is not None and not whole and "multipleOf" not in schema:
        return float(floor + (ceiling - floor) * (variant % 8 + 1) / 9)
    if above is not None:
        start = (math.floor(above / step) + 1) * step
    elif low is not None:
        start = math.ceil(low / step) * step
    elif below is not None:
        start = min(step, (math.ceil(below / step) - 1) * step)
    else:
        start = step if high is None else min(step, math.floor(high / step) * step)
    value = start + variant * step if low is not None or above is not None or high is None else start - variant * step
    return int(value) if whole else value


def _make_string(schema: dict[str, Any], variant: int) -> str:
    form = _FORMATS.get(schema.get("format", ""))
    if form is not None:
        return form.format(n=variant % 9 + 1)
    text = "demo" if variant == 0 else f"demo {variant}"
    text = text.ljust(schema.get("minLength", 0), "x")
    longest = schema.get("maxLength", len(text))
    return text if len(text) <= longest else str(variant).rjust(longest, "d")[-longest:] if longest else ""
