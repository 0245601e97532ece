"""Every metric: name, meaning, labels and buckets, in one place. `docs/reference/metrics.md` is made of it.

Labels are few and bounded: models, kinds, lanes and backends of the configuration, HTTP statuses, and error codes of
ours (`shared/metrics/codes.py`). Never a token, a prompt, or what a client or a backend made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "aqueduct_"

SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Those that OpenTelemetry's GenAI conventions advise for durations, so that one count serves both names."""
LONG_SECONDS: Final = (*SECONDS, 163.84, 327.68, 655.36)
FIRST_SECONDS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 120.0),
)
TOKEN_SECONDS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS: Final = tuple(float(4**power) for power in range(14))
REDIS_BUCKETS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MARGIN_SECONDS: Final = (0.0, 60.0, 600.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)

Type = Literal["counter", "histogram", "gauge"]


@dataclass(frozen=True, eq=False)  # each is itself: it is a key in what is looked at often
class Metric:
    """One metric. `labels` are those beside `model`, which is the first where `by_model` says so."""

    short: str
    """Its name without the prefix; also how Redis knows it."""
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    by_model: bool = True
    buckets: tuple[float, ...] = ()
    """Upper bounds; of histograms of seconds and of tokens."""

    @property
    def name(self) -> str:
        """Its whole name, as Prometheus shows it."""
        return PREFIX + self.short

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Its labels, in order."""
        return ("model", *self.labels) if self.by_model else self.labels


JOB: Final = ("kind", "lane")

REQUESTS: Final = Metric(
    "requests_total",
    "counter",
    "Requests that have ended, by HTTP status (499: the client left) and error code.",
    (*JOB, "code", "error"),
)
REQUEST_SECONDS: Final = Metric(
    "request_seconds",
    "histogram",
    "From a request's arrival to the end of its answer.",
    (*JOB, "code"),
    buckets=LONG_SECONDS,
)
WAIT_SECONDS: Final = Metric(
    "wait_seconds", "histogram", "From a request's admission to its turn.", JOB, buckets=LONG_SECONDS
)
FIRST_TOKEN_SECONDS: Final = Metric(
    "time_to_first_token_seconds",
    "histogram",
    "From a stream's arrival to its first token, the wait included.",
    JOB,
    buckets=FIRST_SECONDS,
)
OUTPUT_TOKEN_SECONDS: Final = Metric(
    "time_per_output_token_seconds",
    "histogram",
    "Of streams: the mean time between two tokens after the first.",
    JOB,
    buckets=TOKEN_SECONDS,
)
REQUEST_TOKENS: Final = Metric(
    "request_tokens",
    "histogram",
    "Tokens of one answer, as the backend counted them; type is input or output.",
    (*JOB, "type"),
    buckets=TOKENS,
)
TOKENS_TOTAL: Final = Metric(
    "tokens_total", "counter", "Tokens, as backends counted them; type is input or output.", (*JOB, "type")
)
"""The sum of REQUEST_TOKENS: it is not counted by itself."""
HELD: Final = Metric("held_total", "counter", "Requests that could not begin at once, by reason.", (*JOB, "reason"))
RETRIES: Final = Metric("retries_total", "counter", "Backend calls made again within a run, fail-overs included.", JOB)
FAILOVERS: Final = Metric("failovers_total", "counter", "Backend calls made again at another backend.", JOB)
RUNS: Final = Metric(
    "runs_total",
    "counter",
    "Runs of jobs in workers, by status; stopped: cancelled or given to another.",
    (*JOB, "code"),
)
BACKEND_SECONDS: Final = Metric(
    "backend_seconds",
    "histogram",
    "One call of a backend, by its status.",
    ("kind", "backend", "code"),
    buckets=SECONDS,
)
BATCH_LINES: Final = Metric("batch_lines_total", "counter", "Lines of batches that have ended.", ("kind", "outcome"))
BATCH_LINES_BEGUN: Final = Metric(
    "batch_lines_accepted_total",
    "counter",
    "Lines of batches whose input is good; less those that have ended: what is left.",
    ("kind",),
)
BATCHES: Final = Metric("batches_total", "counter", "Batches that have ended, by status.", ("status",))
BATCH_MARGIN: Final = Metric(
    "deadline_margin_seconds",
    "histogram",
    "What was left of a batch's window when its last line ended; 0 and less: it expired.",
    buckets=MARGIN_SECONDS,
)
CANCELS: Final = Metric(
    "cancels_total", "counter", "Jobs cancelled because nobody listened any more, by their state.", ("state",), False
)
RECLAIMS: Final = Metric("reclaims_total", "counter", "Runs taken from workers that were lost.", (), False)
EXPIRED: Final = Metric("expired_total", "counter", "Jobs that waited for too long.", (), False)
RELAY_GAPS: Final = Metric(
    "relay_gaps_total",
    "counter",
    "Readings of a job's log for a client that had missed something live, or joined late.",
    (),
    False,
)
REDIS_SECONDS: Final = Metric(
    "redis_seconds",
    "histogram",
    "One round trip to Redis, measured by each process every two seconds.",
    (),
    False,
    REDIS_BUCKETS,
)

COUNTED: Final = (
    *(REQUESTS, REQUEST_SECONDS, WAIT_SECONDS, FIRST_TOKEN_SECONDS, OUTPUT_TOKEN_SECONDS, REQUEST_TOKENS, HELD),
    *(RUNS, RETRIES, FAILOVERS, BACKEND_SECONDS, BATCH_LINES_BEGUN, BATCH_LINES, BATCHES, BATCH_MARGIN),
    *(CANCELS, RECLAIMS, EXPIRED, RELAY_GAPS, REDIS_SECONDS),
)
"""What processes count."""

WAITING: Final = Metric("jobs_waiting", "gauge", "Jobs that wait.", ("lane",))
OLDEST: Final = Metric("oldest_waiting_seconds", "gauge", "How long the oldest waiting job has waited.")
RUNNING: Final = Metric("jobs_running", "gauge", "Jobs that run.")
SLOTS: Final = Metric("slots", "gauge", "How many jobs may run at once; of `concurrency: auto` as found by now.")
WORKERS: Final = Metric("workers", "gauge", "Live worker processes that serve the model.")
MODEL_HELD: Final = Metric(
    "model_held", "gauge", "1 while the whole model is held for this reason, and nothing of it is taken.", ("reason",)
)
REDIS_UP: Final = Metric("redis_up", "gauge", "1 while Redis answers; else nothing but this is told.", (), False)
INFO: Final = Metric("info", "gauge", "Always 1; the version of the process that was asked.", ("version",), False)

READ: Final = (WAITING, OLDEST, RUNNING, SLOTS, WORKERS, MODEL_HELD, REDIS_UP, INFO)
"""What is read at the moment of asking, once for the whole."""
