"""Bodies with some of their values changed, or the very same ones: what has not changed is not copied."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any

Object = dict[str, Any]
MAX_STOPS = 4


def replaced(whole: Any, **changes: Callable[[Any], Any]) -> Any:
    """Return an object with these members changed, or the very one if none is; what is no object stays."""
    if type(whole) is not dict:
        return whole
    made = {name: change(whole[name]) for name, change in changes.items() if name in whole}
    if all(value is whole[name] for name, value in made.items()):
        return whole
    return {**whole, **made}


def each(items: Any, change: Callable[[Any], Any]) -> Any:
    """Return a list with each item changed, or the very one if none is; what is no list stays."""
    if type(items) is not list:
        return items
    made = list(map(change, items))
    return items if all(map(is_, made, items)) else made


def within_stops(stop: Any) -> Any:
    """Return stop strings as OpenAI allows them: one to four."""
    return (stop[:MAX_STOPS] or None) if type(stop) is list and not 0 < len(stop) <= MAX_STOPS else stop
