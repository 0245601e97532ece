"""The demo backend as a bare ASGI app: OpenAI-compatible requests in, deterministic answers out."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aqueduct.demo.content import INVALID_BYTES, INVALID_MARK, Answer, compact_json, make_answer, text_logprobs
from aqueduct.demo.embeddings import embeddings_body
from aqueduct.demo.faults import GARBAGE, error_body, error_type
from aqueduct.demo.options import PRESETS, InvalidOption, Options, parse_model
from aqueduct.demo.presence import Presence, Receive, presence_of
from aqueduct.demo.request import BadRequest, ChatRequest, behaviour_of, read_completion, read_embeddings, read_request
from aqueduct.demo.state import Record, State
from aqueduct.demo.streaming import EventFormat, TextFormat, stream_answer
from aqueduct.demo.writer import Send, Writer

Scope = dict[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("aqueduct.demo")

_ID = b"@id@"
"""Stands in a plain answer until its record has an id."""
_CREATED = 1_700_000_000
_MODELS = {
    "object": "list",
    "data": [{"id": name, "object": "model", "created": _CREATED, "owned_by": "aqueduct"} for name in PRESETS],
}


def create_app(record: bool = False) -> App:
    """Return an app with its own counters; with `record` it keeps every request for `GET /debug/requests`."""
    state = State(record=record)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http" and scope["path"] in _ENDPOINTS and scope["method"] == "POST":
            await _complete(state, scope, receive, send)
        elif scope["type"] == "http":
            await _serve_other(state, scope, send)

    return app


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _serve_other(state: State, scope: Scope, send: Send) -> None:
    """Answer everything but what models do."""
    path, method = scope["path"], scope["method"]
    if path == "/debug/requests" and not state.record:
        await _send_error(send, 404, "Requests are kept only when the server was started with --record.")
        return
    pages: dict[str, Callable[[], Any]] = {
        "/v1/models": lambda: _MODELS,
        "/v1/health": lambda: {"status": "ok"},
        "/debug/state": state.counters,
        "/debug/requests": state.recorded,
    }
    if method == "DELETE" and path == "/debug/requests":
        state.clear()
        await _send_json(send, 200, state.counters())
    elif path not in pages and path not in _ENDPOINTS:
        await _send_error(send, 404, f"Unknown path {path!r}.")
    elif path in _ENDPOINTS or method != "GET":
        await _send_error(send, 405, f"Method {method} is not allowed for {path}.")
    else:
        await _send_json(send, 200, pages[path]())


async def _complete(state: State, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request to a model: check, count, answer."""
    endpoint = _ENDPOINTS[scope["path"]]
    raw = await _read_body(receive)
    if raw is None:
        return
    try:
        body = json.loads(raw)
        request = endpoint.read(body)
        options = parse_model(behaviour_of(body, request.model))
        answer = make_answer(request, options)
        plain = b"" if request.stream else endpoint.plain(body, request, answer, options)
    except InvalidOption as error:
        await _send_error(send, 400, str(error), "model")
        return
    except BadRequest as error:
        await _send_error(send, 400, str(error), error.param)
        return
    except ValueError:
        await _send_error(send, 400, "We could not parse the JSON body of your request.")
        return
    record = Record(state.next_id(), request.model, body, _headers(scope) if state.record else {}, time.time())
    exchange = Writer(send, presence_of(scope, receive), _options_now(state, request, options), record)
    state.begin(record)
    try:
        await _answer(state, exchange, request, answer, plain, scope)
    except ConnectionAbortedError:
        raise
    except Exception:
        logger.exception("the demo backend failed to answer")
        raise
    finally:
        exchange.connection.done()
        state.end(record)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body; None if the client left before its end."""
    message = await receive()
    parts = [message.get("body", b"")]
    while message.get("more_body", False):
        message = await receive()
        parts.append(message.get("body", b""))
    return None if message["type"] == "http.disconnect" else b"".join(parts)


def _options_now(state: State, request: ChatRequest, options: Options) -> Options:
    """Take the faults out once they have come `fail_times`."""
    if options.fail_times is None:
        return options
    key = (request.model, request.user)
    state.failures[key] += 1
    return options if state.failures[key] <= options.fail_times else options.without_faults()


async def _answer(
    state: State, exchange: Writer, request: ChatRequest, answer: Answer, plain: bytes, scope: Scope
) -> None:
    options, connection, record = exchange.options, exchange.connection, exchange.record
    connection.count_as_open(state.open_connections)
    connection.on_lost = lambda: state.client_left(record)
    if connection.lost or not await _has_answer(exchange, connection):
        return
    if options.redirect and scope["query_string"] != b"redirected=1":
        location = (b"location", scope["path"].encode() + b"?redirected=1")
        await exchange.reply(307, b"text/plain", b"", [location])
    elif options.error_in_200 or (options.status is not None and options.error_after is None):
        await _answer_error(exchange, options)
    elif request.stream:
        await stream_answer(exchange, request, answer, _ENDPOINTS[scope["path"]].words)
    else:
        await _answer_plain(exchange, answer, plain)


async def _has_answer(exchange: Writer, connection: Presence) -> bool:
    """Stall or cut where not even headers are to come."""
    if exchange.options.stall:
        await connection.wait(None)
        return False
    if exchange.options.cut_before:
        connection.cut()
        return False
    return True


async def _answer_error(exchange: Writer, options: Options) -> None:
    if await exchange.connection.wait(options.answer_seconds or 0):
        return
    body, content_type = error_body(options, options.status or 500)
    headers = []
    if options.retry_after is not None:
        headers.append((b"retry-after", options.retry_after.encode("latin-1", "replace")))
    await exchange.reply(200 if options.error_in_200 else options.status or 500, content_type, body, headers)


async def _answer_plain(exchange: Writer, answer: Answer, plain: bytes) -> None:
    options, connection = exchange.options, exchange.connection
    seconds = options.answer_seconds
    if seconds is None:
        seconds = options.first_token_seconds + options.token_seconds * len(answer.deltas)
    if await connection.wait(seconds):
        return
    body = GARBAGE if options.garbage else plain.replace(_ID, exchange.record.id.encode())
    if options.cut_after is None and options.stall_after is None:
        await exchange.reply(200, b"application/json", body)
        return
    await exchange.start(200, b"application/json", [(b"content-length", b"%d" % len(body))])
    await exchange.write(body[: len(body) // 2])
    if options.stall_after is not None:
        await connection.wait(None)
    else:
        connection.cut()


def _chat_body(body: dict[str, Any], request: ChatRequest, answer: Answer, options: Options) -> bytes:
    choice = {"message": answer.message, "logprobs": answer.all_logprobs, "finish_reason": answer.finish}
    return _whole("chat.completion", choice, request, answer, options)


def _text_body(body: dict[str, Any], request: ChatRequest, answer: Answer, options: Options) -> bytes:
    logprobs = text_logprobs(answer.all_logprobs["content"]) if answer.all_logprobs else None
    choice = {"text": answer.message["content"] or "", "logprobs": logprobs, "finish_reason": answer.finish}
    return _whole("text_completion", choice, request, answer, options)


def _whole(kind: str, choice: dict[str, Any], request: ChatRequest, answer: Answer, options: Options) -> bytes:
    whole: dict[str, Any] = {"id": _ID.decode(), "object": kind, "created": int(time.time()), "model": request.model}
    if request.seeded:
        whole["system_fingerprint"] = "fp_demo"
    whole["choices"] = [{"index": index, **choice} for index in range(request.n)]
    if not options.no_usage:
        whole["usage"] = answer.usage
    body = json.dumps(whole, ensure_ascii=False).encode() if options.spaces else compact_json(whole)
    return body.replace(INVALID_MARK.encode(), INVALID_BYTES) if options.invalid_utf8 else body


def _vectors_body(body: dict[str, Any], request: ChatRequest, answer: Answer, options: Options) -> bytes:
    return embeddings_body(body, options)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one path reads, and how it words its answers."""

    read: Callable[[Any], ChatRequest]
    plain: Callable[[dict[str, Any], ChatRequest, Answer, Options], bytes]
    words: type[EventFormat] = EventFormat


_ENDPOINTS = {
    "/v1/chat/completions": Endpoint(read_request, _chat_body),
    "/v1/completions": Endpoint(read_completion, _text_body, TextFormat),
    "/v1/embeddings": Endpoint(read_embeddings, _vectors_body),
}


async def _send_json(send: Send, status: int, value: Any) -> None:
    body = compact_json(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_error(send: Send, status: int, message: str, param: str | None = None) -> None:
    error = {"message": message, "type": error_type(status), "param": param, "code": None}
    await _send_json(send, status, {"error": error})
