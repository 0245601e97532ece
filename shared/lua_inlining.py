"""Puts the text of short Lua functions in the place of their calls.

In Redis a script's functions are made anew in every call of the script, used or not, and thrown away behind it: one
costs about a fifth of a command. So a function that only returns an expression (`local function f(a) return … end` on
one line) is never made; where it cannot be put in its place it stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

_ONE_LINE: Final = re.compile(r"^local function (\w+)\(([\w, ]*)\) return (.+) end$", re.MULTILINE)
_TOKEN: Final = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|--[^\n]*|[A-Za-z_][\w.]*|.", re.DOTALL)
_SIMPLE: Final = re.compile(r"[A-Za-z_][\w.]*|\d+|'[^'\n]*'")
"""What may stand in several places: to look at it twice costs nothing."""
_BRACKETS: Final = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


class _Function(NamedTuple):
    parameters: list[str]
    expression: str


def inlined(text: str) -> str:
    """Return a script without the short functions that it defines."""
    for match in reversed(list(_ONE_LINE.finditer(text))):  # the last first: it may call those before it
        name, parameters, expression = match[1], [one for one in match[2].split(", ") if one], match[3]
        if len(_split(expression)) != 1 or any(re.search(rf"\b{one} *=[^=]", expression) for one in parameters):
            continue
        rest = _expanded(text[match.end() :], name, _Function(parameters, expression))
        if not re.search(rf"\b{name}\b", _without_texts(rest)):
            text = text[: match.start()] + rest.lstrip("\n")
    return text


def _expanded(text: str, name: str, function: _Function) -> str:
    parts, at = list[str](), 0
    for begin, end, arguments in _calls(text, name):
        given = _split(arguments) if arguments.strip() else []
        if at <= begin and _fits(function, given):
            given = [_expanded(one, name, function) for one in given]
            parts += (text[at:begin], _put(function, given))
            at = end
    return "".join((*parts, text[at:]))


@cache
def _call(name: str) -> re.Pattern[str]:
    """Return what finds a call, or what may only look like one."""
    return re.compile(rf"'[^'\n]*'|\"[^\"\n]*\"|--[^\n]*|(?<![\w.])({name})\(")


def _calls(text: str, name: str) -> Iterator[tuple[int, int, str]]:
    """Yield where each call begins and ends, and what stands in its brackets."""
    for match in _call(name).finditer(text):
        if match[1]:
            depth = 1
            for inner in _TOKEN.finditer(text, match.end()):
                depth += _BRACKETS.get(inner[0], 0)
                if depth == 0:
                    yield match.start(), inner.end(), text[match.end() : inner.start()]
                    break


def _fits(function: _Function, given: list[str]) -> bool:
    if len(given) > len(function.parameters):
        return False
    words = [match[0].split(".")[0] for match in _TOKEN.finditer(function.expression)]
    return all(
        words.count(name) <= 1 or _SIMPLE.fullmatch(one.strip())
        for name, one in zip(function.parameters, given, strict=False)
    )


def _put(function: _Function, given: list[str]) -> str:
    missing = len(function.parameters) - len(given)
    values = dict(zip(function.parameters, [*given, *["nil"] * missing], strict=True))

    def put(match: re.Match[str]) -> str:
        name, dot, field = match[0].partition(".")
        if name not in values:
            return match[0]
        value = values[name].strip()
        return f"{value if _SIMPLE.fullmatch(value) else f'({value})'}{dot}{field}"

    text = _TOKEN.sub(put, function.expression)
    return text if _is_call(text) else f"({text})"


def _is_call(text: str) -> bool:
    """Whether an expression is one call and no more: brackets around it would leave only the first of its values."""
    if not re.match(r"[A-Za-z_][\w.]*\(", text):
        return False
    depth, ends = 0, 0
    for match in _TOKEN.finditer(text):
        depth += _BRACKETS.get(match[0], 0)
        ends += depth == 0 and match[0] == ")"
    return ends == 1 and text.endswith(")")


def _split(text: str) -> list[str]:
    """Return the parts of a list of expressions."""
    parts, depth = [""], 0
    for match in _TOKEN.finditer(text):
        depth += _BRACKETS.get(match[0], 0)
        if match[0] == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += match[0]
    return parts


def _without_texts(text: str) -> str:
    return re.sub(r"--[^\n]*|'[^'\n]*'|\"[^\"\n]*\"", " ", text)
