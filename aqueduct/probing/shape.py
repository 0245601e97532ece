"""A backend's whole answer in; what the gateway mends of it, in words."""

from __future__ import annotations

from aqueduct.probing.asking import Told
from shared.errors import AqueductError
from shared.kinds import KINDS


def mended(told: Told) -> tuple[str, list[str]]:
    """Return why an answer cannot be used, empty if it can; and what of it becomes something else."""
    spec = told.job.spec
    try:
        KINDS[spec.kind].plain(told.body, spec, told.job.id)
    except AqueductError as error:
        return str(error), []
    answer = told.document
    notes = [name for name in ("id", "object", "usage") if not answer.get(name)]
    notes = [f"no {name}" for name in notes]
    if type(answer.get("created")) is not int:
        notes.append("created is no whole number")
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if type(choice.get("index")) is not int:
            notes.append("a choice without index")
        if choice.get("finish_reason") not in ("stop", "length", "content_filter", "tool_calls", "function_call"):
            notes.append(f"finish_reason {str(choice.get('finish_reason'))[:32]!r}")
    if not answer:
        notes = ["more than one JSON document"]
    return "", notes
