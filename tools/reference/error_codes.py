"""What each error code means and what to do about it, for the page of all errors."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """A code: the statuses it comes with, what has happened, and what helps. In Markdown."""

    code: str
    statuses: tuple[int, ...]
    meaning: str
    remedy: str


REQUEST = (
    Code("invalid_json", (400,), "the body is no JSON, or no object", "the message tells where it stops being JSON"),
    Code("invalid_type", (400,), "a member has another JSON type than it must", "`param` names it"),
    Code("invalid_value", (400,), "a member has a value that is not allowed", "the message tells which are"),
    Code("missing_required_parameter", (400,), "a member that must be there is not", "`param` names it"),
    Code(
        "unknown_parameter",
        (400,),
        "a member that nobody knows, where `extra_parameters: refuse` is set or the endpoint takes no others",
        "leave it out, or `extra_parameters: drop`",
    ),
    Code("integer_above_max_value", (400,), "a whole number over its bound", "the message has the bound"),
    Code("integer_below_min_value", (400,), "a whole number under its bound", "the message has the bound"),
    Code("decimal_above_max_value", (400,), "a number over its bound", "the message has the bound"),
    Code("decimal_below_min_value", (400,), "a number under its bound", "the message has the bound"),
    Code("string_above_max_length", (400,), "a text that is too long", "the message has the bound"),
    Code("string_below_min_length", (400,), "a text that is too short", "the message has the bound"),
    Code(
        "array_above_max_length", (400,), "a list that is too long", "the message has the bound; see `parameter_limits`"
    ),
    Code("empty_array", (400,), "a list that must not be empty", "put something into it"),
    Code("object_above_max_properties", (400,), "an object of too many members, such as `metadata`", "fewer of them"),
    Code("too_many_values", (400,), "over a million JSON values in one body", "send fewer"),
    Code("invalid_form", (400,), "a file was sent in what is no whole multipart form", "have a library make the form"),
    Code(
        "invalid_http",
        (400,),
        "what came is not HTTP/1.1: HTTP/2 without an offer, TLS on a plain port",
        "`http://` in the URL, or a proxy in front",
    ),
    Code(
        "context_length_exceeded",
        (400, 413, 422),
        "the backend's context is too short for the prompt",
        "a shorter prompt; the status is the backend's",
    ),
    Code(
        "request_timeout",
        (400,),
        "the client stopped in the middle of its body, or sent it too slowly",
        "the network, or `api.body_timeout_seconds`, `api.body_bytes_per_second`",
    ),
    Code(
        "request_too_large", (413,), "body over `api.max_body_bytes`", "send less, or raise it; also the proxy's limit"
    ),
    Code("unsupported_media_type", (415,), "the body is not declared as JSON", "`Content-Type: application/json`"),
    Code(
        "headers_too_large",
        (431,),
        "headers, or one trailer, over `api.max_header_bytes`, where each counts 32 bytes beside its own",
        "send less, or raise it",
    ),
    Code("idempotency_key_reused", (422,), "one `Idempotency-Key` for two bodies", "a new key for each request"),
    Code("unknown_url", (404,), "no such path", "the message names the right one where that is plain"),
    Code("method_not_allowed", (405,), "no such method at this path", "the header `allow` tells which there are"),
)
ACCESS = (
    Code(
        "invalid_api_key",
        (401,),
        "unknown, revoked or expired token; no token at all has the code null",
        "`aqueduct token list`; a token in the file is known after `aqueduct reload`",
    ),
    Code(
        "insufficient_permissions",
        (403,),
        "`service_tier` above the token's lane, a role that is not enough, a group that is gone",
        "leave it out, or give the token that lane or role",
    ),
    Code(
        "model_not_found",
        (404,),
        "the name is in no `models` or `aliases`, or not in the token's `models`",
        "`GET /v1/models` with that token shows what it may use",
    ),
)
LIMITS = (
    Code(
        "queue_full",
        (429,),
        "the room, or the token's share of it, is full",
        "wait as `retry-after` says; [tune queues](../how-to/tune-queues.md)",
    ),
    Code(
        "resource_unavailable",
        (429,),
        '`"service_tier": "flex"` while no slot is free: such requests are never queued',
        "wait as `retry-after` says, or send no `service_tier`; a token in the lane `flex` waits in it",
    ),
    Code(
        "rate_limit_exceeded",
        (429,),
        "the token's limit or its group's; with a backend's words, the backend's",
        "the token's settings ([how limits count](../how-to/tokens.md#how-limits-count)); the provider's",
    ),
    Code(
        "token_spend_limit_exceeded",
        (429,),
        "a budget of a day or month of the token is spent; the type is `insufficient_quota`",
        "wait until the time in the text; `aqueduct token set NAME --tokens-per-month …`",
    ),
    Code("project_spend_limit_exceeded", (429,), "the same of the token's group", "the group's settings"),
    Code("insufficient_quota", (429,), "the backend says that its own budget is spent", "the provider's account"),
    Code(
        "too_many_open_batches",
        (429,),
        "the token has `max_open_batches` of them",
        "wait until one has ended, or raise it",
    ),
    Code(
        "too_many_connections",
        (503,),
        "over `api.max_connections`, or what `ulimit -n` allows",
        "keep connections open instead of making new ones; raise either",
    ),
    Code(
        "too_many_large_bodies",
        (503,),
        "for 120 s this API process had `large_bodies` bodies over `large_body_bytes` in hand, or 256 more waited",
        "another API process; `large_bodies`, where there is memory; whoever sends slowly: `api.body_bytes_per_second`",
    ),
)
WAITING = (
    Code(
        "queue_timeout",
        (504,),
        "waited longer than `max_wait_seconds`",
        "nothing was sent, so a retry is safe; [tune queues](../how-to/tune-queues.md)",
    ),
    Code(
        "no_worker",
        (503,),
        "no live worker for the model",
        "start one; look whether it restarts over and over: its log says why",
    ),
    Code(
        "model_retired", (503,), "an operator takes the model out of use", "another model; `aqueduct audit` tells who"
    ),
    Code(
        "cancelled_by_operator",
        (410,),
        "an operator has ended the request",
        "`aqueduct audit` tells who; [hold, end and move](../how-to/control.md)",
    ),
    Code("draining", (503,), "this API process is leaving", "nothing: the retry goes to another"),
    Code(
        "server_is_overloaded",
        (503,),
        "Redis is away, frozen, loading or full",
        "`aqueduct check`; Redis's memory against `maxmemory`",
    ),
    Code(
        "idempotency_key_in_use",
        (503,),
        "a batch with this `Idempotency-Key` is just being made",
        "retry in two seconds; it finds that batch",
    ),
    Code(
        "job_lost",
        (500,),
        "the worker died after part of the answer was sent, or Redis lost its data or fell back by a moment",
        "retry; look why the process ended",
    ),
    Code("cancelled", (499,), "the client left; never sent, in logs and Flower only", "nothing"),
)
BACKEND = (
    Code(
        "backend_unavailable",
        (503,),
        "connection refused, reset, DNS, TLS, or the backend said 502/503",
        "the backend; `aqueduct check`",
    ),
    Code(
        "backend_timeout",
        (504,),
        "`timeout_seconds`, `first_token_timeout_seconds` or `stall_timeout_seconds`",
        "raise the one that is named, or lower `concurrency`",
    ),
    Code(
        "backend_error",
        (500,),
        "the backend failed, or refuses the gateway's key, route or model name",
        "the message says which; `aqueduct check` tries the key",
    ),
    Code(
        "bad_backend_response",
        (500,),
        "no JSON, no UTF-8, a redirect, a stream that ended early",
        'the backend\'s own log at that time; with "more than … bytes": raise `worker.max_answer_bytes`, '
        "for embeddings see [large answers](../how-to/serve-a-backend.md)",
    ),
    Code(
        "structured_output_mismatch",
        (500,),
        "the answer breaks the schema at the place that the message names",
        "a simpler schema, more tokens, or `structured_output: retry` "
        "([serve a backend](../how-to/serve-a-backend.md#answers-that-keep-to-their-schema))",
    ),
)
STORED = (
    Code(
        "storage_not_set_up",
        (404,),
        "files, batches or stored completions are asked for, and `storage.url` is not set",
        "set it for API and workers; [files and storage](../how-to/files-and-storage.md)",
    ),
    Code(
        "not_found", (404,), "no such file, batch, completion or request of this token", "its list shows what there is"
    ),
    Code(
        "completion_in_progress",
        (409,),
        "a stored completion is asked for that still waits or runs",
        "ask again later, or read it on: [leave and come back](../how-to/leave-and-come-back.md)",
    ),
    Code("not_a_stream", (400,), "`/events` of a stored completion that was asked for without `stream`", "retrieve it"),
    Code("file_too_large", (400,), "an input file over `batches.max_file_bytes`", "divide it"),
    Code(
        "invalid_batch_status",
        (409,),
        "a batch that has ended is cancelled, or one that has not is run again",
        "look first",
    ),
    Code("nothing_to_retry", (409,), "every line of the batch succeeded", "nothing"),
    Code("invalid_upload_status", (409,), "an upload that is completed, cancelled or expired", "begin another one"),
    Code("range_not_satisfiable", (416,), "a `Range` behind a file's end", "`content-range` tells its length"),
    Code(
        "storage_limit_exceeded",
        (413,),
        "the token's files and uploads would be more than its `max_stored_bytes`",
        "delete files (`DELETE /v1/files/{id}`), or raise the limit",
    ),
    Code(
        "storage_full",
        (507,),
        "the disk of the store, or a quota on it, is full",
        "make room; expired files go within the hour",
    ),
    Code(
        "storage_unavailable",
        (503,),
        "the store does not answer, or refuses the credentials",
        "`aqueduct check` tries it",
    ),
    Code("token_exists", (409,), "a token is made whose name there is", "another name, or change that one"),
    Code("group_exists", (409,), "a group is made whose name there is", "another name, or change that one"),
)
OURS = (Code("internal_error", (500,), "a bug", "the log has the traceback under the request id; please report it"),)
GROUPS = {
    "The request": REQUEST,
    "The token": ACCESS,
    "Limits": LIMITS,
    "The queue and its processes": WAITING,
    "The backend": BACKEND,
    "Files, batches, stored answers": STORED,
    "Ours": OURS,
}
EVERY = {one.code: one for group in GROUPS.values() for one in group}
