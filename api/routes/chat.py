"""`POST /chat/completions`: a request in; its job's events out, as SSE or as one body.

The straight line: authenticate, read, validate (each refusal before anything is queued); listen; admit; relay until the
job's last event or the client's leaving, whichever is first; cancel what was not finished.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from api.dispatch import Canceller, Dispatcher
from api.exchange import ClientGone, Exchange, Receive, Scope, Send
from api.relay import Relay, RelayHub
from api.tokens import TokenTable
from api.validation import ChatRequest, parse_body, validate
from shared import events
from shared.errors import AqueductError, Draining, UnknownModel, from_wire
from shared.room import Admission
from shared.settings import ApiSettings, TokenSettings

log = logging.getLogger("aqueduct.api.chat")

PARSE_IN_THREAD_BYTES = 512 * 1024
"""Larger bodies are parsed off the event loop: 10 MB take tens of milliseconds."""

_SSE_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
_SSE_TYPE = b"text/event-stream; charset=utf-8"
_DONE = b"data: [DONE]\n\n"


class ChatCompletions:
    """The endpoint, as an ASGI application."""

    def __init__(
        self,
        *,
        settings: ApiSettings,
        tokens: TokenTable,
        dispatcher: Dispatcher,
        relays: RelayHub,
        canceller: Canceller,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._dispatcher = dispatcher
        self._relays = relays
        self._canceller = canceller
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        try:
            await self._answer(exchange)
        except ClientGone:
            scope["state"]["status"] = 499
        except AqueductError as error:
            scope["state"]["error_code"] = error.code
            await exchange.fail(error)

    async def _answer(self, exchange: Exchange) -> None:
        token = self._tokens.authenticate(exchange.header(b"authorization"))
        if self.draining:
            raise Draining(retry_after=1)
        exchange.require_json()
        raw = await exchange.body(
            max_bytes=self._settings.max_body_bytes, timeout_seconds=self._settings.body_timeout_seconds
        )
        read_timeout = _read_timeout(exchange)
        job_id: str = exchange.scope["state"]["job_id"]
        if len(raw) > PARSE_IN_THREAD_BYTES:
            request, job = await asyncio.to_thread(self._prepare, raw, token, job_id, read_timeout)
        else:
            request, job = self._prepare(raw, token, job_id, read_timeout)
        del raw
        exchange.scope["state"].update(model=job.model, tenant=token.name, stream=request.stream)

        relay = self._relays.open(job.id)
        # From here on the client may leave at any moment; the watcher is the only one who notices.
        watcher = asyncio.ensure_future(exchange.disconnect(relay.hang_up))
        try:
            admitted = await self._dispatcher.admit(job)
            del job
            relay.admitted = True
            exchange.add_headers(admitted.headers())
            if request.stream:
                await self._stream(exchange, relay, read_timeout, admitted.ahead)
            else:
                await self._whole(exchange, relay)
        finally:
            watcher.cancel()
            self._relays.close(relay)
            if not relay.ended:
                # Left, timed out, or refused in a way that may still have admitted it: nothing may run for nobody.
                self._canceller.cancel(relay.id)

    def _prepare(
        self, raw: bytes, token: TokenSettings, job_id: str, read_timeout: float | None
    ) -> tuple[ChatRequest, Admission]:
        request = validate(parse_body(raw))
        name = self._dispatcher.model_name(request.model)
        if not self._tokens.allows(token, name):
            raise UnknownModel(request.model)
        return request, self._dispatcher.prepare(request, token, job_id, read_timeout)

    async def _whole(self, exchange: Exchange, relay: Relay) -> None:
        """Wait for the job's end and send it as one response."""
        while True:
            ready = await relay.next(None)
            if relay.client_gone:
                raise ClientGone
            for event in ready:
                if event[0] == events.FAILED:
                    raise from_wire(event[1:])
                if event[0] == events.COMPLETED:
                    done = events.read_completed(event)
                    _note(exchange, done)
                    await exchange.answer(200, done.body, _times(done.queue_ms, done.run_ms))
                    return

    async def _stream(self, exchange: Exchange, relay: Relay, read_timeout: float | None, ahead: int) -> None:
        """Send events as they come; until the first one the status is still open."""
        third = read_timeout / 3 if read_timeout else 1e9
        hold = min(self._settings.hold_headers_seconds, third)
        silence = min(self._settings.keep_alive_seconds, third)
        timeout = hold
        queue_ms = 0
        while True:
            ready = await relay.next(timeout)
            if relay.client_gone:
                raise ClientGone
            timeout = silence
            out: list[bytes] = []
            for event in ready:
                kind = event[0]
                if kind == events.CHUNKS:
                    out.append(event[1:])
                elif kind == events.STARTED:
                    queue_ms = int(event[1:])
                elif kind == events.COMPLETED:
                    _note(exchange, events.read_completed(event))
                    out.append(_DONE)
                elif kind == events.FAILED:
                    error = from_wire(event[1:])
                    if not exchange.started and not out:
                        raise error
                    exchange.scope["state"]["error_code"] = error.code
                    out.append(b"data: " + error.json() + b"\n\n" + _DONE)
            if not ready:
                # A comment with its own blank line is harmless to every client, as no event ever carries an id.
                out.append(b": keep-alive\n\n" if exchange.started or not ahead else b": queued, %d ahead\n\n" % ahead)
            if not exchange.started:
                await exchange.start(200, _SSE_TYPE, [*_SSE_HEADERS, *_times(queue_ms, None)])
            if out:
                await exchange.write(b"".join(out), more=not relay.ended)
            if relay.ended:
                return


def _times(queue_ms: int, run_ms: int | None) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-aqueduct-queue-ms", b"%d" % queue_ms)]
    if run_ms is not None:
        headers.append((b"x-aqueduct-run-ms", b"%d" % run_ms))
    return headers


def _note(exchange: Exchange, done: events.Completed) -> None:
    exchange.scope["state"].update(queue_ms=done.queue_ms, run_ms=done.run_ms, completion_tokens=done.completion_tokens)


def _read_timeout(exchange: Exchange) -> float | None:
    """Return the client's own read timeout in seconds, which the OpenAI SDK tells in a header."""
    value = exchange.header(b"x-stainless-read-timeout")
    if value is None:
        return None
    with suppress(ValueError):
        seconds = float(value)
        if 0 < seconds < 1e7:
            return seconds
    return None
