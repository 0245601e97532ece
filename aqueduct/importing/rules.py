"""What becomes of each of LiteLLM's settings, as tables: the importer reads them, and so does the docs' page.

A rule says the verdict, the setting it becomes, and why or what to do. What the code works out itself (`by_code`) has a
rule too, for the page. A setting that is off (false, null, empty) needs nothing where its rule would leave it out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aqueduct.importing.findings import Verdict


class Rule(NamedTuple):
    verdict: Verdict
    to: str
    text: str
    by_code: bool = False
    """The importer finds the verdict out; this is the usual one."""


def _taken(to: str, text: str = "") -> Rule:
    return Rule("taken", to, text, by_code=True)


def _left(text: str) -> Rule:
    return Rule("left", "", text)


def _needless(text: str) -> Rule:
    return Rule("needless", "", text)


_BUDGET = "money is not counted; give tokens and groups budgets in tokens or slot time (docs/how-to/tokens.md)"
_PRICES = "money is not counted; `aqueduct usage` counts tokens and slot time"
_DATABASE = "there is no database; tokens stand in the file or in Redis, usage in Redis and the file store"
_KEYS = (
    "virtual keys stand in LiteLLM's database, not in this file: make a token for each by `aqueduct token create`, "
    "groups for teams by `aqueduct group create`"
)
_LOGGING = (
    "this callback is not there; logs have a line a request, /metrics the numbers, and traces go by OpenTelemetry's "
    "OTEL_* variables"
)
_FAILS = "a backend that fails three times in a row is left out for 5 s, then longer, up to a minute"
_AWS = "belongs to a provider that is not called directly"
_GUARD = "guardrails and hooks are not there; put them into the client, or a gateway behind or before this one"
_ENDPOINT = "this endpoint is not served: chat completions, completions, embeddings, models, files and batches are"
_CACHE = "answers are not cached"
_DOCS = "belongs to LiteLLM's own pages"

DEPLOYMENT: Final[dict[str, Rule]] = {
    "model": _taken("backends[].url, model", "by its provider: see the table of providers"),
    "custom_llm_provider": _taken("backends[].url", "the provider, where `model` does not name it"),
    "api_base": _taken("backends[].url"),
    "base_url": _taken("backends[].url"),
    "api_key": _taken("backends[].api_key", "as ${NAME}, never the key itself; Azure's goes to headers"),
    "api_version": Rule("needless", "", "Azure's /openai/v1 needs no version", by_code=True),
    "organization": _taken("backends[].headers", "as openai-organization"),
    "extra_headers": _taken("backends[].headers"),
    "headers": _taken("backends[].headers"),
    "extra_body": _taken("backends[].parameters.defaults"),
    "additional_drop_params": _taken("backends[].parameters.removed"),
    "weight": _taken("backends[].weight"),
    "order": _taken("backends[].weight", "what is not first has weight 0: called where no other can be"),
    "rpm": Rule(
        "changed",
        "backends[].weight",
        "shares calls between deployments, as in LiteLLM; a backend's requests are bounded by `concurrency`, not by "
        "minute",
        by_code=True,
    ),
    "tpm": Rule(
        "changed",
        "backends[].weight",
        "shares calls between deployments where there is no rpm; tokens and groups have limits by minute, backends "
        "have not",
        by_code=True,
    ),
    "max_parallel_requests": _taken("backends[].concurrency"),
    "timeout": _taken("timeout_seconds", "the longest of the model's deployments"),
    "stream_timeout": _taken("first_token_timeout_seconds", "the longest of the model's deployments"),
    "max_retries": _taken("max_attempts", "and one more: the first call counts"),
    "num_retries": _taken("max_attempts", "and one more: the first call counts"),
    "litellm_credential_name": _taken("backends[]", "the entry of credential_list, as if it stood here"),
    "drop_params": Rule(
        "left",
        "",
        "a backend is sent what the client sends; `aqueduct check --probe` finds what it refuses, and "
        "`parameters: {removed: […]}` leaves that out",
    ),
    "region_name": _left("only LiteLLM's own routing knows regions"),
    "cooldown_time": _needless(_FAILS),
    "ssl_verify": _left("certificates are always verified; name your authority in `ca_file`"),
    "mock_response": _left("mock answers are not there; `aqueduct demo-backend` is a server that makes some"),
    "mock_timeout": _left("mock answers are not there; `aqueduct demo-backend` can be slow"),
    "tags": _left("there is no routing by tags; give each its own model name"),
    "tag_regex": _left("there is no routing by tags; give each its own model name"),
    "max_budget": _left(_BUDGET),
    "budget_duration": _left(_BUDGET),
    "default_api_key_rpm_limit": _left("set `requests_per_minute` of each token"),
    "default_api_key_tpm_limit": _left("set `tokens_per_minute` of each token"),
    "configurable_clientside_auth_params": _left("clients cannot bring their own backend keys"),
    "use_in_pass_through": _left(_ENDPOINT),
    "use_litellm_proxy": _left("name the other gateway by api_base"),
    "merge_reasoning_content_in_choices": _left("reasoning is passed on as the backend writes it"),
    "cache_control_injection_points": _left("requests are not rewritten"),
    "azure_ad_token": _left("Entra's tokens are short-lived; use the resource's key"),
    "tenant_id": _left("Entra's tokens are short-lived; use the resource's key"),
    "client_id": _left("Entra's tokens are short-lived; use the resource's key"),
    "client_secret": _left("Entra's tokens are short-lived; use the resource's key"),
    "stream": _needless("clients choose"),
    "n": _needless("clients choose"),
    "user": _left("a backend is told of the token's name by `forward: {token_name: …}`"),
    "keep_alive": _left("Ollama's /v1 does not take it; set OLLAMA_KEEP_ALIVE at the server"),
    "num_ctx": _left("Ollama's /v1 does not take it; set OLLAMA_CONTEXT_LENGTH at the server, or a Modelfile"),
    "thinking": _left("is Anthropic's; see reasoning_effort"),
    "guardrails": _left(_GUARD),
    "allow_client_keepalive_override": _needless("silent streams are kept alive by comments"),
    "keepalive_seconds": _needless("silent streams are kept alive by comments every `api.keep_alive_seconds`"),
}
"""Below `litellm_params`."""

PARAMETERS: Final = frozenset(
    (
        *("temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "presence_penalty"),
        *("frequency_penalty", "repetition_penalty", "seed", "stop", "logit_bias", "response_format"),
        *("tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", "verbosity", "service_tier"),
        *("metadata", "dimensions", "encoding_format", "chat_template_kwargs", "modalities", "web_search_options"),
        *("logprobs", "top_logprobs", "safety_settings"),
    )
)
"""Of `litellm_params`: what is sent with each request that does not say it itself; `parameters.defaults` here."""

MODEL_INFO: Final[dict[str, Rule]] = {
    "mode": Rule("taken", "", "chat, completion and embedding are served at their endpoints", by_code=True),
    "id": _needless("a backend is known by its place, host and port"),
    "base_model": _needless(_PRICES),
    "team_id": _left("give the team's token or group the model: `models: [NAME]`"),
    "access_groups": _left("give each token or group its models: `models: [NAME, …]`"),
    "health_check_timeout": _needless("backends are judged by their calls; nothing probes"),
    "health_check_model": _needless("backends are judged by their calls; nothing probes"),
    "disable_background_health_check": _needless("backends are judged by their calls; nothing probes"),
    "blocked": _left("`aqueduct model pause NAME` holds a model back"),
    "access_windows": _left("see `batch_hours` for batch work; other requests have no hours"),
}
"""Below `model_info`; what is not here describes the model and needs nothing."""

_ROUTING: Final[dict[str, Rule]] = {
    "num_retries": _taken("models.NAME.max_attempts", "and one more: the first call counts"),
    "max_retries": _taken("models.NAME.max_attempts", "and one more: the first call counts"),
    "timeout": _taken("models.NAME.timeout_seconds"),
    "request_timeout": _taken("models.NAME.timeout_seconds"),
    "stream_timeout": _taken("models.NAME.first_token_timeout_seconds"),
    "fallbacks": Rule(
        "changed",
        "models.NAME.backends[].weight: 0",
        "the other model's backends stand behind, with weight 0: called where no other can be",
        by_code=True,
    ),
    "default_fallbacks": Rule(
        "changed", "models.NAME.backends[].weight: 0", "as fallbacks, of every model", by_code=True
    ),
    "context_window_fallbacks": _left("a request that is too long is refused; the client names a model that fits"),
    "content_policy_fallbacks": _left("a refusal is an answer, and handed on"),
    "allowed_fails": _needless(_FAILS),
    "allowed_fails_policy": _needless(_FAILS),
    "cooldown_time": _needless(_FAILS),
    "disable_cooldowns": _left(_FAILS),
    "enable_cooldowns": _needless(_FAILS),
    "retry_after": _needless("calls are made again at once at another backend, else after a growing wait"),
    "retry_policy": _left("what may be tried again is fixed: see docs/reliability.md; `max_attempts` says how often"),
    "model_group_retry_policy": _left("see `max_attempts` of each model"),
    "cache_responses": _left(_CACHE),
    "set_verbose": _taken("log_level", "debug"),
    "drop_params": DEPLOYMENT["drop_params"],
    "additional_drop_params": _taken("models.NAME.parameters.removed"),
}

ROUTER: Final[dict[str, Rule]] = {
    **_ROUTING,
    "routing_strategy": Rule("taken", "models.NAME.backends[].weight", "simple-shuffle: calls go by weight", True),
    "routing_strategy_args": _left("calls go by weight, and by what `concurrency: auto` finds"),
    "routing_groups": _left("calls go by weight; a model's backends are its group"),
    "model_group_alias": _taken("models.NAME.aliases"),
    "default_max_parallel_requests": _taken("models.NAME.backends[].concurrency"),
    "default_litellm_params": _taken("models.NAME.backends[]", "as if it stood in each deployment"),
    "max_fallbacks": _needless("`max_attempts` bounds all calls of a request"),
    "enable_pre_call_checks": _left("prompts are not counted against a context window before the call"),
    "optional_pre_call_checks": _left("checks before the call are not there"),
    "enable_tag_filtering": _left("there is no routing by tags; give each its own model name"),
    "tag_filtering_match_any": _left("there is no routing by tags; give each its own model name"),
    "default_priority": _left("see lanes: `service_tier` of a request, `lane` of a token (docs/how-to/tune-queues.md)"),
    "polling_interval": _needless("nothing polls"),
    "client_ttl": _needless("connections are kept as long as they are good"),
    "debug_level": _taken("log_level"),
    "enable_load_balancing": _needless("a model's backends share its calls"),
    **{
        name: Rule(
            "left", "",
            "LiteLLM's Redis is a cache and may throw things away; the queue's must not. `aqueduct up` starts one; one "
            "of your own: docs/operate/redis.md",
        )
        for name in ("redis_url", "redis_host", "redis_port", "redis_password", "redis_db", "redis_ssl", "cache_kwargs")
    },
}  # fmt: skip

LITELLM: Final[dict[str, Rule]] = {
    **_ROUTING,
    "json_logs": _taken("log_format", "json"),
    "log_level": _taken("log_level"),
    "telemetry": _needless("nothing is sent to anyone"),
    "callbacks": Rule("left", "", _LOGGING, by_code=True),
    "success_callback": Rule("left", "", _LOGGING, by_code=True),
    "failure_callback": Rule("left", "", _LOGGING, by_code=True),
    "service_callbacks": Rule("left", "", _LOGGING, by_code=True),
    "service_callback": Rule("left", "", _LOGGING, by_code=True),
    "cache": _left(_CACHE),
    "cache_params": _left(_CACHE),
    "turn_off_message_logging": _needless("no prompt and no answer is ever logged"),
    "redact_messages_in_exceptions": _needless("no error shows a prompt"),
    "redact_user_api_key_info": _needless("logs name the token, never the key"),
    "max_budget": _left(_BUDGET),
    "budget_duration": _left(_BUDGET),
    "max_end_user_budget": _left(_BUDGET),
    "max_internal_user_budget": _left(_BUDGET),
    "internal_user_budget_duration": _left(_BUDGET),
    "default_internal_user_params": _left(_KEYS),
    "default_team_settings": _left(_KEYS),
    "default_key_generate_params": _left(_KEYS),
    "upperbound_key_generate_params": _left(_KEYS),
    "key_generation_settings": _left(_KEYS),
    "default_team_params": _left(_KEYS),
    "disable_end_user_cost_tracking": _needless(_PRICES),
    "force_ipv4": _left("addresses are taken as the system gives them"),
    "ssl_verify": _left("certificates are always verified; name your authority in `ca_file` of the backend"),
    "modify_params": _left("requests are not rewritten"),
    "enable_json_schema_validation": _left("see `structured_output: validate` or `retry` of a model"),
    "guardrails": _left(_GUARD),
    "mcp_aliases": _left("MCP servers are not there"),
    "enable_preview_features": _needless("there are none of LiteLLM's"),
    "return_response_headers": _left("a backend's headers are not handed on"),
    "forward_traceparent_to_llm_provider": _left("see traces"),
    "public_model_groups": _left("clients see the models that their token may use"),
    "check_provider_endpoint": _left("models are named in the file"),
}

_LOGIN = "logins of people and JWTs are not there; programs show a token (docs/how-to/tokens.md)"

GENERAL: Final[dict[str, Rule]] = {
    "master_key": Rule(
        "changed", "tokens[]",
        "a token of that value, by its SHA-256 from the environment; for administration make one by `aqueduct token "
        "create NAME --role operator`", by_code=True,
    ),
    "database_url": Rule("left", "", f"{_DATABASE}. What LiteLLM's database holds (keys, teams, models) is not read"),
    "store_model_in_db": _left("models that LiteLLM keeps in its database are not in this file: add them by hand"),
    "store_prompts_in_spend_logs": _left("prompts are never kept, but for `store: true` and batches"),
    "max_parallel_requests": _taken("models.NAME.backends[].concurrency", "of each deployment"),
    "global_max_parallel_requests": _left("see `concurrency` of each model, and `worker.slots`"),
    "max_request_size_mb": _taken("api.max_body_bytes"),
    "max_response_size_mb": _taken("worker.max_answer_bytes"),
    "alerting": _left("Prometheus alerts: docs/how-to/metrics.md"),
    "alerting_threshold": _left("Prometheus alerts: docs/how-to/metrics.md"),
    "alerting_args": _left("Prometheus alerts: docs/how-to/metrics.md"),
    "alert_types": _left("Prometheus alerts: docs/how-to/metrics.md"),
    "alert_to_webhook_url": _left("Prometheus alerts: docs/how-to/metrics.md"),
    "custom_auth": _left("your own code for logins is not run; programs show a token"),
    "enable_jwt_auth": _left(_LOGIN),
    "litellm_jwtauth": _left(_LOGIN),
    "enable_oauth2_auth": _left(_LOGIN),
    "enable_oauth2_proxy_auth": _left(_LOGIN),
    "oauth2_config_mappings": _left(_LOGIN),
    "custom_sso": _left(_LOGIN),
    "ui_access_mode": _needless(_DOCS),
    "custom_key_generate": _left(_KEYS),
    "pass_through_endpoints": _left(_ENDPOINT),
    "use_client_credentials_pass_through_routes": _left(_ENDPOINT),
    "public_routes": _left("only /healthz and /readyz are open to all"),
    "admin_only_routes": _needless("/admin/v1 wants a token with a role"),
    "allowed_routes": _left("a token may call every endpoint; `role` decides about /admin/v1"),
    "allowed_ips": _left("bound by network: `api.host`, a firewall, a proxy"),
    "use_x_forwarded_for": _left("name the proxies in `api.trusted_proxies`"),
    "forward_client_headers_to_llm_api": _left("clients' headers are not sent to backends; see `headers`, `forward`"),
    "forward_openai_org_id": _left("clients' headers are not sent to backends; see `headers`"),
    "litellm_key_header_name": _left("the key comes as `Authorization: Bearer`"),
    "enforce_user_param": _left("`user` is not asked for; the token says who it is"),
    "enforced_params": _left("requests need not have more than OpenAI asks for"),
    "user_header_mappings": _left("the token says who it is"),
    "user_header_name": _left("the token says who it is"),
    "completion_model": _left("a request names its model"),
    "embedding_model": _left("a request names its model"),
    "image_generation_model": _left(_ENDPOINT),
    "moderation_model": _left(_ENDPOINT),
    "infer_model_from_keys": _left("models are named in the file"),
    "allow_client_side_credentials": _left("clients cannot bring their own backend keys"),
    "key_management_system": _left("keys come from the environment; have your secret store put them there"),
    "key_management_settings": _left("keys come from the environment; have your secret store put them there"),
    "use_azure_key_vault": _left("keys come from the environment; have your secret store put them there"),
    "use_google_kms": _left("keys come from the environment; have your secret store put them there"),
    "litellm_license": _needless("there is no licence key"),
    "background_health_checks": _needless("backends are judged by their calls; nothing probes"),
    "health_check_interval": _needless("backends are judged by their calls; nothing probes"),
    "health_check_details": _needless("/readyz says which models have workers"),
    "spend_report_frequency": _left("see `aqueduct usage`"),
    "default_team_disabled": _left(_KEYS),
    **{
        name: _needless(_DATABASE)
        for name in (
            "allow_requests_on_db_unavailable", "database_connection_pool_limit", "database_connection_timeout",
            "disable_adding_master_key_hash_to_db", "disable_error_logs", "disable_prisma_schema_update",
            "disable_reset_budget", "disable_spend_logs", "disable_spend_updates",
            "maximum_spend_logs_retention_interval", "maximum_spend_logs_retention_period",
            "proxy_batch_polling_interval", "proxy_batch_write_at",
            "proxy_budget_rescheduler_max_time", "proxy_budget_rescheduler_min_time", "supported_db_objects",
            "user_api_key_cache_ttl", "disable_master_key_return", "disable_retry_on_max_parallel_request_limit_error",
        )
    },
}  # fmt: skip

TOP: Final[dict[str, Rule]] = {
    "model_list": _taken("models", "each name a model, its deployments the backends"),
    "router_settings": _taken("models", "see below"),
    "litellm_settings": _taken("models", "see below"),
    "general_settings": _taken("api, tokens", "see below"),
    "credential_list": _taken("models.NAME.backends[]", "where a deployment names one"),
    "include": _taken("", "as LiteLLM does it: lists go behind, all else in place"),
    "environment_variables": Rule(
        "left", "", "set these in the environment of the processes; no value of them is copied", by_code=True
    ),
    "guardrails": _left(_GUARD),
    "policies": _left(_GUARD),
    "callback_settings": _left(_LOGGING),
    "mcp_servers": _left("MCP servers are not there"),
    "mcp_tools": _left("MCP servers are not there"),
    "agents": _left("agents are not there"),
    "search_tools": _left("search tools are not there"),
    "vector_store_registry": _left("vector stores are not there"),
    "prompts": _left("prompts are not kept"),
    "files_settings": _needless("files are kept here, not at a provider: docs/how-to/files-and-storage.md"),
    "batches_settings": _needless("batches run here, over any model: docs/how-to/run-batches.md"),
    "finetune_settings": _left(_ENDPOINT),
    "assistant_settings": _left(_ENDPOINT),
    "cache_config": _left(_CACHE),
}
"""At the top of the file."""

SECTIONS: Final = {"router_settings": ROUTER, "litellm_settings": LITELLM, "general_settings": GENERAL}

UNKNOWN: Final = Rule("left", "", "is not known here")


def is_off(value: object) -> bool:
    """Whether a setting says that something is not wanted."""
    return value is None or value is False or (isinstance(value, list | dict | str) and not value)
