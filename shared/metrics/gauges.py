"""What stands at the moment of asking, as rows of each gauge: read once for the whole, or told by live processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from shared.backend_keys import key_of
from shared.capacity import read_state
from shared.holds import WHOLE_MODEL
from shared.lanes import LANES
from shared.metrics import names
from shared.metrics.counts import Taken
from shared.metrics.names import Metric
from shared.metrics.states import merged
from shared.room.upkeep import Depth, Observed
from shared.settings import ModelSettings

Labels = tuple[str, ...]
Rows = Iterable[tuple[Labels, float]]


@dataclass(frozen=True, slots=True)
class Whole:
    """Everything that is told at a moment."""

    version: str
    is_up: bool
    counted: Taken = field(default_factory=dict)
    depths: Mapping[str, Depth] = field(default_factory=dict)
    states: Iterable[bytes] = ()
    """What each live process says of its present."""
    observed: Mapping[str, Observed] = field(default_factory=dict)
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
    memory: tuple[int, int] | None = None
    """What Redis uses and may use; None where it does not say."""
    budgets: Mapping[Labels, int] = field(default_factory=dict)
    now: float = 0.0
    """Unix seconds."""


def gauges(whole: Whole) -> Iterator[tuple[Metric, Rows]]:
    """Yield every gauge with its rows, while Redis answers."""
    depths = whole.depths.items()
    waits = (((model, lane), depth.waiting[lane]) for model, depth in depths for lane in LANES)
    yield names.WAITING, waits
    yield names.OLDEST, (((model,), depth.oldest_request_ms / 1000) for model, depth in depths)
    yield names.RUNNING, (((model,), depth.running) for model, depth in depths)
    yield names.WORKERS, (((model,), depth.workers) for model, depth in depths)
    held = ((model, hold.value, depth.held) for model, depth in depths for hold in WHOLE_MODEL)
    yield names.MODEL_HELD, (((model, hold), hold == word) for model, hold, word in held)
    apart = whole.observed.items()
    yield names.FAIRNESS, (((model, lane), one.deviation[lane]) for model, one in apart for lane in LANES)
    yield from _of_models(whole)
    yield names.BUDGETS, whole.budgets.items()
    used, most = whole.memory or (0, 0)
    yield names.REDIS_MEMORY, [((), used)] if whole.memory else []
    yield names.REDIS_MEMORY_LIMIT, [((), most)] if whole.memory else []
    told = merged(whole.states)
    for metric in names.TOLD:
        yield metric, told.get(metric, {}).items()


def _of_models(whole: Whole) -> Iterator[tuple[Metric, Rows]]:
    slots = [((name,), _slots(model, whole.observed.get(name))) for name, model in whole.models.items()]
    yield names.SLOTS, slots
    most: dict[Labels, float] = defaultdict(float)
    off: dict[Labels, float] = {}
    for name, model in whole.models.items():
        for key, address, number in _backend_slots(model, whole.observed.get(name)):
            label = (name, address)
            most[label] += number
            is_held = name in whole.depths and key in whole.depths[name].backends_off
            off[label] = min(off.get(label, 1.0), float(is_held))
    yield names.BACKEND_SLOTS, most.items()
    yield names.BACKEND_HELD, off.items()
    hours = (((name,), model.hours.are_on(whole.now)) for name, model in whole.models.items() if model.hours)
    yield names.BATCH_LANE_OPEN, hours


def _slots(model: ModelSettings, observed: Observed | None) -> int:
    """Return how many jobs of a model may run at once: of `concurrency: auto` as found by now, 1 at first."""
    if not model.is_auto:
        return model.places
    return min(model.places, (observed.places if observed is not None else None) or 1)


def _backend_slots(model: ModelSettings, observed: Observed | None) -> Iterator[tuple[str, str, int]]:
    """Yield of each backend its key, its address, and how many calls it may have at once."""
    found = read_state(observed.found) if observed is not None else {}
    for auto, backend in zip(model.autos, model.backends, strict=True):
        key = key_of(backend)
        if auto is not None:
            number = auto.within(found[key].limit) if key in found else auto.first
        else:
            number = backend.concurrency if isinstance(backend.concurrency, int) else model.most
        yield key, backend.address, number
