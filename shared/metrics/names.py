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
Across = Literal["sum", "mean", "max", "min"]


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
    across: Across = "sum"
    """Of what each process tells by itself (`TOLD`): how the whole is made of the parts."""

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
BACKEND_EJECTIONS: Final = Metric(
    "backend_ejections_total",
    "counter",
    "How often a worker began to keep away from a backend, as its calls failed; a trial that fails counts again.",
    ("backend",),
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
    *(RUNS, RETRIES, FAILOVERS, BACKEND_SECONDS, BACKEND_EJECTIONS, BATCH_LINES_BEGUN, BATCH_LINES, BATCHES),
    *(BATCH_MARGIN, CANCELS, RECLAIMS, EXPIRED, RELAY_GAPS, REDIS_SECONDS),
)
"""What processes count."""

WAITING: Final = Metric("jobs_waiting", "gauge", "Jobs that wait.", ("lane",))
OLDEST: Final = Metric(
    "oldest_waiting_seconds", "gauge", "How long the oldest waiting request has waited; lines of batches apart."
)
RUNNING: Final = Metric("jobs_running", "gauge", "Jobs that run.")
SLOTS: Final = Metric("slots", "gauge", "How many jobs may run at once; of `concurrency: auto` as found by now.")
WORKERS: Final = Metric("workers", "gauge", "Live worker processes that serve the model.")
MODEL_HELD: Final = Metric(
    "model_held", "gauge", "1 while the whole model is held for this reason, and nothing of it is taken.", ("reason",)
)
REDIS_UP: Final = Metric("redis_up", "gauge", "1 while Redis answers; else nothing but this is told.", (), False)
INFO: Final = Metric("info", "gauge", "Always 1; the version of the process that was asked.", ("version",), False)
FAIRNESS: Final = Metric(
    "fairness_deviation_tokens",
    "gauge",
    "Of those that wait: how far who has had most by weight is ahead of who has had least; of the first 100 jobs.",
    ("lane",),
)
BACKEND_SLOTS: Final = Metric(
    "backend_slots", "gauge", "Calls that the backend may have at once; of `concurrency: auto` as found.", ("backend",)
)
BACKEND_HELD: Final = Metric(
    "backend_held", "gauge", "1 while an operator has the backend called no more.", ("backend",)
)
BATCH_LANE_OPEN: Final = Metric(
    "batch_lane_open", "gauge", "Of a model with `batch_hours`: 1 while lines of batches may begin."
)
BUDGETS: Final = Metric(
    "budgets",
    "gauge",
    "Budgets by whose they are (token, group), period (day, month) and state: ok, near (80 % is used), spent.",
    ("whose", "period", "state"),
    False,
)
REDIS_MEMORY: Final = Metric("redis_memory_bytes", "gauge", "What Redis uses.", (), False)
REDIS_MEMORY_LIMIT: Final = Metric("redis_memory_limit_bytes", "gauge", "Redis's maxmemory; 0: none.", (), False)

READ: Final = (
    *(WAITING, OLDEST, RUNNING, SLOTS, WORKERS, MODEL_HELD, FAIRNESS, BACKEND_SLOTS, BACKEND_HELD, BATCH_LANE_OPEN),
    *(BUDGETS, REDIS_MEMORY, REDIS_MEMORY_LIMIT, REDIS_UP, INFO),
)
"""What is read at the moment of asking, once for the whole."""

BACKEND_UP: Final = Metric(
    "backend_up",
    "gauge",
    "The part of the model's workers that call the backend; the others keep away, as their last calls of it failed.",
    ("backend",),
    across="mean",
)
BACKEND_RUNNING: Final = Metric("backend_running", "gauge", "Calls that are open at the backend.", ("backend",))
BATCHES_RUNNING: Final = Metric("batches_running", "gauge", "Batches that live workers carry.")
BATCH_LINES_LEFT: Final = Metric("batch_lines_left", "gauge", "Lines of these that have not ended.")
BATCH_IDLE: Final = Metric(
    "batch_idle_seconds", "gauge", "Of these, the longest time for which nothing of a batch has ended.", across="max"
)
BATCH_WINDOW: Final = Metric(
    "batch_window_seconds", "gauge", "Of these, the shortest time that is left of a window.", across="min"
)
BATCHES_OPEN: Final = Metric(
    "batches_open",
    "gauge",
    "Batches in the store that have not ended, as looked up every 30 s.",
    (),
    False,
    across="max",
)

TOLD: Final = (
    *(BACKEND_UP, BACKEND_RUNNING, BATCHES_RUNNING, BATCH_LINES_LEFT, BATCH_IDLE, BATCH_WINDOW, BATCHES_OPEN),
)
"""What live processes say of the present, each its part (`shared/metrics/states.py`)."""
