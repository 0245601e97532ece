"""The `targets` scenario: what the gateway is held to beside gateways in Go and Rust, and whether it is met.

The same measures as in `plain`, `latency`, `streams`, `paced`, `fast` and `burst_beside`, no others, so that it is
through in six minutes with the two fast peers. A peer takes part where a target is relative to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from benchmarks.report import Table, number
from benchmarks.requests import latency_rows, plain_rows, print_latency, print_plain
from benchmarks.runner import Row, Runner, cpu_each
from benchmarks.streaming import (
    PACE_MS,
    crowd_rows,
    fast_rows,
    paced_rows,
    print_crowd,
    print_fast,
    print_paced,
    print_streams,
    streams_rows,
)
from benchmarks.tables import Rows, ratio

GO, RUST, PYTHON = "ferrogw", "nemo-switchyard", "litellm"


class Aim(NamedTuple):
    """One figure, and what it should be."""

    name: str
    value: float | None
    sense: Literal["<=", ">="]
    bound: float
    unit: str

    @property
    def met(self) -> str:
        """Whether it is; a figure that could not be taken, as its peer was not there, is neither."""
        if self.value is None:
            return "-"
        return "yes" if (self.value <= self.bound if self.sense == "<=" else self.value >= self.bound) else "NO"


def targets(run: Runner) -> dict[str, Any]:
    """Measure what the targets are about, and print each with its figure."""
    ours = [one for one in run.stack.targets if one.name in ("direct", "aqueduct")]
    quick = [one for one in run.stack.targets if one.many_streams]
    briefly: dict[str, Any] = {"rounds": 3, "seconds": 1.5}
    data: dict[str, Any] = {}
    data["plain"] = plain_rows(run, 64, **briefly)
    data["one"] = latency_rows(run, targets=quick, **briefly)
    data["streams"] = streams_rows(run, targets=quick, **briefly)
    data["fast"] = fast_rows(run)
    data["paced"] = {str(clients): paced_rows(run, clients, ours) for clients in (500, 1000)}
    data["crowd"] = crowd_rows(run, ours)
    print_plain(run, {"64": data["plain"]})
    print_latency({"one after another": data["one"]})
    print_streams(run, data["streams"])
    print_fast(run, data["fast"])
    print_paced(run, data["paced"])
    print_crowd(data["crowd"])
    most = max(_busiest(rows["direct"]) for name in data for rows in _measured(data[name]))
    note = f"Of what measures, neither used more than {most:.0%} of a core where no gateway was between."
    table = Table("Targets", ["", "value", "target", "unit", "met"], note=note)
    for aim in (*_paced(data["paced"]), *_unpaced(data), *_crowd(data["crowd"])):
        table.add(aim.name, aim.value, f"{aim.sense} {number(aim.bound)}", aim.unit, aim.met)
    table.print()
    return data


def _paced(data: dict[str, Rows]) -> Iterator[Aim]:
    for clients, p50, p99, cpu in ((1000, 50, 250, 60), (500, 10, None, 70)):
        direct, row = data[str(clients)]["direct"]["first_ms"], data[str(clients)]["aqueduct"]
        title = f"1  {clients:,} streams at 20 chunks/s"
        yield Aim(f"{title}: added first token, p50", row["first_ms"]["p50"] - direct["p50"], "<=", p50, "ms")
        if p99 is not None:
            yield Aim(f"{title}: added first token, p99", row["first_ms"]["p99"] - direct["p99"], "<=", p99, "ms")
        yield Aim(f"{title}: CPU a chunk", _cpu(row, "chunks"), "<=", cpu, "us")


def _unpaced(data: dict[str, Any]) -> Iterator[Aim]:
    streams, plain, one, fast = data["streams"], data["plain"], data["one"], data["fast"]
    for peer, bound in ((GO, 1.5), (RUST, 1.0)):
        yield Aim("2  streams without delay: chunks/s", _times(streams, peer, "chunks"), ">=", bound, f"of {peer}")
    yield Aim("2  streams without delay: CPU a chunk", _cpu(streams["aqueduct"], "chunks"), "<=", 20, "us")
    for peer, bound in ((GO, 0.6), (PYTHON, 20)):
        yield Aim("3  plain, 64 clients: requests/s", _times(plain, peer, "requests"), ">=", bound, f"of {peer}")
    yield Aim("3  plain, 64 clients: CPU a request", _cpu(plain["aqueduct"], "requests"), "<=", 600, "us")
    added = one["aqueduct"]["latency_ms"]["p50"] - one["direct"]["latency_ms"]["p50"]
    yield Aim("3  one client: added latency, p50", added, "<=", 1.8, "ms")
    yield Aim("4  500 streams at 100 chunks/s: chunks/s", _times(fast, RUST, "chunks"), ">=", 1.2, f"of {RUST}")
    worst = fast["aqueduct"]["stall_ms"]["p50"]
    yield Aim("4  500 streams at 100 chunks/s: worst gap of a stream, p50", worst, "<=", 60, "ms")


def _crowd(rows: Rows) -> Iterator[Aim]:
    row, direct = rows["aqueduct"], rows["direct"]
    last = row["first_ms"]["max"] - direct["first_ms"]["max"]
    yield Aim("5  1,000 at once beside 1,000: last first token, added", last, "<=", 400, "ms")
    yield Aim("5  1,000 at once beside 1,000: gap of the others, p99", row["gap_ms"]["p99"], "<=", 2 * PACE_MS, "ms")


def _measured(rows: dict[str, Any]) -> list[Rows]:
    """Return the rows by target: one such, or several by a number of streams."""
    return [rows] if "direct" in rows else list(rows.values())


def _busiest(row: Row) -> float:
    return max(float(row["cpu_seconds"][name] / row["window_seconds"]) for name in ("backend", "load"))


def _cpu(row: Row, units: str) -> float | None:
    return cpu_each(row, row[units]).get("total")


def _times(rows: Rows, peer: str, units: str) -> float | None:
    return ratio(rows, peer, lambda row: row.get(f"{units}_per_second"), rows["aqueduct"])
