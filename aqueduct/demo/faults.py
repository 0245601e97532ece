"""Errors in the shapes that real servers give them: OpenAI, llama.cpp, older vLLM, a proxy's HTML page, nothing."""

from __future__ import annotations

from typing import Any

from aqueduct.demo.content import compact_json
from aqueduct.demo.options import Options

GARBAGE = b"<<< this is no JSON >>>"

_TYPES = {
    401: "authentication_error",
    403: "permission_denied_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


def error_type(status: int) -> str:
    """Return the `type` of an OpenAI error with this status."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def error_body(options: Options, status: int) -> tuple[bytes, bytes]:
    """Return the error that the options describe, as body and content type."""
    kind = error_type(status)
    match options.error_shape:
        case "html":
            page = f"<html><head><title>{status}</title></head><body><h1>{status} {options.message}</h1></body></html>"
            return page.encode(), b"text/html"
        case "empty":
            return b"", b"text/plain"
        case "llamacpp":
            shown: dict[str, Any] = {"error": {"code": status, "message": options.message, "type": kind}}
        case "vllm_old":
            old = {"message": options.message, "type": "BadRequestError", "param": None, "code": status}
            shown = {"object": "error", **old}
        case _:
            shown = {"error": {"message": options.message, "type": kind, "param": None, "code": options.code}}
    return compact_json(shown), b"application/json"
