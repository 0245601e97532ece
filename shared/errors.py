"""Every failure a caller can meet, as one tree. Each class fixes its HTTP status, `type` and `code`.

    AqueductError                      500 server_error / internal_error
    ├── ToldError                      any of these, as it came over the queue
    ├── RequestError                   the caller's to mend
    │   ├── InvalidRequest             400 invalid_request_error / given by the place that found it
    │   ├── Unauthenticated            401 invalid_request_error / null or invalid_api_key
    │   ├── PermissionDenied           403 permission_denied_error / insufficient_permissions
    │   ├── UnknownModel               404 invalid_request_error / model_not_found
    │   ├── UnknownUrl                 404 invalid_request_error / unknown_url
    │   ├── NotFound                   404 invalid_request_error / not_found
    │   ├── MethodNotAllowed           405 invalid_request_error / method_not_allowed
    │   ├── Conflict                   409 invalid_request_error / given by the place that found it
    │   ├── RequestTooLarge            413 invalid_request_error / request_too_large
    │   │   └── StorageLimit           413 invalid_request_error / storage_limit_exceeded
    │   ├── UnsupportedMediaType       415 invalid_request_error / unsupported_media_type
    │   ├── Unprocessable              422 invalid_request_error / given by the place that found it
    │   ├── HeadersTooLarge            431 invalid_request_error / headers_too_large
    │   ├── RateLimited                429 rate_limit_error / rate_limit_exceeded
    │   └── InsufficientQuota          429 insufficient_quota / token_spend_limit_exceeded, project_spend_limit_exceeded
    ├── CapacityError                  ours, for now
    │   ├── QueueFull                  429 rate_limit_error / queue_full
    │   ├── ResourceUnavailable        429 rate_limit_error / resource_unavailable
    │   ├── ModelRetired               503 service_unavailable_error / model_retired
    │   ├── NoWorker                   503 service_unavailable_error / no_worker
    │   ├── Draining                   503 service_unavailable_error / draining
    │   └── BrokerUnavailable          503 service_unavailable_error / server_is_overloaded
    ├── BackendError                   the backend's
    │   ├── BackendUnreachable         503 service_unavailable_error / backend_unavailable
    │   ├── BackendTimeout             504 timeout_error / backend_timeout
    │   ├── BadBackendResponse         500 server_error / bad_backend_response
    │   ├── SchemaBreach               500 server_error / structured_output_mismatch
    │   └── BackendRefused             the status, type, code and param that the backend gave
    └── JobError                       what became of an accepted job
        ├── QueueTimeout               504 timeout_error / queue_timeout
        ├── JobLost                    500 server_error / job_lost
        ├── JobStopped                 410 request_cancelled / cancelled_by_operator
        └── JobCancelled               499 request_cancelled / cancelled (logs and Flower only)

Across the queue an error travels as data (`to_wire`, `from_wire`) inside a failed event. No message ever holds a
prompt, a key or a backend's address.
"""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

MAX_RETRY_AFTER_SECONDS = 60
"""openai-python refuses to retry at all past 120 s and openai-node ignores more than 60 s."""


class AqueductError(Exception):
    """A failure with the OpenAI error object that tells the caller about it."""

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    longest_retry_after: ClassVar[int] = MAX_RETRY_AFTER_SECONDS
    default_message: ClassVar[str] = "The gateway met an unexpected error. If it persists, report the request id."

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.message = message or self.default_message
        super().__init__(self.message)
        self.param = param
        if code is not None:
            self.code = code
        self.retry_after = retry_after
        """Seconds after which a retry may succeed; sent as `retry-after`, at most 60."""
        self.should_retry = should_retry
        """Sent as `x-should-retry`, which the OpenAI SDKs obey in both directions."""
        self.headers = headers or {}
        """Further response headers, such as `allow` on a 405."""

    def body(self) -> dict[str, Any]:
        """Return the OpenAI error object; all four keys are always there."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def json(self) -> bytes:
        """Return `body()` as UTF-8 JSON on one line."""
        return json.dumps(self.body(), ensure_ascii=False, separators=(",", ":")).encode()

    def response_headers(self) -> dict[str, str]:
        """Return the headers that tell SDKs whether and when to retry."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            seconds = min(max(self.retry_after, 0.001), self.longest_retry_after)
            headers["retry-after"] = str(math.ceil(seconds))  # never before the time
            headers["retry-after-ms"] = str(math.ceil(seconds * 1000))
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers

    def to_wire(self, **more: Any) -> bytes:
        """Return the error as data for a failed event: JSON with status, error object, and retry advice.

        `more` are members that `from_wire` leaves out.
        """
        wire = {**self.body(), "status": self.status, **more}
        if self.retry_after is not None:
            wire["retry_after"] = self.retry_after
        if self.should_retry is not None:
            wire["should_retry"] = self.should_retry
        return json.dumps(wire, ensure_ascii=False, separators=(",", ":")).encode()


class ToldError(AqueductError):
    """An error that was told over the queue, rebuilt of its data."""

    def __init__(self, message: str, *, status: int, type: str, code: str | None, **more: Any) -> None:
        super().__init__(message, **more)
        self.status, self.type, self.code = status, type, code


def from_wire(data: bytes) -> ToldError:
    """Rebuild the error that `to_wire` wrote."""
    wire = json.loads(data)
    error = wire["error"]
    return ToldError(
        error["message"],
        status=wire["status"],
        type=error["type"],
        code=error["code"],
        param=error["param"],
        retry_after=wire.get("retry_after"),
        should_retry=wire.get("should_retry"),
    )


class RequestError(AqueductError):
    """The caller's to mend: nothing was queued."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None
    default_message = "The request is invalid."


class InvalidRequest(RequestError):
    """400: malformed JSON, a missing field, a wrong type, a value out of range."""


class Unauthenticated(RequestError):
    """401: no token, or one that is malformed, unknown, revoked or expired."""

    status = 401
    default_message = (
        "You didn't provide an API key. Send it in an Authorization header: Authorization: Bearer YOUR_KEY."
    )


class PermissionDenied(RequestError):
    """403: a valid token that may not do this."""

    status = 403
    type = "permission_denied_error"
    code = "insufficient_permissions"
    default_message = "This token may not do that."


class UnknownModel(RequestError):
    """404: the model does not exist or the token may not use it; one message for both."""

    status = 404
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        shown = model if len(model) <= 128 else model[:128] + "…"
        super().__init__(f"The model `{shown}` does not exist or you do not have access to it.", param="model")


class UnknownUrl(RequestError):
    """404: no such path."""

    status = 404
    code = "unknown_url"


class NotFound(RequestError):
    """404: a stored object that does not exist or belongs to another."""

    status = 404
    code = "not_found"


class MethodNotAllowed(RequestError):
    """405, with the `allow` header."""

    status = 405
    code = "method_not_allowed"


class Conflict(RequestError):
    """409: what is asked for does not go with the state of the stored object."""

    status = 409


class RequestTooLarge(RequestError):
    """413: the body is over the limit; the rest of it is not read."""

    status = 413
    code = "request_too_large"


class StorageLimit(RequestTooLarge):
    """413: the token's files would take more than it may store."""

    code = "storage_limit_exceeded"


class UnsupportedMediaType(RequestError):
    """415: the body is not JSON."""

    status = 415
    code = "unsupported_media_type"
    default_message = "Send the request body as JSON with the header Content-Type: application/json."


class Unprocessable(RequestError):
    """422: well-formed but contradictory."""

    status = 422


class HeadersTooLarge(RequestError):
    """431: the request's headers are over the limit."""

    status = 431
    code = "headers_too_large"
    default_message = "The request headers are too large. Keep them together under 64 KiB."


class RateLimited(RequestError):
    """429: the token's own limit; honest Retry-After."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    longest_retry_after = MAX_RETRY_AFTER_SECONDS * 2
    """The place is promised for then: who comes sooner comes for nothing. openai-python waits so long."""


class InsufficientQuota(RequestError):
    """429: a budget is spent, and waiting helps only when it begins anew."""

    status = 429
    type = "insufficient_quota"
    code = "token_spend_limit_exceeded"


class CapacityError(AqueductError):
    """Ours, for now: a later retry may succeed."""

    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"
    default_message = "The service is temporarily unavailable. Retry shortly."


class QueueFull(CapacityError):
    """429: the model's waiting room, or the tenant's share of it, is full."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class ResourceUnavailable(CapacityError):
    """429: no slot is free for a request that asked for `flex`, which is never queued."""

    status = 429
    type = "rate_limit_error"
    code = "resource_unavailable"


class NoWorker(CapacityError):
    """503: no live worker serves the model."""

    code = "no_worker"


class ModelRetired(CapacityError):
    """503: an operator has retired the model."""

    code = "model_retired"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model `{model}` was retired by its operator and takes no new requests. Use another model.",
            should_retry=False,
        )


class Draining(CapacityError):
    """503: this process is shutting down."""

    code = "draining"
    default_message = "This server is shutting down. Retry: another one will answer."


class BrokerUnavailable(CapacityError):
    """503: Redis is away, frozen, loading or full."""

    code = "server_is_overloaded"
    default_message = "The queue is temporarily unavailable. Retry shortly."


class BackendError(AqueductError):
    """The backend's failure, told without its address."""

    code: str | None = "backend_error"
    default_message = "The model's backend failed."
    said: object = None
    """What the backend said, as it came, if that was inside of an answer. Never shown, and never leaves the worker."""


class BackendUnreachable(BackendError):
    """503: refused, reset before the first byte, DNS or TLS failure."""

    status = 503
    type = "service_unavailable_error"
    code = "backend_unavailable"
    default_message = "The model's backend cannot be reached. Retry shortly."


class BackendTimeout(BackendError):
    """504: no first token, a stall, or the run's time limit."""

    status = 504
    type = "timeout_error"
    code = "backend_timeout"
    default_message = "The model's backend took too long."


class BadBackendResponse(BackendError):
    """500: the backend answered nonsense, or its stream ended early."""

    code = "bad_backend_response"
    default_message = "The model's backend sent an answer that could not be understood."


class SchemaBreach(BackendError):
    """500: an answer that does not fit its request's schema, where the operator has it checked."""

    code = "structured_output_mismatch"
    where = ""
    """The choice, the JSON path and what is wrong there; no word of the answer."""

    @classmethod
    def at(cls, choice: int, path: str, what: str, said: str) -> SchemaBreach:
        """Return the breach of one choice; `said` is its text, for a backend that is asked again."""
        where = f"choice {choice}, {path} {what}"
        error = cls(
            f"The model's answer does not fit the schema in 'response_format': {where}. Simplify the schema, or allow "
            "more tokens.",
            should_retry=False,
        )
        error.where, error.said = where, said
        return error


class BackendRefused(BackendError):
    """The backend's own refusal, with its status, type, code and param."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str,
        code: str | None,
        param: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after=retry_after, should_retry=should_retry)
        self.status, self.type, self.code = status, type, code


class JobError(AqueductError):
    """What became of an accepted job."""


class QueueTimeout(JobError):
    """504: waited past its deadline; nothing was sent, so a retry is safe."""

    status = 504
    type = "timeout_error"
    code = "queue_timeout"


class JobLost(JobError):
    """500: the job's worker or its record is gone and it may not run again."""

    code = "job_lost"
    default_message = "The worker that ran this request was lost after part of the answer was sent. Retry."


class JobStopped(JobError):
    """410: an operator ended the job. Not one that SDKs or batches try again."""

    status = 410
    type = "request_cancelled"
    code = "cancelled_by_operator"
    default_message = "The operator of this gateway ended the request. Ask them before you send it again."


class JobCancelled(JobError):
    """499, never sent: the client left."""

    status = 499
    type = "request_cancelled"
    code = "cancelled"
    default_message = "The client closed the connection."
