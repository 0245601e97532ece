"""Grafana's boards of what is asked and answered now: overview, one model, backends."""

from __future__ import annotations

from typing import Final

from tools.monitoring.panels import OF_MODEL, RATE, Board, Panel, Query, percentile, percentiles, rate

OVERVIEW: Final = Board(
    "aqueduct-overview",
    "Aqueduct: overview",
    (
        Panel("Waiting", "short", (Query("sum(aqueduct_jobs_waiting)"),), "", "stat", 4),
        Panel("Running", "short", (Query("sum(aqueduct_jobs_running)"),), "", "stat", 4),
        Panel("Oldest", "s", (Query("max(aqueduct_oldest_waiting_seconds)"),), "", "stat", 4, 60),
        Panel("Models without worker", "short", (Query("sum(aqueduct_workers == bool 0)"),), "", "stat", 4, 1),
        Panel("Backends not well", "short", (Query("sum(aqueduct_backend_up < bool 1)"),), "", "stat", 4, 1),
        Panel("Redis answers", "bool_yes_no", (Query("min(aqueduct_redis_up)"),), "", "stat", 4),
        Panel("Waiting, by model", "short", (Query("sum by (model) (aqueduct_jobs_waiting)", "{{model}}"),)),
        Panel(
            "Slots in use",
            "percentunit",
            (Query("sum by (model) (aqueduct_jobs_running) / sum by (model) (aqueduct_slots)", "{{model}}"),),
            "At 100 % requests wait: that is what the queue is for.",
        ),
        Panel(
            "Wait, 95 %",
            "s",
            (Query(percentile(0.95, "aqueduct_wait_seconds", '{lane!="batch"}'), "{{model}}"),),
            "Nineteen of twenty requests wait less long, batches apart.",
        ),
        Panel(
            "First token, 95 %",
            "s",
            (Query(percentile(0.95, "aqueduct_time_to_first_token_seconds"), "{{model}}"),),
            "Of streams, from their arrival; the wait is part of it.",
        ),
        Panel("Requests", "reqps", (Query(rate("aqueduct_requests_total"), "{{model}}"),)),
        Panel(
            "What fails",
            "reqps",
            (
                Query(
                    rate("aqueduct_requests_total", '{error!=""}', "model, code, error"),
                    "{{model}} {{code}} {{error}}",
                ),
            ),
            "docs/how-to/troubleshoot.md tells of each code. 499: the client left.",
        ),
        Panel("Tokens", "short", (Query(rate("aqueduct_tokens_total", "", "model, type"), "{{model}} {{type}}"),)),
        Panel(
            "Held, by reason",
            "reqps",
            (Query(rate("aqueduct_held_total", "", "model, reason"), "{{model}} {{reason}}"),),
            "Why requests could not begin at once. room: all slots were busy.",
        ),
    ),
)

MODEL: Final = Board(
    "aqueduct-model",
    "Aqueduct: one model",
    (
        Panel(
            "Waiting, by lane", "short", (Query(f"sum by (lane) (aqueduct_jobs_waiting{{{OF_MODEL}}})", "{{lane}}"),)
        ),
        Panel(
            "Running of slots",
            "short",
            (
                Query(f"sum(aqueduct_jobs_running{{{OF_MODEL}}})", "running"),
                Query(f"sum(aqueduct_slots{{{OF_MODEL}}})", "slots"),
                Query(f"sum(aqueduct_workers{{{OF_MODEL}}})", "workers"),
            ),
        ),
        Panel(
            "Wait",
            "s",
            percentiles("aqueduct_wait_seconds", f"{{{OF_MODEL}}}", "lane"),
            "From admission to a slot.",
        ),
        Panel("Oldest that waits", "s", (Query(f"max(aqueduct_oldest_waiting_seconds{{{OF_MODEL}}})", "oldest"),)),
        Panel(
            "First token",
            "s",
            percentiles("aqueduct_time_to_first_token_seconds", f"{{{OF_MODEL}}}", "lane"),
            "Less the wait it is the backend's own.",
        ),
        Panel(
            "Time per output token",
            "s",
            percentiles("aqueduct_time_per_output_token_seconds", f"{{{OF_MODEL}}}", "lane"),
            "It grows where the backend has more at once than suits it.",
        ),
        Panel(
            "Whole requests",
            "s",
            percentiles("aqueduct_request_seconds", f"{{{OF_MODEL}}}", "kind"),
        ),
        Panel(
            "Outcomes",
            "reqps",
            (Query(rate("aqueduct_requests_total", f"{{{OF_MODEL}}}", "code, error"), "{{code}} {{error}}"),),
        ),
        Panel(
            "Held, by reason",
            "reqps",
            (Query(rate("aqueduct_held_total", f"{{{OF_MODEL}}}", "lane, reason"), "{{lane}} {{reason}}"),),
        ),
        Panel(
            "The whole model is held",
            "bool_yes_no",
            (Query(f"aqueduct_model_held{{{OF_MODEL}}}", "{{model}} {{reason}}"),),
            "paused: by an operator; starting: it is being woken; backend: all backends are held.",
        ),
        Panel(
            "Runs, retries, fail-overs",
            "reqps",
            (
                Query(rate("aqueduct_runs_total", f"{{{OF_MODEL}}}", "code"), "runs {{code}}"),
                Query(rate("aqueduct_retries_total", f"{{{OF_MODEL}}}"), "retries"),
                Query(rate("aqueduct_failovers_total", f"{{{OF_MODEL}}}"), "fail-overs"),
            ),
        ),
        Panel(
            "Fairness",
            "short",
            (Query(f"max by (lane) (aqueduct_fairness_deviation_tokens{{{OF_MODEL}}})", "{{lane}}"),),
            "Tokens by weight between who has had most and least of those that wait. One job's size is usual; "
            "more for long means that estimates are off.",
        ),
    ),
    ("model",),
)

BACKENDS: Final = Board(
    "aqueduct-backends",
    "Aqueduct: backends",
    (
        Panel(
            "Workers that call it",
            "percentunit",
            (Query(f"aqueduct_backend_up{{{OF_MODEL}}}", "{{model}} {{backend}}"),),
            "Under 100 %: its last calls failed, and workers keep away from it, trials apart.",
        ),
        Panel(
            "Ejections",
            "short",
            (Query(f"increase(aqueduct_backend_ejections_total{{{OF_MODEL}}}[15m])", "{{model}} {{backend}}"),),
            "In 15 minutes. Many, with a backend that is up in between: it flaps.",
        ),
        Panel(
            "Open calls and slots",
            "short",
            (
                Query(f"aqueduct_backend_running{{{OF_MODEL}}}", "{{model}} {{backend}} open"),
                Query(f"aqueduct_backend_slots{{{OF_MODEL}}}", "{{model}} {{backend}} slots"),
            ),
        ),
        Panel(
            "Held by operators",
            "bool_yes_no",
            (Query(f"aqueduct_backend_held{{{OF_MODEL}}}", "{{model}} {{backend}}"),),
        ),
        Panel(
            "Calls",
            "reqps",
            (
                Query(
                    rate("aqueduct_backend_seconds_count", f"{{{OF_MODEL}}}", "model, backend, code"),
                    "{{model}} {{backend}} {{code}}",
                ),
            ),
        ),
        Panel(
            "Time of a call, 95 %",
            "s",
            (
                Query(
                    percentile(0.95, "aqueduct_backend_seconds", f"{{{OF_MODEL}}}", "model, backend"),
                    "{{model}} {{backend}}",
                ),
            ),
        ),
        Panel(
            "Failed calls",
            "percentunit",
            (
                Query(
                    rate("aqueduct_backend_seconds_count", f'{{{OF_MODEL},code=~"429|5.."}}', "model, backend")
                    + " / "
                    + rate("aqueduct_backend_seconds_count", f"{{{OF_MODEL}}}", "model, backend"),
                    "{{model}} {{backend}}",
                ),
            ),
        ),
        Panel(
            "By OpenTelemetry's name",
            "reqps",
            (
                Query(
                    f"sum by (gen_ai_request_model, server_address) "
                    f"(rate(gen_ai_client_operation_duration_seconds_count[{RATE}]))",
                    "{{gen_ai_request_model}} {{server_address}}",
                ),
            ),
        ),
    ),
    ("model",),
)
