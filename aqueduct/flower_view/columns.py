"""A task of Flower's in, the row of its tasks page out: lane, token, wait, tokens and outcome each in a column.

Flower's columns are the fields of Celery's task state. Ours are added to them: workers send what there is to sort by
(`waited`, `tokens`), the rest is made here of what they send anyway, when a row is shown. Never a prompt: workers send
none.
"""

from __future__ import annotations

import ast
from typing import Any, Final

LABELS: Final = {
    "lane": "Lane", "tenant": "Token", "waited": "Waited", "tokens": "Tokens", "outcome": "Outcome", "uuid": "Request",
    "runtime": "Ran", "received": "Began",
}  # fmt: skip
"""Headings: those of our own fields, and those of Flower's that mean something else here."""
SHOWN: Final = ("name", "uuid", "state", "lane", "tenant", "waited", "runtime", "tokens", "outcome", "received")
"""Left to right. Worker, queue and group stand on a task's own page."""
STYLE: Final = (
    ".tasks-table td,.dataTables_scrollHead th{padding-left:.4rem;padding-right:.4rem}"
    ".tasks-table{font-size:.85rem}"
    ".tasks-table td{overflow-wrap:anywhere}"
    ".tasks-table a{font-weight:500}"
    ".tasks-table .task-uuid-full{display:inline-block;max-width:21ch;overflow:hidden;text-overflow:ellipsis;"
    "vertical-align:bottom;font-family:monospace}"
)
"""So that all columns fit into 1400 px; the whole id shows under the pointer, and on the task's own page."""
_OWN: Final = ("lane", "tenant", "group", "waited", "tokens", "outcome")
_NUMBERS: Final = ("waited", "tokens")


def add_columns() -> None:
    """Have Celery's task state hold our fields, and Flower show and sort by them."""
    from celery.events.state import Task  # noqa: PLC0415 - keeps `--help` fast
    from flower.utils import search  # noqa: PLC0415
    from flower.views import tasks  # noqa: PLC0415

    state: Any = Task  # which says nothing of its fields to type checkers
    state._fields = (*state._fields, *(name for name in _OWN if name not in state._fields))
    for name in _OWN:
        setattr(state, name, None)
    tasks.TASK_COLUMNS.update(LABELS)
    sort_key = search._task_sort_key

    def number_or_text(task: Any, sort_by: str, task_id: str) -> tuple[bool, Any, str]:
        if sort_by in _NUMBERS:
            number = _number(getattr(task, sort_by, None))
            return number is not None, number or 0.0, task_id
        key: tuple[bool, Any, str] = sort_key(task, sort_by, task_id)
        return key

    search._task_sort_key = number_or_text


def as_shown(task: Any) -> Any:
    """Fill a copy of a task in, as Flower shows it; what an older worker did not send stays empty."""
    given = _keywords(task.kwargs)
    task.lane = given.get("lane") or ("batch" if "progress" in given else None)
    task.tenant, task.group = given.get("tenant"), given.get("group")
    waited = _number(task.waited)
    task.waited = None if waited is None else duration(waited / 1000)
    if isinstance(task.tokens, list | tuple) and len(task.tokens) == 2:
        task.tokens = f"{task.tokens[0]} + {task.tokens[1]}"
    task.outcome = _outcome(task, given)
    return task


def _outcome(task: Any, given: dict[str, Any]) -> str | None:
    if task.exception:
        return str(task.exception)
    if task.result is None:
        return given.get("progress")
    result = str(task.result)
    return result.partition(" ")[0] if result.startswith("200") else result


def _keywords(text: object) -> dict[str, Any]:
    try:
        found = ast.literal_eval(text) if isinstance(text, str) else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    """Return a number to sort by; of tokens the sum."""
    if isinstance(value, list | tuple):
        return float(sum(one for one in value if isinstance(one, int)))
    return float(value) if isinstance(value, int | float) else None


def duration(seconds: float) -> str:
    """Return a time as people say it, in at most eight characters."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"
