"""Server-sent events of a backend's stream in, cut anywhere; events for our client out. No I/O.

The bytes pass through: `id`, `created` and `model` are replaced in place (`swaps.py`), and only chunks that may
hold more than text are parsed: the first ones, and those with usage, an error, or a finish reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.errors import AqueductError, BadBackendResponse
from shared.jobs import JobSpec, Usage
from shared.kinds.chat.swaps import Swaps, learn
from shared.kinds.common.answers import dumps, loads, public_finish_reason, read_usage
from shared.kinds.common.backend_errors import error_in_answer, is_error
from shared.kinds.common.sse import DONE_EVENT, END, EventBuffer, payloads

MAX_HELD_EVENTS = 64
"""So many chunks are held while choice 0 has not begun, or while all of them are empty."""
_FREE_LESSONS = 4
_LESSON_INTERVAL = 16
_CHUNK = "chat.completion.chunk"
_ENVELOPE = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier", "obfuscation"}
)


@dataclass(slots=True)
class _Chunk:
    """A parsed chunk; `is_changed` says that its bytes no longer tell its content."""

    payload: bytes
    value: dict[str, Any]
    is_changed: bool

    @property
    def choices(self) -> list[Any]:
        choices: list[Any] = self.value["choices"]
        return choices

    @property
    def has_content(self) -> bool:
        return any(_has_content(choice) for choice in self.choices)


class StreamTransformer:
    """Rewrites one backend stream for one client.

    Nothing is returned before the first content, tool call, refusal, reasoning or finish reason; then all that was
    held comes out in front of it, choice 0 first. A failure found behind good events of the same read is raised by
    the next call, so that what is returned does not depend on how the network cut the stream.
    """

    def __init__(self, *, job_id: str, public_model: str, include_usage: bool, created: int) -> None:
        """Take what the chunks must say.

        Args:
            job_id: The chunks' id is `chatcmpl-<job_id>`.
            public_model: The name that the client knows.
            include_usage: Whether the client asked for the usage chunk.
            created: Unix seconds, used where the backend gives none; its own first value wins.
        """
        self.usage: Usage | None = None
        self.finish_reasons: dict[int, str] = {}
        self.done = False
        """Nothing more is to be read: the backend said `[DONE]`, or a failure waits; call `finish`."""
        self.has_content = False
        """Whether any byte was ever returned."""
        self._identity: dict[str, Any] = {"id": f"chatcmpl-{job_id}", "created": created, "model": public_model}
        self._include_usage = include_usage
        self._buffer = EventBuffer()
        self._swaps: Swaps | None = None
        self._lessons = 0
        self._misses = 0
        self._is_created_fixed = False
        self._is_open = False
        self._held: list[_Chunk] = []
        self._indexes: set[int] = set()
        self._usage_chunk: dict[str, Any] | None = None
        self._failure: AqueductError | None = None

    def feed(self, data: bytes) -> bytes:
        """Return the complete events in `data`, ready for the client; empty when there are none yet.

        Raises:
            BadBackendResponse: No JSON, no UTF-8, an event too long, or an aborted answer.
            BackendError: What the backend reported inside the stream.
        """
        if self._failure is not None:
            raise self._failure
        if self.done:
            return b""
        try:
            block = self._buffer.feed(data)
        except AqueductError as error:
            self._fail(error)
            raise
        if not block:
            return b""
        if self._swaps is not None and self._is_open:
            changed = self._swaps.apply(block)
            if changed is not None:
                return changed
        return self._events(block)

    def finish(self) -> bytes:
        """Return the last bytes once the backend's stream has ended, `[DONE]` included, whether it said so or not.

        Raises:
            BadBackendResponse: The stream ended early: inside an event, without a finish reason, or empty.
            BackendError: What the backend reported last.
        """
        out = b""
        rest = self._buffer.rest()
        if rest.strip() and self._failure is None and not self.done:
            out = self._last_event(rest)
        if self._failure is not None:
            raise self._failure
        self._check_end()
        return out + (b"" if self.done else self._end()) + DONE_EVENT

    def _last_event(self, rest: bytes) -> bytes:
        """Read an event whose blank line never came; one that was cut counts as none."""
        if rest.lstrip().startswith(b"{"):  # an answer that is no stream; often an error with status 200
            value = loads(rest)
            if isinstance(value, dict) and is_error(value):
                raise error_in_answer(value)
            raise BadBackendResponse("The model's backend did not answer with an event stream.")
        try:
            return self._events(rest)
        except BadBackendResponse:
            self._failure, self.done = None, False
            return b""

    def _check_end(self) -> None:
        if self.done and (self._is_open or self._has_held_content()):
            return
        if not self._indexes or not self._indexes <= self.finish_reasons.keys():
            raise self._ended_early()

    @staticmethod
    def _ended_early() -> BadBackendResponse:
        return BadBackendResponse("The model's backend ended its stream before the answer was complete.")

    def _fail(self, error: AqueductError) -> None:
        self._failure, self.done = error, True

    def _events(self, block: bytes) -> bytes:
        """Take a block that is not plain throughout."""
        out: list[bytes] = []
        try:
            self._take([event for event in block.split(b"\n\n") if event], out)
        except AqueductError as error:
            self._fail(error)
            if not any(out):
                raise
        joined = b"".join(out)
        self.has_content = self.has_content or bool(joined)
        return joined

    def _take(self, events: list[bytes], out: list[bytes]) -> None:
        """Take events in order; a few that must be parsed spoil a block, whose plain runs are still changed whole."""
        while events and not self.done:
            count = self._plain_run(events)
            run = self._swaps.apply(b"\n\n".join(events[:count]) + b"\n\n") if count and self._swaps else None
            if run is not None:
                out.append(run)
            elif count > 1:
                count //= 2
                self._take(events[:count], out)
            else:
                count = 1
                self._take_one(events[0], out)
            events = events[count:]

    def _plain_run(self, events: list[bytes]) -> int:
        """Return how many events to try together: those that look plain, or half of them where looks do not tell."""
        if not self._is_open or self._swaps is None:
            return 0
        template = self._swaps.template
        return (template is not None and template.count(events)) or len(events) // 2

    def _take_one(self, event: bytes, out: list[bytes]) -> None:
        for payload, is_error_event in payloads(event):
            if payload == END:
                out.append(self._end())
                self.done = True
                return
            out.append(self._event(payload, is_error_event=is_error_event))

    def _event(self, payload: bytes, *, is_error_event: bool) -> bytes:
        if self._is_open and self._swaps is not None and not is_error_event:
            changed = self._swaps.apply(b"data: %b\n\n" % payload)
            if changed is not None:
                return changed
        chunk = self._parse(payload, is_error_event=is_error_event)
        if chunk is None:
            return b""
        return self._encode(chunk) if self._is_open else self._hold(chunk)

    def _parse(self, payload: bytes, *, is_error_event: bool) -> _Chunk | None:
        """Parse one event and note what it says; None when nothing of it is for the client."""
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise BadBackendResponse("The model's backend sent text that is not UTF-8.") from None
        if is_error_event:
            raise error_in_answer(payload)
        value = loads(payload)
        if not isinstance(value, dict):
            return None
        if is_error(value):
            raise error_in_answer(value)
        chunk = _Chunk(payload, value, is_changed=b"\n" in payload or value.get("object") != _CHUNK)
        has_choices = isinstance(value.get("choices"), list) and bool(value["choices"])
        self._note_usage(chunk, has_choices=has_choices)
        chunk.value["object"] = _CHUNK
        if not has_choices:
            return chunk if _is_extra(value) else None
        self._note_created(value)
        for choice in chunk.choices:
            if not isinstance(choice, dict):
                raise BadBackendResponse("The model's backend sent a choice that is no JSON object.")
            self._note_choice(chunk, choice)
        return chunk

    def _note_usage(self, chunk: _Chunk, *, has_choices: bool) -> None:
        value = chunk.value
        if "usage" not in value:
            return
        usage = read_usage(value["usage"])
        if usage is not None:
            self.usage = usage
            kept = value if not has_choices else {key: value[key] for key in value if key in _ENVELOPE}
            self._usage_chunk = {**kept, "object": _CHUNK, "choices": []}
        if self._include_usage:
            chunk.is_changed = chunk.is_changed or value["usage"] is not None
            chunk.value = {**value, "usage": None}
        else:
            chunk.is_changed = chunk.is_changed or usage is not None
            chunk.value = {key: value[key] for key in value if key != "usage"}

    def _note_created(self, value: dict[str, Any]) -> None:
        if not self._is_created_fixed:
            created = value.get("created")
            if isinstance(created, int) and not isinstance(created, bool) and created > 0:
                self._identity["created"] = created
            self._is_created_fixed = True

    def _note_choice(self, chunk: _Chunk, choice: dict[str, Any]) -> None:
        index = choice.get("index")
        if not isinstance(index, int):
            index = choice["index"] = 0
            chunk.is_changed = True
        self._indexes.add(index)
        given = choice.get("finish_reason")
        reason = public_finish_reason(given)
        if reason != given:
            choice["finish_reason"] = reason
            chunk.is_changed = True
        if reason is not None:
            self.finish_reasons[index] = reason

    def _hold(self, chunk: _Chunk) -> bytes:
        """Keep a chunk until there is content and choice 0 has begun."""
        if len(self._held) < MAX_HELD_EVENTS or chunk.has_content:
            self._held.append(chunk)
        if not self._has_held_content() or (0 not in self._indexes and len(self._held) < MAX_HELD_EVENTS):
            return b""
        return self._release()

    def _has_held_content(self) -> bool:
        return any(chunk.has_content for chunk in reversed(self._held))

    def _release(self) -> bytes:
        """Return all held chunks; the SDK's helper breaks unless choice 0 is the first it meets."""
        held, self._held, self._is_open = self._held, [], True
        with_choices = [chunk for chunk in held if chunk.choices]
        first = next((chunk for chunk in with_choices if _lowest_index(chunk) == 0), None)
        if first is not None and first is not with_choices[0]:
            held = [first, *(chunk for chunk in held if chunk is not first)]
        if first is not None and first.choices[0].get("index") != 0:
            first.choices.sort(key=lambda choice: int(choice.get("index", 0)))
            first.is_changed = True
        return b"".join(self._encode(chunk) for chunk in held)

    def _encode(self, chunk: _Chunk) -> bytes:
        if not chunk.is_changed:
            changed = self._swap(chunk)
            if changed is not None:
                return b"data: %b\n\n" % changed
        return b"data: %b\n\n" % dumps({**self._identity, **chunk.value, **self._identity})

    def _swap(self, chunk: _Chunk) -> bytes | None:
        """Change a parsed chunk in its bytes, learning how where that is not known yet."""
        changed = self._swaps.apply_parsed(chunk.payload) if self._swaps is not None else None
        if changed is not None or not _is_plain(chunk):
            return changed
        # Some backends change `created` each second, so lessons go on; others change each chunk, so they are rationed.
        self._misses += 1
        if self._misses > _FREE_LESSONS and self._misses % _LESSON_INTERVAL:
            return None
        self._lessons += 1
        value = {**chunk.value, "usage": None} if b'"usage"' in chunk.payload else chunk.value
        self._swaps = learn(
            chunk.payload,
            value,
            self._identity,
            join=self._lessons % 2 == 1,
            keep_null_usage=self._include_usage,
        )
        return self._swaps.apply_parsed(chunk.payload) if self._swaps is not None else None

    def _end(self) -> bytes:
        """Return what is still held, and the usage chunk where the client asked for it."""
        out = self._release() if not self._is_open and self._has_held_content() else b""
        if self._include_usage and self._usage_chunk is not None and self._is_open:
            out += b"data: %b\n\n" % dumps({**self._identity, **self._usage_chunk, **self._identity})
            self._usage_chunk = None
        self.has_content = self.has_content or bool(out)
        return out


def open_stream(spec: JobSpec, job_id: str) -> StreamTransformer:
    """Return a transformer for a job."""
    return StreamTransformer(
        job_id=job_id,
        public_model=spec.public_model,
        include_usage=spec.options.get("include_usage", False),
        created=spec.created,
    )


def _has_content(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    if choice.get("finish_reason") is not None:
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(delta[key] for key in delta if key != "role")


def _is_extra(value: dict[str, Any]) -> bool:
    """Tell whether an event without choices is a chunk with something else to say, such as moderation results."""
    if value.get("choices") != [] or value.get("usage") is not None:
        return False
    return any(value[key] is not None for key in value.keys() - _ENVELOPE)


def _is_plain(chunk: _Chunk) -> bool:
    """Tell whether a chunk is such as most will be: choice 0 alone, unfinished."""
    choice = chunk.choices[0] if len(chunk.choices) == 1 else None
    return isinstance(choice, dict) and choice.get("index") == 0 and choice.get("finish_reason") is None


def _lowest_index(chunk: _Chunk) -> int:
    return min((choice.get("index", 0) for choice in chunk.choices if isinstance(choice, dict)), default=0)
