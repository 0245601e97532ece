"""Which error codes the code knows, read from the code itself.

In: the modules of `api/`, `shared/` and `workers/`. Out: each code with the statuses that it is sent with, as far as
the place tells them.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from shared import errors
from shared.kinds.common.refusals import _BOUNDS

FOLDERS = ("api", "shared", "workers")
_SENT_OTHERWISE = {"storage_full": {507}, "range_not_satisfiable": {416}}
"""Made with one status and sent with another, in `api/store_errors.py` and `api/routes/files.py`."""
_CODE = re.compile(r"[a-z][a-z_]+$")
_CLASSES = {
    name: found
    for name, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, errors.AqueductError)
}


def found(root: Path) -> dict[str, set[int]]:
    """Return every code with its statuses; none where only a caller knows them."""
    codes: dict[str, set[int]] = {}
    for one in _CLASSES.values():
        if one.code is not None:
            codes.setdefault(one.code, set()).add(one.status)
    for _, code, *_ in _BOUNDS.values():
        codes |= {f"{number}_{code}": {400} for number in ("integer", "decimal")}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            for code, status in _in_module(ast.parse(path.read_text(encoding="utf-8"))):
                codes.setdefault(code, set()).update({status} if status else set())
    return codes | _SENT_OTHERWISE


def _in_module(tree: ast.Module) -> Iterator[tuple[str, int | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            status = _status(node)
            for given in node.keywords:
                if given.arg == "code" and (status or _is_error(node)):
                    yield from ((code, status) for code in _texts(given.value))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from ((code, None) for code in _assigned(target, node.value))


def _status(call: ast.Call) -> int | None:
    """Return the status of an error of ours that is made here; one that is named beside the code goes first."""
    named = [one.value for one in call.keywords if one.arg == "status"]
    if named and isinstance(named[0], ast.Constant) and isinstance(named[0].value, int):
        return named[0].value
    made = _CLASSES.get(call.func.id) if isinstance(call.func, ast.Name) else None
    return None if made is None or made.code == "backend_error" else made.status


def _is_error(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in _CLASSES


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for part, given in zip(target.elts, value.elts, strict=True):
            yield from _assigned(part, given)
    elif isinstance(target, ast.Name) and (target.id == "code" or target.id.endswith("_CODE")):
        yield from _texts(value)


def _texts(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str) and _CODE.match(value.value):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from _texts(value.body)
        yield from _texts(value.orelse)
    elif isinstance(value, ast.BoolOp):
        for part in value.values:
            yield from _texts(part)
