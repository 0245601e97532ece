"""The alert rules, and the file that Prometheus reads.

Each has the value that it watches and what of it is wrong, so that a test can see that the value is there while nothing
is wrong. Times stand as `tools/monitoring/durations.py` says.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import yaml

from tools.monitoring.durations import rendered, shortened

RUNBOOK: Final = "docs/operate/incidents.md"
JOBS: Final = '{job=~".*aqueduct.*"}'
"""Every scrape job that has our name in its own."""
PEOPLE: Final = '{lane!="batch"}'

Severity = Literal["critical", "warning", "info"]


class Alert(NamedTuple):
    """One rule."""

    name: str
    value: str
    wrong: str
    """What follows the value in the rule's expression."""
    lasts: str
    """For how long, before it fires."""
    severity: Severity
    summary: str
    anchor: str
    """The heading of the runbook's page that tells what to do."""

    def expression(self, scale: float = 1.0) -> str:
        """Return the rule's whole expression."""
        return rendered(f"{self.value} {self.wrong}", scale)

    def rule(self, scale: float = 1.0) -> dict[str, Any]:
        """Return the rule as Prometheus reads it, with its times so many times as long."""
        return {
            "alert": self.name,
            "expr": self.expression(scale),
            "for": shortened(self.lasts, scale),
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook_url": f"{RUNBOOK}#{self.anchor}"},
        }


def _increase(metric: str, span: str, labels: str = "", by: str = "model") -> str:
    return f"sum by ({by}) (increase({metric}{labels}[<{span}>]))"


_FAILED: Final = 'aqueduct_requests_total{model!="",code=~"200|5..",error!=""}'
"""Those whose answer failed: a stream that broke has said 200 before."""

ALERTS: Final = (
    Alert(
        "AqueductScrapeFails",
        f"up{JOBS}",
        f"== 0 or absent(up{JOBS})",
        "2m",
        "critical",
        "Prometheus gets no metrics of Aqueduct",
        "prometheus-hears-nothing",
    ),
    Alert(
        "AqueductRedisAway",
        "aqueduct_redis_up",
        "== 0",
        "1m",
        "critical",
        "Redis does not answer the API: new requests get 503",
        "redis-is-away",
    ),
    Alert(
        "AqueductRedisNearlyFull",
        "aqueduct_redis_memory_bytes / (aqueduct_redis_memory_limit_bytes > 0)",
        "> 0.8",
        "5m",
        "warning",
        "Redis uses {{ $value | humanizePercentage }} of its maxmemory; past it new requests get 503",
        "redis-is-full",
    ),
    Alert(
        "AqueductRedisSlow",
        "histogram_quantile(0.9, sum by (le) (rate(aqueduct_redis_seconds_bucket[<5m>])))",
        "> 0.1",
        "5m",
        "warning",
        "A round trip to Redis takes {{ $value | humanizeDuration }}",
        "redis-is-slow",
    ),
    Alert(
        "AqueductQueueGrows",
        f"sum by (model) (aqueduct_jobs_waiting{PEOPLE})",
        "> on (model) aqueduct_slots and on (model) "
        f"deriv(sum by (model) (aqueduct_jobs_waiting{PEOPLE})[<10m>:<15s>]) > 0",
        "10m",
        "warning",
        "{{ $labels.model }}: {{ $value }} requests wait, and they become more",
        "the-queue-grows",
    ),
    Alert(
        "AqueductQueueWaits",
        "aqueduct_oldest_waiting_seconds",
        "> {60}",
        "5m",
        "warning",
        "{{ $labels.model }}: the oldest request has waited for {{ $value | humanizeDuration }}",
        "the-queue-grows",
    ),
    Alert(
        "AqueductFirstTokenSlow",
        "histogram_quantile(0.95, sum by (model, le) "
        '(rate(aqueduct_time_to_first_token_seconds_bucket{lane=~"priority|default"}[<10m>])))',
        "> {30}",
        "5m",
        "warning",
        "{{ $labels.model }}: one stream of twenty has its first token after {{ $value | humanizeDuration }} or later",
        "a-client-says-it-is-slow",
    ),
    Alert(
        "AqueductQueueFull",
        _increase("aqueduct_requests_total", "5m", '{error="queue_full"}'),
        "> 0",
        "2m",
        "warning",
        "{{ $labels.model }}: requests are refused with 429, as its room is full",
        "the-queue-grows",
    ),
    Alert(
        "AqueductRequestsTimeOut",
        _increase("aqueduct_requests_total", "10m", '{error="queue_timeout"}'),
        "> 0",
        "0s",
        "warning",
        "{{ $labels.model }}: {{ $value | humanize }} requests waited longer than they may",
        "the-queue-grows",
    ),
    Alert(
        "AqueductErrors",
        f"sum by (model) (rate({_FAILED}[<5m>])) / sum by (model) (rate(aqueduct_requests_total[<5m>]))",
        "> 0.05",
        "5m",
        "critical",
        "{{ $labels.model }}: {{ $value | humanizePercentage }} of its requests fail",
        "requests-fail",
    ),
    Alert(
        "AqueductModelWithoutWorker",
        "aqueduct_workers",
        "== 0 and on (model) (sum by (model) (aqueduct_jobs_waiting) > 0 or "
        + _increase("aqueduct_requests_total", "5m", '{error="no_worker"}')
        + " > 0)",
        "2m",
        "critical",
        "{{ $labels.model }}: somebody asks for it, and no worker serves it",
        "a-model-has-no-worker",
    ),
    Alert(
        "AqueductModelHeld",
        "aqueduct_model_held",
        "== 1 and on (model) sum by (model) (aqueduct_jobs_waiting) > 0",
        "15m",
        "warning",
        "{{ $labels.model }} is held ({{ $labels.reason }}), and requests wait",
        "a-model-is-held",
    ),
    Alert(
        "AqueductBackendDown",
        "aqueduct_backend_up",
        '< 1 unless on (model) aqueduct_model_held{reason="starting"} == 1',
        "2m",
        "warning",
        "{{ $labels.backend }} of {{ $labels.model }}: its calls fail, and workers keep away from it",
        "a-backend-is-down",
    ),
    Alert(
        "AqueductModelDown",
        "max by (model) (aqueduct_backend_up)",
        '== 0 unless on (model) aqueduct_model_held{reason="starting"} == 1',
        "1m",
        "critical",
        "{{ $labels.model }}: none of its backends is well",
        "a-backend-is-down",
    ),
    Alert(
        "AqueductBackendFlaps",
        "increase(aqueduct_backend_ejections_total[<15m>])",
        "> 3 and on (model, backend) max_over_time(aqueduct_backend_up[<15m>]) == 1",
        "0s",
        "warning",
        "{{ $labels.backend }} of {{ $labels.model }} fails and comes back: {{ $value | humanize }} times of late",
        "a-backend-flaps",
    ),
    Alert(
        "AqueductWorkersLost",
        "increase(aqueduct_reclaims_total[<10m>])",
        "> 0",
        "0s",
        "warning",
        "{{ $value | humanize }} runs were taken from workers that were lost",
        "a-worker-was-lost",
    ),
    Alert(
        "AqueductRelayGaps",
        "rate(aqueduct_relay_gaps_total[<5m>])",
        "> 1",
        "5m",
        "warning",
        "{{ $value | humanize }} times a second an API process reads again what it should have heard live",
        "relay-gaps",
    ),
    Alert(
        "AqueductBatchStuck",
        "aqueduct_batch_idle_seconds",
        "> {1800} unless on (model) aqueduct_batch_lane_open == 0",
        "0s",
        "warning",
        "{{ $labels.model }}: nothing of a batch has ended for {{ $value | humanizeDuration }}",
        "a-batch-does-not-move",
    ),
    Alert(
        "AqueductBatchLate",
        "aqueduct_batch_window_seconds",
        "< 1800 and on (model) aqueduct_batch_lines_left > 0",
        "5m",
        "warning",
        "{{ $labels.model }}: a batch's window ends in {{ $value | humanizeDuration }}, and lines are left",
        "a-batch-does-not-move",
    ),
    Alert(
        "AqueductBatchNotCarried",
        "aqueduct_batches_open",
        "> 0 unless on () sum(aqueduct_batches_running) > 0",
        "5m",
        "warning",
        "{{ $value }} batches are open, and no worker carries any",
        "a-batch-does-not-move",
    ),
    Alert(
        "AqueductBudgetNearlyUsed",
        'sum by (whose, period) (aqueduct_budgets{state=~"near|spent"})',
        "> 0",
        "5m",
        "info",
        "{{ $value }} budgets of a {{ $labels.period }} of a {{ $labels.whose }} are used to 80 % or more",
        "a-budget-is-nearly-used",
    ),
)


def rule_file(scale: float = 1.0) -> dict[str, Any]:
    """Return what Prometheus reads as a file of rules; with shorter times the group is looked at every second."""
    group: dict[str, Any] = {"name": "aqueduct", "rules": [alert.rule(scale) for alert in ALERTS]}
    return {"groups": [group | ({"interval": "1s"} if scale < 1 else {})]}


_HEAD: Final = """\
# Prometheus alert rules. Written by `make docs-reference` from tools/monitoring/alerts.py: to change them, change that,
# or copy the file. Each rule's runbook is a part of docs/operate/incidents.md.
"""


def text() -> str:
    """Return the file as it is kept."""
    return _HEAD + yaml.safe_dump(rule_file(), sort_keys=False, width=1000, allow_unicode=True)
