"""A job's events in, one HTTP answer out: as server-sent events while they come, or whole at the end."""

from __future__ import annotations

from collections.abc import Sequence

from api.exchange import Exchange
from api.relay import Relay
from api.stored.cursor import Cursor, comment
from shared import events
from shared.errors import AqueductError, from_wire
from shared.kinds.kind import Kind
from shared.settings import ApiSettings

SSE_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
SSE_TYPE = b"text/event-stream; charset=utf-8"


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
        self._queue_ms = 0

    async def whole(self) -> None:
        """Wait for the job's end and send it as one response; raises ClientGone, or the job's error."""
        parts: list[bytes] = []
        while True:
            for event in await self._relay.next(None):
                if event[0] == events.FAILED:
                    raise from_wire(event[1:])
                if event[0] == events.PART:
                    parts.append(event[1:])
                elif event[0] == events.COMPLETED:
                    done = events.read_completed(event)
                    self._note(done)
                    body = b"".join([*parts, done.body]) if parts else done.body
                    await self._exchange.answer(200, body, _times(done.queue_ms, done.run_ms))
                    return

    async def stream(self, read_timeout_seconds: float | None, ahead: int) -> None:
        """Send events as they come; until the first one the status is still open, and an error raised."""
        exchange, relay = self._exchange, self._relay
        third = read_timeout_seconds / 3 if read_timeout_seconds else 1e9
        silence = min(self._settings.keep_alive_seconds, third)
        timeout = min(self._settings.hold_headers_seconds, third)
        while not relay.is_over:
            try:
                ready = await relay.next(timeout)
            except AqueductError as cut:  # the grace of a shutdown is over
                if not exchange.started:
                    raise
                exchange.scope["state"]["error_code"] = cut.code
                await exchange.write(self._kind.error_event(cut), more=False)
                return
            timeout = silence
            out = self._events(ready) if ready else self._comment(0 if exchange.started else ahead)
            if not exchange.started:
                await exchange.start(200, SSE_TYPE, [*SSE_HEADERS, *_times(self._queue_ms, None)])
            if out or relay.is_over:
                await exchange.write(out, more=not relay.is_over)
            write = exchange.direct_writer()
            relay.pass_on_to(write if self._cursor is None else self._cursor.writer(write))

    def _comment(self, ahead: int) -> bytes:
        text = b"queued, %d ahead" % ahead if ahead else b"keep-alive"
        # With its own blank line it is harmless to every client, as long as no event carries an id.
        return b": %b\n\n" % text if self._cursor is None else comment(text)

    def _events(self, ready: Sequence[bytes]) -> bytes:
        """Return what the client gets of these events; raises a failure that nothing was sent before."""
        out: list[bytes] = []
        for event in ready:
            kind = event[0]
            if kind == events.CHUNKS:
                out.append(event[1:] if self._cursor is None else self._cursor.numbered(event[1:]))
            elif kind == events.STARTED:
                self._queue_ms = int(event[1:])
            elif kind == events.COMPLETED:  # the stream's own end came as a chunk
                self._note(events.read_completed(event))
            elif kind == events.FAILED:
                error = from_wire(event[1:])
                if not self._exchange.started and not out:
                    raise error
                self._exchange.scope["state"]["error_code"] = error.code
                out.append(self._kind.error_event(error))
        return b"".join(out)

    def _note(self, done: events.Completed) -> None:
        self._exchange.scope["state"].update(
            queue_ms=done.queue_ms, run_ms=done.run_ms, completion_tokens=done.completion_tokens
        )


def _times(queue_ms: int, run_ms: int | None) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-aqueduct-queue-ms", b"%d" % queue_ms)]
    if run_ms is not None:
        headers.append((b"x-aqueduct-run-ms", b"%d" % run_ms))
    return headers
