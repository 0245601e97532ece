"""Attributes of spans: OpenTelemetry's for HTTP and GenAI, and ours. None holds a prompt, an answer or a key."""

from __future__ import annotations

from typing import Final

OPERATIONS: Final = {"chat.completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}
"""GenAI's operations by our kinds of jobs."""
PROVIDER: Final = "aqueduct"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FIRST_CHUNK_SECONDS: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

METHOD: Final = "http.request.method"
STATUS: Final = "http.response.status_code"
PATH: Final = "url.path"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

REQUEST_ID: Final = "aqueduct.request_id"
MODEL: Final = "aqueduct.model"
TENANT: Final = "aqueduct.tenant"
GROUP: Final = "aqueduct.group"
LANE: Final = "aqueduct.lane"
HELD: Final = "aqueduct.held"
QUEUE_MS: Final = "aqueduct.queue_ms"
RUN_MS: Final = "aqueduct.run_ms"
ATTEMPTS: Final = "aqueduct.attempts"
ATTEMPT: Final = "aqueduct.attempt"
RETRIES: Final = "aqueduct.retries"
FAILOVERS: Final = "aqueduct.failovers"
STOPPED: Final = "aqueduct.stopped"
BACKEND: Final = "aqueduct.backend"
JOINED: Final = "aqueduct.joined_request_id"
BATCH_ID: Final = "aqueduct.batch_id"
BATCH_LINE: Final = "aqueduct.batch_line"
BATCH_STATUS: Final = "aqueduct.batch_status"


def operation(kind: str) -> str:
    """Return GenAI's name of a kind's operation; one that it does not know is called as we do."""
    return OPERATIONS.get(kind, kind)


def span_name(kind: str, model: str | None) -> str:
    """Return the name of a span as GenAI's conventions advise it: `chat llama`."""
    return f"{operation(kind)} {model}" if model else operation(kind)
