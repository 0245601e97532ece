"""The whole of all processes as Prometheus reads it: what they have counted, and what stands in Redis now.

OpenTelemetry's GenAI names stand beside ours, made of the same counts, so that boards that know them read these.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from shared.metrics import names
from shared.metrics.counts import INFINITE, MICRO, SEPARATOR, SUM, Taken
from shared.metrics.gauges import Labels, Whole, gauges
from shared.metrics.names import COUNTED, Metric

_BY_SHORT: Final = {metric.short: metric for metric in COUNTED}
_OPERATIONS: Final = {"chat.completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}
"""What the conventions call our kinds."""


@dataclass(slots=True)
class Histogram:
    """How many values lie under each bound and above the one before, and their sum."""

    counts: list[int]
    total: float = 0.0

    def add(self, other: Histogram) -> None:
        """Add another of the same bounds."""
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


def encoded(whole: Whole, accept: str) -> tuple[bytes, str]:
    """Return the text in the form that is asked for by an Accept header, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(_Collected(list(_families(whole)))), content_type


class _Collected:
    """What the library asks for: a registry that collects."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        return self._families


def _families(whole: Whole) -> Iterator[Family]:
    yield _gauge(names.REDIS_UP, [((), float(whole.is_up))])
    yield _gauge(names.INFO, [((whole.version,), 1.0)])
    if not whole.is_up:
        return
    for gauge, values in gauges(whole):
        yield _gauge(gauge, values)
    numbers, histograms = _parsed(whole.counted)
    for metric in COUNTED:
        if metric.type == "histogram":
            yield _histogram(metric.name, metric.help, metric.all_labels, metric.buckets, histograms[metric])
        else:
            yield _counter(metric, numbers[metric])
    tokens = {labels: round(one.total) for labels, one in histograms[names.REQUEST_TOKENS].items()}
    yield _counter(names.TOKENS_TOTAL, tokens)
    yield from _gen_ai(histograms)


def _parsed(counted: Taken) -> tuple[dict[Metric, dict[Labels, int]], dict[Metric, dict[Labels, Histogram]]]:
    """Return counters and histograms by metric and labels; what another version has counted is left out."""
    numbers: dict[Metric, dict[Labels, int]] = defaultdict(dict)
    histograms: dict[Metric, dict[Labels, Histogram]] = defaultdict(dict)
    for model, fields in counted.items():
        for name, number in fields.items():
            short, *rest = name.split(SEPARATOR)
            metric = _BY_SHORT.get(short)
            if metric is None or len(rest) != len(metric.labels) + (metric.type == "histogram"):
                continue
            own = rest[: len(metric.labels)]
            labels = (model, *own) if metric.by_model else tuple(own)
            if metric.type != "histogram":
                numbers[metric][labels] = number
                continue
            one = histograms[metric].setdefault(labels, Histogram([0] * (len(metric.buckets) + 1)))
            if rest[-1] == SUM:
                one.total = number / MICRO
            else:
                one.counts[bisect_left(metric.buckets, float(rest[-1]))] += number
    return numbers, histograms


def _gauge(metric: Metric, values: Iterable[tuple[Labels, float]]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.all_labels)
    for labels, value in values:
        family.add_metric(labels, float(value))
    return family


def _counter(metric: Metric, values: Mapping[Labels, int]) -> Family:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.all_labels)
    if not metric.all_labels and not values:
        family.add_metric((), 0)  # else nobody could tell "none yet" from "not known"
    for labels in sorted(values):
        family.add_metric(labels, values[labels])
    return family


def _histogram(
    name: str, meaning: str, labels: Labels, bounds: tuple[float, ...], values: Mapping[Labels, Histogram]
) -> Family:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for key in sorted(values):
        one, below, buckets = values[key], 0, list[tuple[str, float]]()
        for bound, count in zip((*map(str, bounds), INFINITE), one.counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric(key, buckets, one.total)
    return family


# --- OpenTelemetry's names --------------------------------------------------------------------------------------------

_COMMON: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_PROVIDER: Final = "aqueduct"


class GenAi(NamedTuple):
    """One of the conventions' metrics: made of one of ours, whose labels become others."""

    name: str
    metric: Metric
    more: Labels
    """Labels beside the common ones."""
    relabel: Callable[[Labels], Labels]

    @property
    def labels(self) -> Labels:
        """All of its labels, in order."""
        return (*_COMMON, *self.more)


def _common(model: str, kind: str) -> Labels:
    return (_OPERATIONS.get(kind, kind), _PROVIDER, model)


def _error(code: str) -> str:
    return "" if code < "400" else code


def _by_status(labels: Labels) -> Labels:
    model, kind, _, code = labels
    return (*_common(model, kind), _error(code))


def _by_backend(labels: Labels) -> Labels:
    model, kind, backend, code = labels
    host, _, port = backend.rpartition(":")
    return (*_common(model, kind), host, port, _error(code))


def _by_type(labels: Labels) -> Labels:
    model, kind, _, token_type = labels
    return (*_common(model, kind), token_type)


def _by_none(labels: Labels) -> Labels:
    return _common(labels[0], labels[1])


GEN_AI: Final = (
    GenAi("gen_ai_server_request_duration_seconds", names.REQUEST_SECONDS, ("error_type",), _by_status),
    GenAi("gen_ai_server_time_to_first_token_seconds", names.FIRST_TOKEN_SECONDS, (), _by_none),
    GenAi("gen_ai_server_time_per_output_token_seconds", names.OUTPUT_TOKEN_SECONDS, (), _by_none),
    GenAi(
        "gen_ai_client_operation_duration_seconds",
        names.BACKEND_SECONDS,
        ("server_address", "server_port", "error_type"),
        _by_backend,
    ),
    GenAi("gen_ai_client_token_usage", names.REQUEST_TOKENS, ("gen_ai_token_type",), _by_type),
)


def _gen_ai(histograms: Mapping[Metric, Mapping[Labels, Histogram]]) -> Iterator[Family]:
    """Yield the conventions' metrics; what they have no label for is added up."""
    for one in GEN_AI:
        added: dict[Labels, Histogram] = {}
        for labels, found in histograms[one.metric].items():
            added.setdefault(one.relabel(labels), Histogram([0] * len(found.counts))).add(found)
        meaning = f"As {one.metric.name}, by OpenTelemetry's name."
        yield _histogram(one.name, meaning, one.labels, one.metric.buckets, added)
