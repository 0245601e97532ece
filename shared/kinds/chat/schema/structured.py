"""Response schemas: in goes the schema of a `json_schema` format, out comes what is wrong with it, or None.

Nothing is ever fetched: references are neither followed nor resolved.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeAlias

import jsonschema_rs
import orjson

MAX_CHECKED_BYTES = 256 * 1024
"""A larger schema skips the meta-schema check (a check of 256 KB takes some 3 ms, on the event loop)."""
MAX_DEPTH = 10
MAX_PROPERTIES = 5_000
MAX_ENUM_VALUES = 1_000
MAX_NAME_CHARACTERS = 120_000
MAX_LONG_ENUM_CHARACTERS = 15_000
LONG_ENUM_VALUES = 250
MAX_NODES = 20_000
"""Subschemas looked at before a strict schema counts as too large; bounds the time of the walk."""

Place: TypeAlias = "tuple[Place, tuple[str | int, ...]] | None"
"""Where a subschema lies, as a chain to its parent: spelt out only in a complaint."""

_META_SCHEMA = jsonschema_rs.Draft202012Validator({"$ref": "https://json-schema.org/draft/2020-12/schema"})
_SCHEMA_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def schema_problem(schema: dict[str, Any], *, strict: bool) -> str | None:
    """Return what makes `schema` unusable as a sentence without its end, or None if it is fine."""
    try:
        if size_bytes(schema) <= MAX_CHECKED_BYTES:
            _META_SCHEMA.validate(schema)
    except jsonschema_rs.ValidationError as error:
        place = _shortened("/".join(map(str, error.instance_path)))
        return f"it is not a valid JSON Schema (draft 2020-12): see {place}"
    except ValueError:
        return "it holds a number that JSON Schema tools cannot read"
    return _StrictWalk().problem(schema) if strict else None


def size_bytes(schema: dict[str, Any]) -> int:
    """Return how long a schema is as text."""
    try:
        return len(orjson.dumps(schema))
    except TypeError:  # an integer beyond 64 bits
        return len(json.dumps(schema))


def _shown(place: Place) -> str:
    """Return a path into the schema, shortened so that no message grows with the request."""
    steps: list[str] = []
    while place is not None:
        place, names = place
        steps[:0] = map(str, names)
    return _shortened("/".join(steps))


def _shortened(text: str) -> str:
    if not text:
        return "its root"
    return f"'{text}'" if len(text) <= 120 else f"'{text[:120]}…'"


class _StrictWalk:
    """Counts what the strict subset limits while it visits each subschema once."""

    def __init__(self) -> None:
        self.properties = 0
        self.enum_values = 0
        self.name_characters = 0

    def problem(self, schema: dict[str, Any]) -> str | None:
        """Return the first breach of the strict subset."""
        if schema.get("type") != "object" and "$ref" not in schema:
            return "with 'strict' its root must have type 'object'"
        waiting: list[tuple[dict[str, Any], int, Place]] = [(schema, 0, None)]
        for visited in range(MAX_NODES):
            if not waiting:
                return None
            node, depth, place = waiting.pop()
            found = self._node_problem(node, place) or self._limit_problem(node, place)
            if found is not None:
                return found
            depth += "properties" in node
            if depth > MAX_DEPTH:
                return f"with 'strict' objects may nest {MAX_DEPTH} levels deep, {_shown(place)} is deeper"
            room = MAX_NODES - visited - len(waiting)
            children = [(child, depth, (place, steps)) for steps, child in islice(_children(node), room)]
            if len(children) == room:
                break
            waiting.extend(reversed(children))
        return "with 'strict' it is too large"

    def _node_problem(self, node: dict[str, Any], place: Place) -> str | None:
        kind = node.get("type")
        if kind != "object" and not (isinstance(kind, list) and "object" in kind) and "properties" not in node:
            return None
        if node.get("additionalProperties") is not False:
            return f"with 'strict' every object needs 'additionalProperties': false; add it to {_shown(place)}"
        properties = node.get("properties", {})
        required = node.get("required", [])
        if isinstance(properties, dict) and isinstance(required, list):
            named = {name for name in required if isinstance(name, str)}
            if not named.issuperset(properties):
                return f"with 'strict' every property must be listed in 'required'; complete it in {_shown(place)}"
        return None

    def _limit_problem(self, node: dict[str, Any], place: Place) -> str | None:
        for keyword in ("properties", "$defs", "definitions"):
            names = node.get(keyword)
            if isinstance(names, dict):
                self.properties += len(names) if keyword == "properties" else 0
                self.name_characters += sum(map(len, names))
        values = node.get("enum")
        if isinstance(values, list):
            characters = sum(len(value) for value in values if isinstance(value, str))
            self.enum_values += len(values)
            self.name_characters += characters
            if len(values) > LONG_ENUM_VALUES and characters > MAX_LONG_ENUM_CHARACTERS:
                return (
                    f"with 'strict' an enum of over {LONG_ENUM_VALUES} values may hold {MAX_LONG_ENUM_CHARACTERS} "
                    f"characters; shorten the one in {_shown(place)}"
                )
        constant = node.get("const")
        self.name_characters += len(constant) if isinstance(constant, str) else 0
        if self.properties > MAX_PROPERTIES:
            return f"with 'strict' it may have {MAX_PROPERTIES} properties in all"
        if self.enum_values > MAX_ENUM_VALUES:
            return f"with 'strict' it may have {MAX_ENUM_VALUES} enum values in all"
        if self.name_characters > MAX_NAME_CHARACTERS:
            return f"with 'strict' its names and enum values may hold {MAX_NAME_CHARACTERS} characters in all"
        return None


def _children(node: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Yield each direct subschema with the steps that lead to it."""
    for keyword in _SCHEMA_MAPS:
        members = node.get(keyword)
        if isinstance(members, dict):
            for name, child in members.items():
                if isinstance(child, dict):
                    yield (keyword, name), child
    for keyword in _SCHEMA_LISTS:
        branches = node.get(keyword)
        if isinstance(branches, list):
            for index, child in enumerate(branches):
                if isinstance(child, dict):
                    yield (keyword, index), child
    for keyword in _SCHEMAS:
        child = node.get(keyword)
        if isinstance(child, dict):
            yield (keyword,), child
