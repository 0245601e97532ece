"""What is wrong with a configuration, in plain words: pydantic's findings in, `Problem`s out.

No text made here holds a secret: values are shown only where `shown` finds them harmless.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
"""Where a value stands: keys and list indexes from the top of the file."""

_HIDDEN = {"api_key", "headers", "password", "proxy", "redis_url", "secret", "sha256", "url"}
"""Keys whose values are never shown. A `sha256` may be a token pasted by mistake, a URL may hold a password."""


@dataclass(frozen=True)
class Problem:
    """One thing to mend: where it stands and what to do."""

    path: str
    """The setting's dotted name; empty where the whole file is meant."""
    reason: str
    file: str | None = None
    line: int | None = None
    variable: str | None = None
    """The environment variable the value came from, instead of a file."""
    missing_variable: str | None = None
    """The environment variable that the file names here and that has no value."""

    def __str__(self) -> str:
        """Return `file:line: path: reason`, or `VARIABLE: reason`."""
        if self.variable:
            return f"{self.variable}: {self.reason}"
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(part for part in (place, self.path, self.reason) if part)


class ConfigError(ValueError):
    """The configuration cannot be used; `problems` has every reason, the text one line for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def dotted(path: Path) -> str:
    """Return a path as people write it: `models.llama.backends[0].url`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def is_hidden(path: Path) -> bool:
    """Whether the value at this path may be a secret."""
    return any(part in _HIDDEN for part in path)


def shown(value: object) -> str:
    """Return ` (is …)` for a short plain value, else nothing."""
    if isinstance(value, bool):
        return f" (is {str(value).lower()})"
    if isinstance(value, int | float):
        return f" (is {value})"
    if isinstance(value, str) and len(value) <= 40 and "://" not in value:
        return f" (is {value!r})"
    return ""


_PATTERNS = {
    "sha256": 'must be the SHA-256 of the token, 64 digits 0-9 a-f; get it by: printf %s "$TOKEN" | sha256sum',
    "name": "may hold only letters, digits and . _ @ -",
    "group": "may hold only letters, digits and . _ @ -",
}
_WORDS = {
    "missing": "is required",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "tuple_type": "must be a list",
    "path_type": "must be a path",
    "dict_type": "must hold names, each with its settings below it",
    "model_type": "must hold settings, one `key: value` a line",
    "model_attributes_type": "must hold settings, one `key: value` a line",
    "timezone_aware": "needs a time zone, as 2027-01-31T00:00:00Z",
}


def reason(error: dict[str, Any], path: Path, *, show: bool) -> str:
    """Return pydantic's finding in plain words; its value is shown only if `show` and harmless."""
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    is_value = show and kind != "missing" and not is_hidden(path)
    tail = shown(value) if is_value else ""
    if value is None and kind not in ("missing", "value_error"):
        return "has no value; give one or remove the line"
    if kind in _WORDS:
        return _WORDS[kind] + tail
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        hint = suggestion(value, re.findall(r"'([^']*)'", context["expected"])) if isinstance(value, str) else ""
        return f"must be {context['expected']}{tail}{hint if is_value else ''}"
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(str(path[-1]), "has characters that are not allowed") + tail
    if kind.startswith(("datetime", "date_")):
        return f"must be a date and time such as 2027-01-31T00:00:00Z{tail}"
    return _limit(kind, context, tail) or re.sub(r"^Input should", "must", str(error["msg"]))


def _limit(kind: str, context: dict[str, Any], tail: str) -> str | None:
    match kind:
        case "greater_than_equal":
            return f"must be at least {context['ge']}{tail}"
        case "less_than_equal":
            return f"must be at most {context['le']}{tail}"
        case "greater_than":
            return f"must be more than {context['gt']}{tail}"
        case "less_than":
            return f"must be less than {context['lt']}{tail}"
        case "too_short":
            return f"needs at least {context['min_length']} entry"
        case "string_too_short":
            return f"must have at least {context['min_length']} character{tail}"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
    return None
