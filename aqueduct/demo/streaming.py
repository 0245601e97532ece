"""An answer in, the events of its stream out, at the pace and with the faults that the options ask for."""

from __future__ import annotations

import asyncio
import json
import time

from aqueduct.demo.content import Answer, compact_json, text_logprobs
from aqueduct.demo.faults import GARBAGE, error_body
from aqueduct.demo.options import Options
from aqueduct.demo.request import ChatRequest
from aqueduct.demo.writer import Writer

_TURN_EVENTS = 32
"""An unpaced stream lets others run after so many tokens."""
_GARBAGE_AFTER = 2


class EventFormat:
    """Makes the events of one stream; what they share is made once."""

    def __init__(self, answer_id: str, request: ChatRequest, options: Options) -> None:
        self._options = options
        self._created = int(time.time())
        self._id = compact_json(answer_id)
        self._rest = b',"model":' + compact_json(request.model)
        if request.seeded:
            self._rest += b',"system_fingerprint":"fp_demo"'
        self._rest += b',"choices":['
        self._tail = b'],"usage":null}' if options.usage_null and request.include_usage else b"]}"
        self._no_finish = b"" if options.drop_finish_null else b',"finish_reason":null'
        self._touched = options.spaces or options.crlf or options.comments
        self._head = self._make_head()

    def _make_head(self) -> bytes:
        return b'{"id":%b,"object":"chat.completion.chunk","created":%d%b' % (self._id, self._created, self._rest)

    def delta(self, index: int, delta: bytes, logprobs: bytes = b"null") -> bytes:
        """Return the event of one token."""
        choice = b'{"index":%d,"delta":%b,"logprobs":%b%b}' % (index, delta, logprobs, self._no_finish)
        return self._event(self._head + choice + self._tail)

    def finish(self, index: int, reason: str, usage: bytes | None) -> bytes:
        """Return the event with the finish reason, and usage if it comes along."""
        choice = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":%b}' % (index, compact_json(reason))
        tail = self._tail if usage is None else b'],"usage":' + usage + b"}"
        return self._event(self._head + choice + tail)

    def usage(self, usage: bytes) -> bytes:
        """Return the event with the usage and no choice."""
        return self._event(self._head + b'],"usage":' + usage + b"}")

    def raw(self, data: bytes) -> bytes:
        """Return an event with data that is not a chunk."""
        event = b"data: " + data + b"\n\n"
        return event.replace(b"\n", b"\r\n") if self._options.crlf else event

    def _event(self, chunk: bytes) -> bytes:
        if self._options.created_varies:
            self._created += 1
            self._head = self._make_head()
        if not self._touched:
            return b"data: " + chunk + b"\n\n"
        if self._options.spaces:
            # surrogateescape carries deliberately broken UTF-8 through
            value = json.loads(chunk.decode(errors="surrogateescape"))
            chunk = json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")
        comment = b": ping\n\n" if self._options.comments else b""
        event = comment + b"data: " + chunk + b"\n\n"
        return event.replace(b"\n", b"\r\n") if self._options.crlf else event


class TextFormat(EventFormat):
    """The events of a stream of `/completions`: the same words without the deltas around them."""

    def _make_head(self) -> bytes:
        return b'{"id":%b,"object":"text_completion","created":%d%b' % (self._id, self._created, self._rest)

    def delta(self, index: int, delta: bytes, logprobs: bytes = b"null") -> bytes:
        """Return the event of one token."""
        text = delta[11:-1] if delta.startswith(b'{"content":') else b'""'
        if logprobs != b"null":
            logprobs = compact_json(text_logprobs(json.loads(logprobs)["content"]))
        choice = b'{"index":%d,"text":%b,"logprobs":%b%b}' % (index, text, logprobs, self._no_finish)
        return self._event(self._head + choice + self._tail)

    def finish(self, index: int, reason: str, usage: bytes | None) -> bytes:
        """Return the event with the finish reason, and usage if it comes along."""
        choice = b'{"index":%d,"text":"","logprobs":null,"finish_reason":%b}' % (index, compact_json(reason))
        tail = self._tail if usage is None else b'],"usage":' + usage + b"}"
        return self._event(self._head + choice + tail)


class EventWriter:
    """Collects events into writes of `batch` events."""

    def __init__(self, exchange: Writer) -> None:
        self._exchange = exchange
        self._size = exchange.options.batch
        self._waiting: list[bytes] = []

    async def put(self, event: bytes) -> None:
        """Write the event, or keep it until its batch is full."""
        if self._size == 1:
            await self._exchange.write(event)
            return
        self._waiting.append(event)
        if len(self._waiting) >= self._size:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            await self._exchange.write(data)


async def stream_answer(
    exchange: Writer, request: ChatRequest, answer: Answer, words: type[EventFormat] = EventFormat
) -> None:
    """Stream the answer; return early if the client leaves or a fault ends the stream."""
    options, connection = exchange.options, exchange.connection
    events, writer = words(exchange.record.id, request, options), EventWriter(exchange)
    await exchange.start(200, b"text/event-stream; charset=utf-8", [(b"cache-control", b"no-cache")])
    if await connection.wait(options.first_token_seconds):
        return
    for index in range(request.n):
        await writer.put(events.delta(index, answer.opening))
    if not await _stream_tokens(exchange, events, writer, request.n, answer):
        return
    usage = compact_json(answer.usage) if request.include_usage and not options.no_usage else None
    for index in range(request.n):
        joined = usage if options.usage_with_choice and index == request.n - 1 else None
        await writer.put(events.finish(index, answer.finish, joined))
    if usage is not None and not options.usage_with_choice:
        await writer.put(events.usage(usage))
    if not options.no_done:
        await writer.put(events.raw(b"[DONE]"))
    await writer.flush()
    if not connection.lost:
        await exchange.end()


async def _stream_tokens(exchange: Writer, events: EventFormat, writer: EventWriter, n: int, answer: Answer) -> bool:
    """Stream the tokens of all choices in turn. False if the stream is over before its end."""
    options, connection, record, logprobs = exchange.options, exchange.connection, exchange.record, answer.logprobs
    loop = asyncio.get_running_loop()
    due, pace, faulty = loop.time(), options.token_seconds, _has_fault_point(options)
    for position, delta in enumerate(answer.deltas):
        if pace and position:
            due += pace
            await connection.wait(due - loop.time())
        elif position % _TURN_EVENTS == _TURN_EVENTS - 1:
            await asyncio.sleep(0)
        if connection.lost:
            return False
        for index in range(n):
            if faulty and await _fault(exchange, events, writer):
                return False
            await writer.put(events.delta(index, delta, logprobs[position] if logprobs else b"null"))
            record.chunks_sent += 1
    return not ((faulty and await _fault(exchange, events, writer)) or connection.lost)


def _has_fault_point(options: Options) -> bool:
    points = (options.error_after, options.cut_after, options.eof_after, options.stall_after)
    return options.garbage or any(point is not None for point in points)


async def _fault(exchange: Writer, events: EventFormat, writer: EventWriter) -> bool:
    """Do what goes wrong after this many chunks. True if that ends the stream."""
    options, connection, sent = exchange.options, exchange.connection, exchange.record.chunks_sent
    if options.garbage and sent == _GARBAGE_AFTER:
        await writer.put(events.raw(GARBAGE))
    if sent not in (options.error_after, options.cut_after, options.eof_after, options.stall_after):
        return False
    await writer.flush()
    if sent == options.stall_after:
        await connection.wait(None)
    elif sent == options.cut_after:
        connection.cut()
    elif sent == options.error_after:
        await exchange.write(events.raw(error_body(options, options.status or 500)[0]))
        await exchange.end()
    else:
        await exchange.end()
    return True
