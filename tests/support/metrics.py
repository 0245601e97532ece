"""What `/metrics` says, as numbers."""

from __future__ import annotations

from collections import Counter

import httpx
from prometheus_client.parser import text_string_to_metric_families


def scrape(url: str, **more: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample of an API process by its name and labels; `more` are headers."""
    answer = httpx.get(f"{url}/metrics", headers=more, timeout=10).raise_for_status()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def by(url: str, name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """Return a metric's values by some of its labels, added up over the others."""
    found: Counter[tuple[str, ...]] = Counter()
    for (sample, given), value in scrape(url).items():
        if sample == f"aqueduct_{name}":
            found[tuple(dict(given)[label] for label in labels)] += int(value)
    return +found


def total(url: str, name: str, **labels: str) -> int:
    """Return the sum of a metric over the samples that have these labels."""
    return int(
        sum(
            value
            for (sample, given), value in scrape(url).items()
            if sample == f"aqueduct_{name}" and labels.items() <= dict(given).items()
        )
    )
