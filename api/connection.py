"""A client's connection: bytes in, requests to the application, answers out, and each way in which it may end.

    IDLE         nothing of a request is here        → HEAD with its first byte
    HEAD         a part of a head                    → BODY when the head is whole
    BODY         a head, and not yet its whole body  → ANSWERING when the request is whole
    ANSWERING    a request, and not its whole answer → what the client has sent meanwhile: IDLE, HEAD, BODY, ANSWERING
    HALF_CLOSED  as ANSWERING, and the client will send nothing more
    CLOSING      nothing is read any more; what still comes is thrown away

Each leads to CLOSING: IDLE and HEAD after a time, the others with an answer that is the last (`_end`), all with bytes
that are no HTTP or too many (`_refuse`). A client that takes nothing of what was written is cut in any state.

uvicorn parses and writes. What the gateway needs of its inside is touched here, in `api.half_closed`, `api.http_1_0`
and `api.output` only, and its minor version is pinned; the rest of the API knows `api.exchange.Connection`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.alarm import NEVER, Alarm
from api.half_closed import HalfClosed
from api.heads import error_response, head_without_offer
from api.http_1_0 import send_without_chunks
from api.lingering import STEP_SECONDS, Lingering
from api.output import Output, write_whole
from api.reader import Reader
from shared.errors import AqueductError, CapacityError, HeadersTooLarge, InvalidRequest, MethodNotAllowed
from shared.header_fields import FIELD_BYTES
from shared.settings import ApiSettings

log = logging.getLogger("aqueduct.api.connection")

MAX_REFUSED: Final = 64
"""Connections past the limit that hear so; further ones are closed without a word."""
MAX_LINED_UP: Final = 32
"""Requests that wait behind the one that is being answered; a client that sends more has to send the rest again."""


class State(Enum):
    """What a connection waits for; the table is at the head of this module."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWERING = auto()
    HALF_CLOSED = auto()
    CLOSING = auto()


class ClientConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol as a machine of states, each of which has an end in time and in bytes."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: ApiSettings,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._settings = settings
        self._max_header_bytes = settings.max_header_bytes
        self.on_disconnect: Callable[[], None] | None = None
        self._state = State.IDLE
        self._due = NEVER
        """When the state has lasted too long."""
        self._alarm = Alarm(self.loop, self._look)
        self._current: RequestResponseCycle | None = None
        """The request that is being answered; uvicorn's `cycle` is the last one that was parsed."""
        self._may_keep_alive = True
        self._head_has_begun = False
        """The parser is inside a head: that of the next request, if one is being answered."""
        self._header_bytes = 0
        self._unheard_bytes = 0
        """What has come since the parser last told of anything: of a header, a trailer or a chunk's extension."""
        self._half_closed: HalfClosed | None = None
        self._lingering = Lingering(settings.body_bytes_per_second)

    # --- what an exchange sees: `api.exchange.Connection` ---------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the client is still there to take the present answer."""
        return self._current is not None and not self._current.disconnected

    @property
    def body_is_complete(self) -> bool:
        """Whether the whole request is here."""
        return self._current is not None and not self._current.more_body

    def write_whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write a whole answer at once; False: it must be sent in parts, or there is nobody to take it."""
        return self._current is not None and write_whole(self._current, status, headers, body)

    def join_next(self) -> None:
        """Let the head and the first part of an answer go out as one."""
        self._output.join_next()

    def write_part(self, data: bytes) -> bool:
        """Write a part of a chunked body that has begun; False: the reader is slow, or the answer is over."""
        cycle = self._current
        if not data:
            return True  # an empty part would end the body
        if cycle is None or cycle.disconnected or cycle.response_complete or not cycle.chunked_encoding:
            return False
        if self.flow.write_paused:
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    # --- the connection's beginning and end -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; past the limit of connections, tell the client so and close."""
        super().connection_made(transport)
        self._output = Output(transport, self._end)
        self._reader = Reader(transport, self._settings.stalled_reader_seconds)
        excess = len(self.connections) - self._settings.max_connections
        if excess > MAX_REFUSED:
            transport.abort()
        elif excess > 0:
            message = "The gateway has as many open connections as it takes. Retry shortly, on a connection kept open."
            self._refuse(CapacityError(message, code="too_many_connections", retry_after=1))
        else:
            self._limit(self._settings.header_timeout_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still answers."""
        self._leave()
        super().connection_lost(exc)
        self._enter(State.CLOSING)
        self._alarm.stop()
        self._output.close = self.transport.close  # nothing refers to this object any more
        if self.on_disconnect is not None:
            self.on_disconnect()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that only ends its sending side; one that has left looks the same until it is written to."""
        cycle = self._current
        if self._state is not State.ANSWERING or cycle is None:
            return False  # no request waits for its answer
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()  # the rest of it will never come
        last = self.pipeline[0][0] if self.pipeline else cycle
        last.keep_alive = False
        self._enter(State.HALF_CLOSED)
        self._half_closed = HalfClosed(self.transport)
        self._await_answer(self._half_closed.probe(cycle))
        return True

    def shutdown(self) -> None:
        """End with the answer under way."""
        self._may_keep_alive = False
        super().shutdown()

    # --- requests -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what has come; every byte counts against a limit until the parser has told what it is."""
        if self._state is State.CLOSING:
            if not self._lingering.takes(len(data)):
                self.flow.pause_reading()
            return
        self._unheard_bytes += len(data)
        try:
            self._parse(data)
        except MethodNotAllowed as error:
            self._refuse(error)
            return
        except httptools.HttpParserError:
            if self._header_bytes > self._max_header_bytes:
                self._refuse(HeadersTooLarge())
            elif len(self.pipeline) >= MAX_LINED_UP:
                self._end_with_this_answer()
            else:
                self._refuse(InvalidRequest("The request is not valid HTTP/1.1.", code="invalid_http"))
            return
        if self._unheard_bytes > self._max_header_bytes:
            self._refuse(HeadersTooLarge())
        elif self._state is State.HEAD and self._due == NEVER:
            self._limit(self._settings.header_timeout_seconds)

    def _parse(self, data: bytes) -> None:
        """Feed the parser; raises HttpParserError, and MethodNotAllowed for a CONNECT, behind which is no HTTP.

        An offer to upgrade is ignored (RFC 9110, 7.8). The parser takes it for accepted, skips the body and would read
        that as the next request. So the head, whose end it tells, goes once more without the offer into a new parser:
        the old one takes nothing more behind a head that says `close`.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                parser = self.parser
                head = head_without_offer(parser.get_method(), self.url, parser.get_http_version(), self.headers)
                rest = memoryview(rest)[offer.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's first one
            self.parser.feed_data(head)
            self._unheard_bytes = len(rest)

    def on_message_begin(self) -> None:
        """Note the first byte of a request."""
        if len(self.pipeline) >= MAX_LINED_UP:
            raise ValueError("requests come faster than they are answered")  # ends the parse
        self._header_bytes = self._unheard_bytes = 0
        self._head_has_begun = True
        if self._state is State.IDLE:
            self._enter(State.HEAD)
        super().on_message_begin()
        self.scope["extensions"] = {"aqueduct.connection": self}  # type: ignore[dict-item]

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._unheard_bytes = 0
        self._header_bytes += len(url)
        if self._header_bytes > self._max_header_bytes:
            raise HeadersTooLarge  # ends the parse
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer counts as one and is dropped: a proxy in front may not have looked at it."""
        self._unheard_bytes = 0
        self._header_bytes += len(name) + len(value) + FIELD_BYTES
        if self._header_bytes > self._max_header_bytes:
            raise HeadersTooLarge  # ends the parse
        if self._head_has_begun:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application, or line it up behind the one that is being answered."""
        if self.parser.should_upgrade():
            return  # this head comes once more: `_parse`
        self._unheard_bytes = 0
        self._head_has_begun = False
        super().on_headers_complete()
        self.cycle.transport = self._output  # type: ignore[assignment]
        if self.scope["http_version"] == "1.0":
            send_without_chunks(self.cycle)
        # An answer to a request that is not all here is the last one: what follows cannot be told from its rest.
        self._may_keep_alive = self.cycle.keep_alive
        self.cycle.keep_alive = False
        if self._state is State.HEAD:
            self._current = self.cycle
            self._enter(State.BODY)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._unheard_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is whole."""
        if self.parser.should_upgrade():
            return
        self._unheard_bytes = 0
        super().on_message_complete()
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._may_keep_alive
        if self._state is State.BODY:
            self._enter(State.ANSWERING)

    def on_response_complete(self) -> None:
        """Go on with what the client has sent meanwhile (uvicorn's own would set and drop a timer for each answer)."""
        self.server_state.total_requests += 1
        if self._state is State.CLOSING or self.transport.is_closing():
            return
        if self.pipeline:
            self._current, app = self.pipeline.pop()
            if not self.pipeline:
                self.flow.resume_reading()
            if self._state is not State.HALF_CLOSED:
                self._enter(State.BODY if self._current.more_body else State.ANSWERING)
            self._start_asgi_task(self._current, app)
            return
        self.flow.resume_reading()
        if self._head_has_begun:
            self._enter(State.HEAD)
            self._limit(self._settings.header_timeout_seconds)
        else:
            self._enter(State.IDLE)
            self._limit(self._settings.idle_timeout_seconds)

    # --- transitions ----------------------------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        self._state = state
        self._due = NEVER

    def _limit(self, seconds: float) -> None:
        """Let the present state last so long."""
        self._due = self.loop.time() + seconds
        self._set_alarm()

    def _set_alarm(self) -> None:
        self._alarm.set(min(self._due, self._reader.due))

    def _look(self) -> None:
        now = self.loop.time()
        if self._reader.due <= now and self._reader.is_stalled(now):
            self._cut_reader()
        elif self._due <= now:
            self._expire()
        self._set_alarm()

    def _expire(self) -> None:
        """End a state that has lasted too long."""
        if self._half_closed is not None and self._current is not None and self._state is State.HALF_CLOSED:
            self._await_answer(self._half_closed.look(self._current))
        elif self._state is State.CLOSING and self._lingering.goes_on(self.loop.time()):
            self._limit(STEP_SECONDS)
        else:
            self._close()

    def _await_answer(self, seconds: float | None) -> None:
        """Let the answer to a half-closed client go on until the next look; None: the client has left."""
        if seconds is None:
            self._leave()
            self.transport.abort()
        else:
            self._limit(seconds)

    def _refuse(self, error: AqueductError) -> None:
        """End a connection whose bytes cannot be read on, with an error where one can still be told."""
        log.info("refused a connection's bytes: %s", error.code, extra={"client": (self.client or "?")[0]})
        cycle = self._current
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started:
                self.transport.abort()  # anything else would be taken for a part of that answer
                return
            if self._state is not State.BODY:
                self._end_with_this_answer()  # the request before them was whole
                return
            self._leave()
        self.transport.write(error_response(error))
        self._linger()

    def _end_with_this_answer(self) -> None:
        """Take nothing more; whatever was lined up has to be sent again on another connection (RFC 9112, 9.3.2)."""
        if self._current is not None:
            self._current.keep_alive = False
        self.pipeline.clear()
        self._enter(State.CLOSING)

    def _leave(self) -> None:
        """Tell the present request's application that there is nobody to answer."""
        cycle = self._current
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _end(self) -> None:
        """End the connection with the answer that has just been written."""
        if self._state in (State.BODY, State.CLOSING):
            self._linger()
        else:
            self._close()

    def _linger(self) -> None:
        """Say that no more is coming, and throw away what the client still sends until it has read so."""
        self._enter(State.CLOSING)
        self.flow.resume_reading()
        if not self.transport.is_closing():
            self.transport.write_eof()
        self._lingering.begin(self.loop.time())
        self._limit(STEP_SECONDS)

    def _close(self) -> None:
        """Close once all is taken that was written."""
        self._enter(State.CLOSING)
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch_reader()

    # --- readers that do not read ---------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Begin to watch a reader who is slower than the answer."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Watch no more, but for one whose connection ends only when it has taken everything."""
        super().resume_writing()
        if self._state is not State.CLOSING:
            self._reader.leave()

    def _watch_reader(self) -> None:
        self._reader.watch(self.loop.time())
        self._set_alarm()

    def _cut_reader(self) -> None:
        log.info("a client took nothing of its answer and is cut", extra={"client": (self.client or "?")[0]})
        self._reader.leave()
        self._leave()
        self.transport.abort()
