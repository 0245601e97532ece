"""`POST /chat/completions`: a request in; its job's events out, as SSE or as one body.

The straight line: authenticate, read, validate (each refusal before anything is queued); listen; admit; relay until the
job's last event or the client's leaving, whichever is first; cancel what was not finished.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from api.bodies import Bodies
from api.dispatch import Canceller, Dispatcher
from api.exchange import ClientGone, Exchange, Receive, Scope, Send
from api.relay import Relay, RelayHub
from api.retries import LINGER_SECONDS, OpenRequests, idempotency
from api.tokens import TokenTable
from api.validation import ChatRequest, parse_body, validate
from shared import events
from shared.errors import AqueductError, BrokerUnavailable, Draining, UnknownModel, from_wire
from shared.room import Admission
from shared.settings import ApiSettings, TokenSettings

log = logging.getLogger("aqueduct.api.chat")

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
        self._bodies = Bodies(settings)
        self._tokens = tokens
        self._dispatcher = dispatcher
        self._relays = relays
        self._canceller = canceller
        self._open = OpenRequests()
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
        raw = await self._bodies.read(exchange)
        read_timeout = _read_timeout(exchange)
        request, job = await self._bodies.parse(raw, lambda body: self._prepare(exchange, body, token))
        exchange.scope["state"].update(model=job.model, tenant=token.name, stream=request.stream)

        older = self._open.older(exchange, token, raw, read_timeout)
        relay = self._relays.open(older.id if older is not None else job.id)
        key = self._open.add(token, raw, relay)
        del raw
        # From here on the client may leave at any moment.
        stop_watching = exchange.watch(relay.hang_up)
        try:
            if older is not None:
                self._take_over(older, relay)
                ahead = 0
            else:
                ahead = await self._admit(exchange, relay, job)
            del job
            if request.stream:
                await self._stream(exchange, relay, read_timeout, ahead)
            else:
                await self._whole(exchange, relay)
        finally:
            stop_watching()
            self._open.remove(key, relay)
            self._relays.close(relay)
            if relay.may_run and not relay.ended and not relay.replaced:
                self._abandon(relay.id, LINGER_SECONDS if exchange.header(b"idempotency-key") is not None else 0)

    async def _admit(self, exchange: Exchange, relay: Relay, job: Admission) -> int:
        """Have the job accepted, or join the one that its Idempotency-Key stands for; returns how many are ahead."""
        try:
            relay.may_run = True
            admitted = await self._dispatcher.admit(job)
        except BrokerUnavailable:
            raise  # Redis may still run it
        except AqueductError:
            relay.may_run = False
            raise
        exchange.add_headers(admitted.headers())
        if admitted.job_id != job.id:
            self._relays.join(relay, admitted.job_id)
        relay.admitted = True
        return admitted.ahead

    def _take_over(self, older: Relay, relay: Relay) -> None:
        """Answer a retry with the job of the request it repeats, whose own connection is let go."""
        older.replaced = True
        older.hang_up()
        relay.may_run = True
        self._relays.join(relay, older.id)

    def _abandon(self, job_id: str, after_seconds: float) -> None:
        """Cancel a job that nobody listens to: nothing may run for nobody."""

        def cancel_unless_heard() -> None:
            if not self._relays.is_heard(job_id):
                self._canceller.cancel(job_id)

        if after_seconds:
            asyncio.get_running_loop().call_later(after_seconds, cancel_unless_heard)
        else:
            cancel_unless_heard()

    def _prepare(self, exchange: Exchange, raw: bytes, token: TokenSettings) -> tuple[ChatRequest, Admission]:
        request = validate(parse_body(raw))
        name = self._dispatcher.model_name(request.model)
        if not self._tokens.allows(token, name):
            raise UnknownModel(request.model)
        job = self._dispatcher.prepare(
            request,
            token,
            job_id=exchange.scope["state"]["job_id"],
            read_timeout_seconds=_read_timeout(exchange),
            idempotency=idempotency(exchange, token, raw),
        )
        return request, job

    @staticmethod
    def _left(exchange: Exchange, relay: Relay) -> Exception:
        """Return how a request ends whose client has left, or whose retry has taken its job over."""
        if relay.replaced and not exchange.started:
            return AqueductError("A retry of this request has taken it over.", code="superseded", should_retry=False)
        return ClientGone()

    async def _whole(self, exchange: Exchange, relay: Relay) -> None:
        """Wait for the job's end and send it as one response."""
        while True:
            ready = await relay.next(None)
            if relay.client_gone:
                raise self._left(exchange, relay)
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
            try:
                ready = await relay.next(timeout)
            except AqueductError as cut:  # the grace of a shutdown is over
                if not exchange.started:
                    raise
                exchange.scope["state"]["error_code"] = cut.code
                await exchange.write(_error_event(cut), more=False)
                return
            if relay.client_gone:
                raise self._left(exchange, relay)
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
                    out.append(_error_event(error))
            if not ready:
                # A comment with its own blank line is harmless to every client, as no event ever carries an id.
                out.append(b": keep-alive\n\n" if exchange.started or not ahead else b": queued, %d ahead\n\n" % ahead)
            if not exchange.started:
                await exchange.start(200, _SSE_TYPE, [*_SSE_HEADERS, *_times(queue_ms, None)])
            if out:
                await exchange.write(b"".join(out), more=not relay.ended)
            if relay.ended:
                return
            relay.pass_on_to(exchange.direct_writer())


def _error_event(error: AqueductError) -> bytes:
    """Return the end of a stream that has failed."""
    return b"data: " + error.json() + b"\n\n" + _DONE


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
