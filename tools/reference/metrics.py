"""The page of all metrics, from `shared/metrics/names.py`."""

from __future__ import annotations

from shared.metrics import exposition, names
from tools.reference.tables import table

HEAD = """# Metrics

Written by `make docs-reference` from `shared/metrics/names.py`. How to read them: [metrics](../how-to/metrics.md).

"""


def page() -> str:
    """Return the page of all metrics: each with its type, labels and meaning, and OpenTelemetry's names."""
    metrics = (*names.READ, *names.TOLD, *names.COUNTED, names.TOKENS_TOTAL)
    tables = (
        table(
            ("metric", "type", "labels", "what it says"),
            [(f"`{one.name}`", one.type, _labels(one.all_labels), one.help) for one in metrics],
        ),
        table(
            ("histogram", "upper bounds of its buckets"),
            [
                (f"`{one.name}`", ", ".join(f"{bound:g}" for bound in one.buckets))
                for one in names.COUNTED
                if one.buckets
            ],
        ),
        table(
            ("OpenTelemetry's name", "labels", "made of"),
            [(f"`{row.name}`", _labels(row.labels), f"`{row.metric.name}`") for row in exposition.GEN_AI],
        ),
    )
    return HEAD + "\n\n".join(tables) + "\n"


def _labels(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels)
