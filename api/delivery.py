"""A job's events in, one HTTP answer out: as server-sent events while they come, or whole at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from api.exchange import Exchange
from api.relay import Relay
from api.standing import TELL_SECONDS, UNSURE_SECONDS, Waiting
from api.stored.cursor import Cursor, glued
from shared import events
from shared.errors import AqueductError, QueueTimeout, from_wire
from shared.kinds.kind import Kind
from shared.settings import ApiSettings

SSE_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
SSE_TYPE = b"text/event-stream; charset=utf-8"
_KEEP_ALIVE = b": keep-alive\n\n"


class Delivery:
    """The answer to one request, on its way out."""

    def __init__(
        self, kind: Kind, settings: ApiSettings, exchange: Exchange, relay: Relay, cursor: Cursor | None = None
    ) -> None:
        """Take what numbers the events, where they can be read on later."""
        self._kind = kind
        self._cursor = cursor
        self._settings = settings
        self._exchange = exchange
        self._relay = relay
        self.queue_ms: int | None = None
        """How long the job waited, once it is known that its turn has come."""
        self.tokens: int | None = None
        """What the answer has cost, once the backend has said so."""

    async def whole(self) -> None:
        """Wait for the job's end and send it as one response; raises ClientGone, or the job's error."""
        parts: list[bytes] = []
        while True:
            for event in await self._relay.next(None):
                if event[0] == events.FAILED:
                    raise self._failure(event)
                if event[0] == events.PART:
                    parts.append(event[1:])
                elif event[0] == events.ATTEMPTS:
                    self._note_attempts(event)
                elif event[0] == events.COMPLETED:
                    done = events.read_completed(event)
                    self._note(done)
                    body = b"".join([*parts, done.body]) if parts else done.body
                    if self._exchange.record.debug is not None:
                        self._exchange.record.debug.add(body)
                    await self._exchange.answer(200, body, _times(done.queue_ms, done.run_ms))
                    return

    async def stream(self, read_timeout_seconds: float | None, waiting: Waiting | None) -> None:
        """Send events as they come; until the first one the status is still open, and an error raised.

        The headers are held for the first event, so that an early failure keeps its status; but whoever waits for a
        slot is told so within a second.
        """
        exchange, relay = self._exchange, self._relay
        third = read_timeout_seconds / 3 if read_timeout_seconds else 1e9
        silence = min(self._settings.keep_alive_seconds, third)
        hold = min(self._settings.hold_headers_seconds, third)
        clock = asyncio.get_running_loop().time
        held_until = clock() + hold
        timeout = silence if exchange.started else hold if waiting is None else min(hold, TELL_SECONDS)
        while not relay.is_over:
            try:
                ready = await relay.next(timeout)
            except AqueductError as cut:  # the grace of a shutdown is over
                if not exchange.started:
                    raise
                exchange.record.error_code = cut.code
                await exchange.write(self._kind.error_event(cut), more=False)
                return
            if not ready and waiting is not None and not exchange.started and (left := held_until - clock()) > 0:
                unsure = waiting.is_unsure(clock())
                if unsure or not waiting.waits:
                    soon = UNSURE_SECONDS if unsure else TELL_SECONDS if waiting.look_again() else left
                    timeout = min(left, soon)
                    continue
            timeout = silence
            out = self._events(ready) if ready else self._comment(waiting, clock())
            if not exchange.started:
                headers = [*SSE_HEADERS, *_times(self.queue_ms, None)]
                await exchange.start(200, SSE_TYPE, headers, is_joined=bool(out))
            if out or relay.is_over:
                await exchange.write(out, more=not relay.is_over)
            if exchange.record.debug is not None:  # all of it passes here then
                exchange.record.debug.add(out)
                continue
            write = exchange.direct_writer()
            relay.pass_on_to(write if self._cursor is None else self._cursor.writer(write))

    def _comment(self, waiting: Waiting | None, now: float) -> bytes:
        # With its own blank line it is harmless to every client, as long as no event carries an id.
        comment = waiting.comment(now) if waiting is not None else _KEEP_ALIVE
        if waiting is not None:
            if waiting.waits and waiting.held:
                self._exchange.record.held = waiting.held  # it began, perhaps, and found no backend
            waiting.look_again()
        return comment if self._cursor is None else glued(comment)

    def _events(self, ready: Sequence[bytes]) -> bytes:
        """Return what the client gets of these events; raises a failure that nothing was sent before."""
        out: list[bytes] = []
        for event in ready:
            kind = event[0]
            if kind == events.CHUNKS:
                out.append(event[1:] if self._cursor is None else self._cursor.numbered(event[1:]))
            elif kind == events.STARTED:
                self._note_start(event)
            elif kind == events.COMPLETED:  # the stream's own end came as a chunk
                self._note(events.read_completed(event))
            elif kind == events.ATTEMPTS:
                self._note_attempts(event)
            elif kind == events.FAILED:
                error = self._failure(event)
                if not self._exchange.started and not out:
                    raise error
                self._exchange.record.error_code = error.code
                out.append(self._kind.error_event(error))
        return b"".join(out)

    # --- what the log is told -------------------------------------------------------------------------------------

    def _note_start(self, event: bytes) -> None:
        """The first token is here."""
        record = self._exchange.record
        self.queue_ms = record.queue_ms = int(event[1:])
        record.first_ms = record.elapsed_ms()

    def _note_attempts(self, event: bytes) -> None:
        record = self._exchange.record
        record.attempts, record.place = events.read_attempts(event)

    def _note(self, done: events.Completed) -> None:
        record = self._exchange.record
        self.queue_ms = record.queue_ms = done.queue_ms
        record.run_ms = done.run_ms
        record.attempts = record.attempts or 1
        if done.prompt_tokens >= 0:  # else the backend did not say
            self.tokens = done.prompt_tokens + done.completion_tokens
            record.prompt_tokens, record.completion_tokens = done.prompt_tokens, done.completion_tokens

    def _failure(self, event: bytes) -> AqueductError:
        error, ran = from_wire(event[1:]), events.read_ran(event)
        record = self._exchange.record
        if ran is not None:
            record.queue_ms, record.run_ms, record.attempts = ran.queue_ms, ran.run_ms, ran.attempts
            record.place = ran.backend
        elif error.code == QueueTimeout.code:
            record.queue_ms = record.elapsed_ms()
        return error


def _times(queue_ms: int | None, run_ms: int | None) -> list[tuple[bytes, bytes]]:
    headers = []
    if queue_ms is not None:  # of a stream whose headers went while it still waited it is not known
        headers.append((b"x-aqueduct-queue-ms", b"%d" % queue_ms))
    if run_ms is not None:
        headers.append((b"x-aqueduct-run-ms", b"%d" % run_ms))
    return headers
