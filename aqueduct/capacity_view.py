"""What `aqueduct queues` shows of `concurrency: auto`: what was found of each backend, and why it changed last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.logging import escaped

if TYPE_CHECKING:
    from shared.settings import ModelSettings


def capacity_of(model: ModelSettings, state: bytes | None) -> dict[str, Any]:
    """Return the fields of a model's row: how many may run, and of each backend what was found."""
    from shared.capacity import Found, backend_key, places_of, read_state  # noqa: PLC0415 - keeps `--help` fast

    found = read_state(state or b"")
    rows = []
    for auto, backend in zip(model.autos, model.backends, strict=True):
        if auto is not None:
            one = found.get(backend_key(backend)) or Found(auto.first, auto.first)
            rows.append(
                {
                    "backend": backend.address,
                    "concurrency": auto.within(one.limit),
                    "min": auto.least,
                    "max": auto.most,
                    "before": one.before or None,
                    "reason": one.reason or None,
                    "changes": one.counts,
                }
            )
    return {"concurrency": places_of(model, found), "capacity": rows}


def capacity_lines(row: dict[str, Any]) -> list[str]:
    """Return what there is to say of a model's row below the table."""
    return [
        f"{escaped(row['model'])} at {escaped(one['backend'])}: concurrency {_change(one)} of {one['min']} to "
        f"{one['max']}{_why(one)}"
        for one in row.get("capacity", ())
    ]


def _change(one: dict[str, Any]) -> str:
    return f"{one['before']} → {one['concurrency']}" if one["before"] else str(one["concurrency"])


def _why(one: dict[str, Any]) -> str:
    if not one["reason"]:
        return ""
    often = sorted(one["changes"].items(), key=lambda item: -item[1])
    return f", {escaped(one['reason'])} (so far: {', '.join(f'{escaped(why)} {count}' for why, count in often)})"
