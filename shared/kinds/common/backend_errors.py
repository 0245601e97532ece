"""Any error that a backend tells, in any server's shape, in; one error of our tree out. No I/O.

What reaches the client is the backend's message (redacted and cut), its string code and its Retry-After; what the
operator got wrong (keys, routes, model names) is a 500 that says so, since the client cannot mend it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeGuard

from shared.errors import (
    AqueductError,
    BackendError,
    BackendRefused,
    BackendTimeout,
    BackendUnreachable,
    BadBackendResponse,
)
from shared.kinds.common.secrets import NO_SECRETS, Secrets

MAX_MESSAGE_CHARS = 2_000
_MAX_READ_CHARS = 8_000
"""Patterns run over no more than this."""
_MAX_SEARCHED_CHARS = 64 * 1024
"""Keys are looked for in this much, so that none stands across the end of what is shown."""

_CREDENTIALS = frozenset({401, 402, 403, 407})
_CONFIGURATION = frozenset({404, 405, 410})
_TIMEOUT = frozenset({408, 504, 524})
_UNREACHABLE = frozenset({502, 503, 520, 521, 522, 523, 529})
_KEPT = frozenset({400, 413, 422})

_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|max_model_len|maximum model length|maximum input length|too many tokens"
    r"|prompt is too long|input is too long|exceed_context",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    r"""
      \bbearer\s+[^\s"',]+
    | \b(?:sk|pk|rk)-[^\s"',;)]+
    | \b(?:hf|gsk|xai|key|api|nvapi|glpat|ghp)[-_][A-Za-z0-9_\-]{12,}
    | \bapi[-_]?key["']?\s*[=:]\s*["']?[^\s"',;)]+
    | \bAIza[\w-]{20,}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ADDRESSES = re.compile(
    r"""
      \b[a-z][a-z0-9+.\-]{0,20}://[^\s"'<>)]+
    | \bhost=\s*["']?[^\s"',;)]+
    | \[[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*\](?::\d{1,5})?
    | \b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d{1,5})?
    | \b[a-z][a-z0-9_.\-]{0,252}:\d{2,5}\b
    | \b[a-z0-9\-]+(?:\.[a-z0-9\-]+){0,20}\.(?:internal|local|lan|corp|svc|intranet)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ECHOED_INPUT = re.compile(r"""input_value=.*?(?=,\s*input_type=|$)|['"]input['"]\s*:.*""", re.DOTALL)
"""Validation libraries quote what they were given, which is the prompt."""

_CONTROLS = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What could forge a line of a log or command a terminal."""

_PUBLIC_TYPE = re.compile(r"(?!error\Z)[a-z][a-z0-9_]{0,63}")
_PUBLIC_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

MAX_PARAM_CHARS = 256
MAX_MESSAGES = 8
"""Texts of one failure, where its server tells several."""
MAX_DEPTH = 5
_INNER = ("error", "message", "detail", "errors", "base_resp")
"""Members whose object tells more of a failure."""
_TEXTS = (
    "message", "msg", "error", "errors", "detail", "details", "error_msg", "error_message", "errorMessage",
    "error_description", "status_msg", "base_resp", "Message", "description", "reason", "title",
)  # fmt: skip
"""Members that hold a failure's text, the likeliest first."""

_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""Codes and types of a 429 that no waiting mends."""
_PROMPTS = frozenset({"messages", "prompt", "input", "inputs", "input_tokens", "contents"})
"""What a backend may call the prompt in `param`."""
_LIMIT_TOO_LARGE = re.compile(
    r"\bmax(?:_new|_completion|_output)?_tokens\b['\"`]?.{0,60}?(?:too large|must be (?:less|at most|smaller))",
    re.IGNORECASE | re.DOTALL,
)
"""The answer's limit is meant, though the text goes on to name the context's length."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What a backend told about its failure."""

    message: str | None = None
    type: str | None = None
    code: str | None = None
    number: int | None = None
    param: str | None = None


def backend_error(
    payload: object, status: int, retry_after: float | None = None, secrets: Secrets = NO_SECRETS
) -> AqueductError:
    """Return the error for a backend's HTTP answer that is not 2xx.

    Args:
        payload: The answer's body: bytes, text, or parsed JSON.
        status: The answer's HTTP status.
        retry_after: Seconds, from the answer's Retry-After header.
        secrets: What the answer may hold and nobody may see.
    """
    told = _read(payload, secrets)
    if status < 400 or status > 599:
        return BadBackendResponse(f"The model's backend answered with the unexpected status {status}.")
    if status in _CREDENTIALS:
        return _operator_error("The model's backend refused the gateway's credentials; tell the operator.")
    if status in _CONFIGURATION:
        return _operator_error(
            "The model's backend does not know the model or the route that the gateway asked for; tell the operator."
        )
    if status in _TIMEOUT:
        return BackendTimeout(told.message, code=told.code, retry_after=retry_after)
    if status in _UNREACHABLE:
        return BackendUnreachable(told.message, code=told.code, retry_after=retry_after)
    if status == 429:
        return _rate_limited(told, retry_after)
    if status < 500:
        return _invalid_request(told, status, retry_after)
    return BackendRefused(
        told.message or "The model's backend failed. Retry; if it persists, tell the operator.",
        status=500,
        type="server_error",
        code=told.code or "backend_error",
        param=told.param,
        retry_after=retry_after,
    )


def error_in_answer(payload: object) -> AqueductError:
    """Return the error for an error object inside a 200 answer or its stream.

    Its status is 500 unless the object has a number from 400 to 599 as its code.
    """
    error = backend_error(payload, _read(payload, NO_SECRETS).number or 500)
    if isinstance(error, BackendError):
        error.said = payload
    return error


def without_secrets(error: AqueductError, secrets: Secrets) -> AqueductError:
    """Return the error anew, without what nobody may see of the answer that it was read from.

    Who reads answers knows no keys, and once patterns have gone over a text its keys may be there in parts.
    """
    if not isinstance(error, BackendError) or error.said is None:
        return error
    return backend_error(error.said, _read(error.said, secrets).number or 500, secrets=secrets)


def is_error(payload: dict[str, Any]) -> bool:
    """Tell whether a JSON object inside a 200 answer or its stream is an error in one of the known shapes."""
    if payload.get("object") == "error":
        return True
    if "error" not in payload:
        return payload.get("choices") is None and "data" not in payload and _tells_failure(payload)
    error = payload["error"]
    return bool(error) or (error is not None and not isinstance(payload.get("choices"), list))


def _tells_failure(payload: dict[str, Any]) -> bool:
    """Tell whether an object that is no answer says why: ERNIE's `error_msg`, DashScope's code beside a message.

    MiniMax says of each answer how it went; there a number other than 0 is a failure.
    """
    if any(payload.get(name) for name in ("error_msg", "error_message", "error_code", "errors", "detail")):
        return True
    went = payload.get("base_resp")
    if isinstance(went, dict) and went.get("status_code"):
        return True
    return bool(payload.get("code")) and isinstance(payload.get("message") or payload.get("msg"), str)


def redact(message: str) -> str:
    """Return the message without addresses, keys and echoed input, at most 2,000 characters."""
    text = message[:_MAX_READ_CHARS].encode("utf-8", "replace").decode()  # half a surrogate pair could not be sent
    text = _CONTROLS.sub(" ", _ECHOED_INPUT.sub("[redacted]", text))
    text = _ADDRESSES.sub("[redacted]", _SECRETS.sub("[redacted]", text)).strip()
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


def _rate_limited(told: _Told, retry_after: float | None) -> AqueductError:
    is_spent = told.code in _SPENT or told.type in _SPENT
    return BackendRefused(
        told.message or "The model's backend is over its rate limit. Retry later.",
        status=429,
        type=told.type or "rate_limit_error",
        code=told.code or ("insufficient_quota" if is_spent else "rate_limit_exceeded"),
        param=told.param,
        retry_after=None if is_spent else retry_after,
        should_retry=False if is_spent else None,
    )


def _invalid_request(told: _Told, status: int, retry_after: float | None) -> AqueductError:
    code, param = told.code, told.param
    if _is_prompt_too_long(told):
        code, param = "context_length_exceeded", param or "messages"
    elif param is None and (limit := _LIMIT_TOO_LARGE.search(told.message or "")):
        param = limit.group().partition("tokens")[0].lower() + "tokens"
    return BackendRefused(
        told.message or "The model's backend refused the request as invalid.",
        status=status if status in _KEPT else 400,
        type="invalid_request_error" if code == "context_length_exceeded" else told.type or "invalid_request_error",
        code=code,
        param=param,
        retry_after=retry_after,
    )


def _is_prompt_too_long(told: _Told) -> bool:
    """Tell whether a shorter prompt is what helps; agents shorten their history again and again on that word."""
    if told.param is not None and re.split(r"[.\[]", told.param, maxsplit=1)[0] not in _PROMPTS:
        return False
    if told.param is None and _LIMIT_TOO_LARGE.search(told.message or ""):
        return False
    return _TOO_LONG.search(" ".join(filter(None, (told.message, told.type, told.code)))) is not None


def _operator_error(message: str) -> AqueductError:
    return BackendRefused(message, status=500, type="server_error", code="backend_error")


def _read(payload: object, secrets: Secrets) -> _Told:
    """Return what a failure says of itself: its innermost object wins, what that leaves out is taken from around it."""
    if isinstance(payload, (bytes, bytearray)):
        payload = _decode(bytes(payload))
    if isinstance(payload, list) and payload and isinstance(payload[0], dict):
        payload = payload[0]
    told: dict[str, Any] = {}
    for holder in _holders(payload):
        told.update({name: holder[name] for name in ("code", "type", "param") if holder.get(name) is not None})
    code, number = told.get("code"), None
    is_number = isinstance(code, int | float) and not isinstance(code, bool)
    if is_number or (isinstance(code, str) and code.isdecimal()):
        number, code = _status(code), None
    param, kind = told.get("param"), told.get("type")
    return _Told(
        message=_text("; ".join(islice(_messages(payload), MAX_MESSAGES)), secrets),
        # A class name such as vLLM's BadRequestError is no OpenAI type.
        type=kind if _is_word(kind, _PUBLIC_TYPE, secrets) else None,
        code=code if _is_word(code, _PUBLIC_CODE, secrets) else None,
        number=number,
        param=_text((param if isinstance(param, str) else _place(payload))[:MAX_PARAM_CHARS], secrets),
    )


def _decode(body: bytes) -> object:
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # JSON that was cut may end within an echo of the prompt, which no pattern then finds.
        return None if text.lstrip()[:1] in ("{", "[") else text


def _holders(payload: object) -> Iterator[dict[str, Any]]:
    """Yield the object that tells of a failure, and those inside of it that tell more, the outermost first."""
    for _ in range(MAX_DEPTH):
        if isinstance(payload, list) and payload:
            payload = payload[0]
        if not isinstance(payload, dict):
            return
        yield payload
        payload = next((payload[name] for name in _INNER if isinstance(payload.get(name), dict | list)), None)


def _messages(payload: object, depth: int = 0) -> Iterator[str]:
    """Yield the texts of a failure, wherever its server puts them; never a member that may quote the request."""
    if depth > MAX_DEPTH:
        return
    if isinstance(payload, str):
        if payload.strip():
            yield payload
    elif isinstance(payload, list):
        for item in payload[:MAX_MESSAGES]:
            yield from _messages(item, depth + 1)
    elif isinstance(payload, dict):
        place = _place_of(payload)
        for name in _TEXTS:
            found = list(islice(_messages(payload.get(name), depth + 1), MAX_MESSAGES))
            if found:
                yield from (f"{place}: {text}" for text in found) if place else found
                return


def _place(payload: object) -> str:
    """Return the first place that a validation library names, as FastAPI's `loc`; empty for none."""
    return next((place for holder in _holders(payload) if (place := _place_of(holder))), "")


def _place_of(item: dict[str, Any]) -> str:
    places = item.get("loc")
    return ".".join(str(part) for part in places if part != "body") if isinstance(places, list) else ""


def _is_word(value: object, pattern: re.Pattern[str], secrets: Secrets) -> TypeGuard[str]:
    """Tell whether a type or code may be passed on: what forges lines of a log or quotes a key is none."""
    return (
        isinstance(value, str)
        and pattern.fullmatch(value) is not None
        and secrets.hide(value) == value
        and redact(value) == value
    )


def _status(code: Any) -> int | None:
    try:
        number = int(code)
    except (ValueError, OverflowError):
        return None
    return number if 400 <= number <= 599 else None


def _text(message: str, secrets: Secrets) -> str | None:
    """Return a message fit to be shown; None for none, and for a proxy's HTML page."""
    if message.lstrip().startswith("<"):
        return None
    return redact(secrets.hide(message[:_MAX_SEARCHED_CHARS])) or None
