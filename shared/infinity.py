"""Numbers that JSON text can say and JSON tools cannot: found in a parsed value."""

from __future__ import annotations

import math
from typing import Any


def holds_infinity(value: Any) -> bool:
    """Tell whether a number overflowed: the parser turns 1e400 into infinity, which no JSON can say again."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind is dict:
            waiting.extend(node.values())
        elif kind is list:
            waiting.extend(node)
        elif kind is float and math.isinf(node):
            return True
    return False
