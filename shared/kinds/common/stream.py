"""Server-sent events of a backend's stream in, cut anywhere; events for our client out. No I/O.

Every chunk is parsed, mended and written anew (`docs/adr/0008-plain-parsing-of-chunks.md`): its values stay, the
spelling of its JSON may change.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from shared.errors import BadBackendResponse
from shared.jobs import JobSpec, Usage
from shared.kinds.common.answers import dumps, loads, read_usage
from shared.kinds.common.backend_errors import error_in_answer, is_error
from shared.kinds.common.mend import mend_choice, mend_role, usage_beside, whole_created, whole_usage
from shared.kinds.common.shape import Shape
from shared.kinds.common.sse import DONE_EVENT, END, EventBuffer, payloads, without_end
from shared.kinds.common.tool_calls import WHOLE_ENDS, ToolCalls, calls_of

MAX_HELD_EVENTS = 64
"""So many chunks are held while choice 0 has not begun, or while all of them are empty."""
_ENVELOPE = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier", "obfuscation"}
)

Chunk = dict[str, Any]


class StreamTransformer:
    """Rewrites one backend stream for one client.

    Nothing is returned before the first content, tool call, refusal, reasoning or finish reason; then all that was
    held comes out in front of it, choice 0 first. A failure found behind good events of the same read is raised by
    the next call, so that what is returned does not depend on how the network cut the stream.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        job_id: str,
        public_model: str,
        include_usage: bool,
        created: int,
        continuous_usage: bool = False,
        tier: str | None = None,
    ) -> None:
        """Take what the chunks must say.

        Args:
            shape: The kind's words.
            job_id: The chunks' id is the kind's prefix and this.
            public_model: The name that the client knows.
            include_usage: Whether the client asked for the usage chunk.
            created: Unix seconds, used where the backend gives none; its own first value wins.
            continuous_usage: Whether the client asked for usage in each chunk as well.
            tier: The `service_tier` to name, where the request named any; a backend's own says nothing of our queue.
        """
        self.usage: Usage | None = None
        self.finish_reasons: dict[int, str] = {}
        self.done = False
        """Nothing more is to be read: the backend said `[DONE]`, or a failure waits; call `finish`."""
        self._shape = shape
        self._job_id = job_id
        self._created = created
        self._identity = {"id": shape.id_prefix + job_id, "created": created, "model": public_model}
        if tier is not None:
            self._identity["service_tier"] = tier
        self._include_usage = include_usage
        self._keeps_usage = include_usage and continuous_usage
        self._buffer = EventBuffer()
        self._is_created_fixed = False
        self._is_open = False
        self._held: list[Chunk] = []
        self._has_held_content = False
        self._indexes: set[int] = set()
        self._with_text: set[int] = set()
        self._calls: dict[int, ToolCalls] = {}
        self._usage_chunk: Chunk | None = None
        self._failure: Exception | None = None

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
        except BadBackendResponse as error:
            self._fail(error)
            raise
        return self._events(block) if block else b""

    def finish(self) -> bytes:
        """Return the last bytes once the backend's stream has ended, `[DONE]` included, whether it said so or not.

        Raises:
            BadBackendResponse: The stream ended early: inside an event, without a finish reason, or empty.
            BackendError: What the backend reported last.
        """
        out = b""
        is_document, rest = self._buffer.is_document, self._buffer.rest()
        if is_document and self._failure is None:
            out = self._document(rest)
        elif rest.strip() and self._failure is None and not self.done:
            out = self._last_event(rest)
        if self._failure is not None:
            raise self._failure
        self._check_end()
        return out + (b"" if self.done else self._end()) + DONE_EVENT

    def _document(self, body: bytes) -> bytes:
        """Read a whole answer, which a backend sent though a stream was asked for, as one chunk."""
        chunk = self._chunk(without_end(body))
        if chunk is None or not chunk["choices"]:
            raise BadBackendResponse("The model's backend did not answer with an event stream.")
        out = self._hold(chunk)
        self._with_text.update(self._calls)  # calls of a whole answer are whole
        return out + self._missing_ends()

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
        if not self._indexes or not self._indexes <= self.finish_reasons.keys():
            raise BadBackendResponse("The model's backend ended its stream before the answer was complete.")

    def _fail(self, error: Exception) -> None:
        self._failure, self.done = error, True

    def _events(self, block: bytes) -> bytes:
        out: list[bytes] = []
        try:
            for payload, is_error_event in payloads(block):
                if payload == END:
                    out.append(self._missing_ends() + self._end())
                    self.done = True
                    break
                if is_error_event:
                    raise error_in_answer(payload)
                chunk = self._chunk(payload)
                if chunk is not None:
                    out.append(self._encode(chunk) if self._is_open else self._hold(chunk))
        except Exception as error:
            self._fail(error)
            if not any(out):
                raise
        return b"".join(out)

    def _chunk(self, payload: bytes) -> Chunk | None:
        """Parse one event, note what it says and mend it; None when nothing of it is for the client."""
        chunk = loads(payload)
        if not isinstance(chunk, dict):
            return None
        if is_error(chunk):
            raise error_in_answer(chunk)
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return self._chunk_without_choices(chunk)
        if "usage" in chunk:
            self._note_usage(chunk, is_alone=False)
        chunk["object"] = self._shape.chunk
        if not self._is_created_fixed:
            self._is_created_fixed = True
            self._identity["created"] = whole_created(chunk.get("created"), self._created)
        for choice in choices:
            if not isinstance(choice, dict):
                raise BadBackendResponse("The model's backend sent a choice that is no JSON object.")
            self._note_choice(choice, chunk)
        return chunk

    def _chunk_without_choices(self, chunk: Chunk) -> Chunk | None:
        """Note its usage; what stands beside that, such as llama.cpp's timings, is for the client all the same."""
        is_last = self._include_usage and chunk.get("usage") is not None  # it comes whole, at the end
        if "usage" in chunk:
            self._note_usage(chunk, is_alone=True)
        chunk["object"] = self._shape.chunk
        return chunk if _is_extra(chunk) and not is_last else None

    def _note_usage(self, chunk: Chunk, *, is_alone: bool) -> None:
        """Count usage, take it out of the chunk, and keep it for the end.

        What stands beside it in a chunk of its own goes with it. In the others it stays if the client asked for that.
        """
        usage = read_usage(chunk["usage"])
        if usage is not None:
            self.usage = usage
            kept = {key: chunk[key] for key in chunk if is_alone or key in _ENVELOPE}
            self._usage_chunk = {**kept, "object": self._shape.chunk, "choices": []}
        if self._include_usage:
            if is_alone or not self._keeps_usage:
                chunk["usage"] = None
        else:
            del chunk["usage"]

    def _note_choice(self, choice: dict[str, Any], chunk: Chunk) -> None:
        index, delta = choice.get("index"), choice.get("delta")
        if delta is None:
            delta = self._without_delta(choice)
        calls = delta.get("tool_calls") if type(delta) is dict else None
        if calls:
            calls = calls_of(delta)
        if delta and delta.get("role") == "":  # MiniMax, in some of them; the only word that clients accept is ours
            del delta["role"]
        # Some servers say nothing of it before the end, some nothing behind it; clients that look for null would fail.
        reason = choice.setdefault("finish_reason")
        if type(index) is int and reason is None:  # as nearly all are
            if not calls:
                if index in self._with_text:
                    return
            elif index in self._calls:
                self._calls[index].mend(calls)
                return
        place = next(at for at, one in enumerate(chunk["choices"]) if one is choice)
        index = mend_choice(choice, place, self._shape)
        if index not in self._indexes:
            self._indexes.add(index)
            mend_role(delta, self._shape)
        if calls:
            self._calls.setdefault(index, ToolCalls(self._job_id)).mend(calls)
        if index not in self._with_text and self._shape.has_text(choice):
            self._with_text.add(index)
        reason = choice["finish_reason"]
        if reason is not None:
            self.finish_reasons[index] = reason
            self._fill_calls(choice, index)
            if self.usage is None and (usage := usage_beside(choice, chunk)) is not None:
                self._note_usage({**chunk, "usage": usage}, is_alone=False)

    def _fill_calls(self, choice: dict[str, Any], index: int) -> None:
        """Give arguments to the calls of a choice that ended well and whose tools take none."""
        calls = self._calls.get(index)
        if calls is None or choice["finish_reason"] not in WHOLE_ENDS:
            return
        delta = choice.get("delta")
        if type(delta) is dict and (missing := calls.missing_arguments()):
            delta["tool_calls"] = [*(delta.get("tool_calls") or ()), *missing]

    def _without_delta(self, choice: dict[str, Any]) -> Any:
        """Return the delta of a choice that came without: a whole message, or nothing where the kind has an empty one.

        Azure's asynchronous filter tells its results in such choices, even behind the end.
        """
        if isinstance(message := choice.pop("message", None), dict):
            choice["delta"] = message
        elif "delta" in self._shape.empty:
            choice["delta"] = {}
        return choice.get("delta")

    def _hold(self, chunk: Chunk) -> bytes:
        """Keep a chunk until there is content and choice 0 has begun."""
        has_content = any(
            choice.get("finish_reason") is not None or self._shape.has_content(choice)
            for choice in chunk.get("choices") or ()
        ) or _tells_progress(chunk)
        self._has_held_content = self._has_held_content or has_content
        if len(self._held) < MAX_HELD_EVENTS or has_content:
            self._held.append(chunk)
        if not self._has_held_content or (
            self._indexes and 0 not in self._indexes and len(self._held) < MAX_HELD_EVENTS
        ):
            return b""
        return self._release()

    def _release(self) -> bytes:
        """Return all held chunks; the SDK's helper breaks unless choice 0 is the first it meets."""
        held, self._held, self._is_open = self._held, [], True
        with_choices = [chunk for chunk in held if chunk["choices"]]
        first = next((chunk for chunk in with_choices if any(c["index"] == 0 for c in chunk["choices"])), None)
        if first is not None:
            if first is not with_choices[0]:
                held = [first, *(chunk for chunk in held if chunk is not first)]
            first["choices"].sort(key=lambda choice: bool(choice["index"]))
        return b"".join(self._encode(chunk) for chunk in held)

    def _encode(self, chunk: Chunk) -> bytes:
        if "service_tier" in chunk:  # the backend's own
            del chunk["service_tier"]
        chunk.update(self._identity)
        return b"data: %b\n\n" % dumps(chunk)

    def _missing_ends(self) -> bytes:
        """Return an end for each choice that was told complete without a reason, as older vLLM does after text."""
        missing = sorted(self._indexes - self.finish_reasons.keys())
        if not self._with_text.issuperset(missing):
            return b""  # nothing proves that it is whole; `finish` says so
        out = b""
        for index in missing:
            reason = self.finish_reasons[index] = "tool_calls" if index in self._calls else "stop"
            choice = {"index": index, **deepcopy(self._shape.empty), "logprobs": None, "finish_reason": reason}
            self._fill_calls(choice, index)
            end: Chunk = {"object": self._shape.chunk, "choices": [choice]}
            if self._include_usage:
                end["usage"] = None
            out += self._encode(end) if self._is_open else self._hold(end)
        return out

    def _end(self) -> bytes:
        """Return what is still held, and the usage chunk where the client asked for it."""
        out = self._release() if not self._is_open and self._has_held_content else b""
        if self._include_usage and self._usage_chunk is not None and self._is_open:
            self._usage_chunk["usage"] = whole_usage(self._usage_chunk["usage"])
            out += self._encode(self._usage_chunk)
            self._usage_chunk = None
        return out


def transformer_of(shape: Shape, spec: JobSpec, job_id: str) -> StreamTransformer:
    """Return a transformer for a job."""
    return StreamTransformer(
        shape,
        job_id=job_id,
        public_model=spec.public_model,
        include_usage=spec.options.get("include_usage", False),
        created=spec.created,
        continuous_usage=spec.options.get("stream_options", {}).get("continuous_usage_stats") is True,
        tier=spec.tier,
    )


def _is_extra(chunk: Chunk) -> bool:
    """Tell whether an event without choices is a chunk with something else to say, such as moderation results."""
    return chunk.get("choices") == [] and any(chunk[key] is not None for key in chunk.keys() - _ENVELOPE)


def _tells_progress(chunk: Chunk) -> bool:
    """Tell whether a chunk without content is one that somebody waits for all the same.

    llama.cpp tells of a long prompt's progress when asked to. It is sent at once, at the price that the job can then
    not move. Other further members (`x_groq`, `provider`) come with the first empty chunk and have nothing to tell yet.
    """
    return any("progress" in key and chunk[key] is not None for key in chunk.keys() - _ENVELOPE)
