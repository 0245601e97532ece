"""What was found of the backends of a model of `concurrency: auto`, as it lies in Redis for all to read.

A backend is known by a digest of its address and its model, so that neither a reload that changes their order nor a
restart of everything loses what was found.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field

import orjson

from shared.backend_settings import BackendSettings
from shared.settings import ModelSettings

STATE: str = "state"
"""The field of the model's hash that holds it."""


def backend_key(backend: BackendSettings) -> str:
    """Return by what a backend is known."""
    return hashlib.sha256(f"{backend.url}\n{backend.model or ''}".encode()).hexdigest()[:12]


@dataclass(slots=True)
class Found:
    """One backend's number."""

    limit: int
    held: int
    """The last number that was no trial."""
    reason: str = ""
    """Why the number changed last."""
    before: int = 0
    """What it was before."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often it changed, by reason."""


def read_state(text: bytes) -> dict[str, Found]:
    """Return what lies there by the backends' keys; what cannot be read is nothing."""
    try:
        rows = orjson.loads(text) if text else {}
        return {key: Found(**{name: row[name] for name in Found.__slots__}) for key, row in rows.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def write_state(found: dict[str, Found]) -> bytes:
    """Return it as it lies in Redis."""
    return orjson.dumps({key: asdict(one) for key, one in found.items()})


def places_of(model: ModelSettings, found: dict[str, Found]) -> int:
    """Return how many jobs of a model may run at once, by what was found."""
    total = 0
    for auto, backend in zip(model.autos, model.backends, strict=True):
        if auto is not None:
            one = found.get(backend_key(backend))
            total += auto.first if one is None else auto.within(one.limit)
        elif isinstance(backend.concurrency, int):
            total += backend.concurrency
        else:
            return model.most
    return max(1, min(model.most, total))
