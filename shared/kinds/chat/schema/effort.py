"""How much work a response schema makes at most: references multiply, and a validator follows each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

MOST: Final = 100_000
"""Subschemas that one place of an answer may meet; a validator looks at some ten million a second."""

_LISTS: Final = ("allOf", "anyOf", "oneOf")
_ONES: Final = ("not", "if", "then", "else")
_BELOW_MAPS: Final = ("properties", "patternProperties")
_BELOW_ONES: Final = (
    "additionalProperties", "unevaluatedProperties", "propertyNames", "items", "unevaluatedItems", "contains",
)  # fmt: skip


class Effort:
    """Of one schema: `most` subschemas on the way to any place of an answer, and whether it `recurs`."""

    def __init__(self, schema: Any) -> None:
        """Take a schema as parsed."""
        self._root = schema
        self._known: dict[int, int] = {}
        self._open: set[int] = set()
        self.recurs = False
        try:
            self.most = self._of(schema)
        except RecursionError:
            self.most = MOST + 1

    def _of(self, node: Any) -> int:
        """Return it for a subschema; what leads back to itself counts once, as a validator remembers that."""
        if not isinstance(node, dict):
            return 1
        if (known := self._known.get(id(node))) is not None:
            return known
        if id(node) in self._open:
            self.recurs = True
            return 1
        self._open.add(id(node))
        here = 1 + sum(map(self._of, self._beside(node)))
        found = min(MOST + 1, here + max(map(self._of, _below(node)), default=0))
        self._open.discard(id(node))
        self._known[id(node)] = found
        return found

    def _beside(self, node: dict[str, Any]) -> Iterator[Any]:
        """Yield the subschemas that judge the same place of an answer."""
        for name in _LISTS:
            if isinstance(node.get(name), list):
                yield from node[name]
        yield from (node[name] for name in _ONES if name in node)
        for name in ("dependentSchemas", "dependencies"):
            if isinstance(node.get(name), dict):
                yield from node[name].values()
        for name in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(node.get(name), str):
                yield self._target(node[name])

    def _target(self, reference: str) -> Any:
        """Return what a reference names; an anchor counts as the whole schema, which is no less."""
        node = self._root
        for raw in reference.removeprefix("#").split("/")[1:]:
            step = unquote(raw).replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict):
                node = node.get(step)
            elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
        return node


def _below(node: dict[str, Any]) -> Iterator[Any]:
    """Yield the subschemas that judge what lies in a place of an answer."""
    for name in _BELOW_MAPS:
        if isinstance(node.get(name), dict):
            yield from node[name].values()
    for name in _BELOW_ONES:
        if name in node:
            yield from node[name] if isinstance(node[name], list) else (node[name],)
    if isinstance(node.get("prefixItems"), list):
        yield from node["prefixItems"]
