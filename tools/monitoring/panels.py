"""What a board is made of, and the queries that many panels have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

Kind = Literal["timeseries", "stat", "bargauge"]


class Query(NamedTuple):
    """One expression and how its series are named."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel; widths add up to 24 in a row of them."""

    title: str
    unit: str
    """Grafana's word: short, s, reqps, percentunit, bytes."""
    queries: tuple[Query, ...]
    says: str = ""
    """What to read from it."""
    kind: Kind = "timeseries"
    width: int = 12
    warns_at: float | None = None
    """From here on it is red."""


class Board(NamedTuple):
    """One board; `variables` are labels that one chooses values of."""

    name: str
    """Of its file and its address."""
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[str, ...] = ()


VARIABLES: Final = {"model": "label_values(aqueduct_slots, model)"}
"""Where the values of a variable come from."""
RATE: Final = "$__rate_interval"
OF_MODEL: Final = 'model=~"$model"'


def percentile(quantile: float, metric: str, labels: str = "", by: str = "model") -> str:
    """Return the query of a histogram's quantile, by some labels."""
    of = f"{by}, le" if by else "le"
    return f"histogram_quantile({quantile}, sum by ({of}) (rate({metric}_bucket{labels}[{RATE}])))"


def percentiles(
    metric: str, labels: str = "", by: str = "", quantiles: Sequence[float] = (0.5, 0.95)
) -> tuple[Query, ...]:
    """Return a histogram's quantiles, each a line of its own for each value of the label `by`."""
    lead = f"{{{{{by}}}}} " if by else ""
    return tuple(Query(percentile(one, metric, labels, by), f"{lead}{one * 100:g} %") for one in quantiles)


def rate(metric: str, labels: str = "", by: str = "model") -> str:
    """Return the query of a counter's rate, by some labels."""
    return f"sum by ({by}) (rate({metric}{labels}[{RATE}]))"
