"""Grafana's boards of batches, of usage and limits, and of Redis."""

from __future__ import annotations

from typing import Final

from tools.monitoring.panels import OF_MODEL, RATE, Board, Panel, Query, percentile, percentiles, rate

BATCHES: Final = Board(
    "aqueduct-batches",
    "Aqueduct: batches",
    (
        Panel("Open", "short", (Query("sum(aqueduct_batches_open)"),), "", "stat", 6),
        Panel("Carried by workers", "short", (Query("sum(aqueduct_batches_running)"),), "", "stat", 6),
        Panel("Lines left", "short", (Query("sum(aqueduct_batch_lines_left)"),), "", "stat", 6),
        Panel("Shortest window left", "s", (Query("min(aqueduct_batch_window_seconds)"),), "", "stat", 6),
        Panel("Lines left, by model", "short", (Query(f"aqueduct_batch_lines_left{{{OF_MODEL}}}", "{{model}}"),)),
        Panel(
            "Lines that end",
            "reqps",
            (Query(rate("aqueduct_batch_lines_total", f"{{{OF_MODEL}}}", "model, outcome"), "{{model}} {{outcome}}"),),
        ),
        Panel(
            "Nothing ended for",
            "s",
            (Query(f"aqueduct_batch_idle_seconds{{{OF_MODEL}}}", "{{model}}"),),
            "The batch that stands still for longest.",
        ),
        Panel(
            "May lines begin?",
            "bool_yes_no",
            (Query(f"aqueduct_batch_lane_open{{{OF_MODEL}}}", "{{model}}"),),
            "Of models with batch_hours.",
        ),
        Panel(
            "Batches that ended, in 24 h",
            "short",
            (
                Query(
                    f"sum by (model, status) (increase(aqueduct_batches_total{{{OF_MODEL}}}[24h]))",
                    "{{model}} {{status}}",
                ),
            ),
        ),
        Panel(
            "Left of the window at the end, 10 %",
            "s",
            (
                Query(
                    "histogram_quantile(0.1, sum by (model, le) "
                    f"(increase(aqueduct_deadline_margin_seconds_bucket{{{OF_MODEL}}}[24h])))",
                    "{{model}}",
                ),
            ),
            "One batch of ten had less than this to spare. 0: it expired.",
        ),
        Panel(
            "Lines accepted",
            "reqps",
            (Query(rate("aqueduct_batch_lines_accepted_total", f"{{{OF_MODEL}}}"), "{{model}}"),),
        ),
        Panel(
            "Waiting in the lane", "short", (Query(f'aqueduct_jobs_waiting{{{OF_MODEL},lane="batch"}}', "{{model}}"),)
        ),
    ),
    ("model",),
)

USAGE: Final = Board(
    "aqueduct-usage",
    "Aqueduct: usage and limits",
    (
        Panel(
            "Tokens in a day",
            "short",
            (
                Query(
                    f"sum by (model, type) (increase(aqueduct_tokens_total{{{OF_MODEL}}}[24h]))", "{{model}} {{type}}"
                ),
            ),
            "By token and group: aqueduct usage.",
        ),
        Panel(
            "Tokens a second, by lane",
            "short",
            (Query(rate("aqueduct_tokens_total", f"{{{OF_MODEL}}}", "lane, type"), "{{lane}} {{type}}"),),
        ),
        Panel(
            "Requests, by lane and kind",
            "reqps",
            (Query(rate("aqueduct_requests_total", f"{{{OF_MODEL}}}", "lane, kind"), "{{lane}} {{kind}}"),),
        ),
        Panel(
            "Refused by a limit",
            "reqps",
            (Query(rate("aqueduct_requests_total", '{code="429"}', "model, error"), "{{model}} {{error}}"),),
            "queue_full: the room. rate_limit_exceeded: a token's or group's minute. …_spend_limit_exceeded: a budget.",
        ),
        Panel(
            "Budgets",
            "short",
            (Query("aqueduct_budgets", "{{whose}} {{period}} {{state}}"),),
            "near: 80 % is used. Whose they are: aqueduct usage --by token.",
        ),
        Panel(
            "Prompt and answer, 95 %",
            "short",
            (
                Query(
                    percentile(0.95, "aqueduct_request_tokens", f"{{{OF_MODEL}}}", "model, type"),
                    "{{model}} {{type}}",
                ),
            ),
            "Tokens of one request.",
        ),
        Panel(
            "Clients that left",
            "reqps",
            (
                Query(rate("aqueduct_requests_total", '{code="499"}'), "{{model}} left"),
                Query(f"sum by (state) (rate(aqueduct_cancels_total[{RATE}]))", "cancelled while {{state}}"),
            ),
        ),
        Panel(
            "Tokens by OpenTelemetry's name",
            "short",
            (
                Query(
                    f"sum by (gen_ai_request_model, gen_ai_token_type) (rate(gen_ai_client_token_usage_sum[{RATE}]))",
                    "{{gen_ai_request_model}} {{gen_ai_token_type}}",
                ),
            ),
        ),
    ),
    ("model",),
)

REDIS: Final = Board(
    "aqueduct-redis",
    "Aqueduct: Redis and the relay",
    (
        Panel("Redis answers", "bool_yes_no", (Query("aqueduct_redis_up", "{{instance}}"),), "", "stat", 6),
        Panel(
            "Memory used",
            "percentunit",
            (Query("max(aqueduct_redis_memory_bytes / (aqueduct_redis_memory_limit_bytes > 0))"),),
            "Of maxmemory; empty where there is none.",
            "stat",
            6,
            0.8,
        ),
        Panel("Bytes used", "bytes", (Query("max(aqueduct_redis_memory_bytes)"),), "", "stat", 6),
        Panel("Version asked", "short", (Query("aqueduct_info", "{{version}}"),), "", "stat", 6),
        Panel(
            "Memory",
            "bytes",
            (
                Query("max(aqueduct_redis_memory_bytes)", "used"),
                Query("max(aqueduct_redis_memory_limit_bytes)", "maxmemory"),
            ),
        ),
        Panel(
            "A round trip",
            "s",
            percentiles("aqueduct_redis_seconds", quantiles=(0.5, 0.9, 0.99)),
            "Measured by each process every two seconds.",
        ),
        Panel(
            "Gaps mended",
            "ops",
            (Query(f"rate(aqueduct_relay_gaps_total[{RATE}])", "gaps"),),
            "A job's log was read for a client that had missed something live, or joined late.",
        ),
        Panel(
            "Runs of lost workers, expired jobs",
            "ops",
            (
                Query(f"rate(aqueduct_reclaims_total[{RATE}])", "taken from lost workers"),
                Query(f"rate(aqueduct_expired_total[{RATE}])", "waited too long"),
            ),
        ),
    ),
)
