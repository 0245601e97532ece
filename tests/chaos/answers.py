"""What one request got, judged: its bytes in, a verdict out. Contents are numbered and begin with the request's marker.

A right answer to `r7a1` of four tokens is `r7a1 0 1 2 3 `: another request's text, a gap or a repeat cannot hide in it.
Each number bears the mark of the backend call that it is from (`0.4f1c2a`), so that neither can a splice of two runs.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Verdict = Literal["open", "completed", "errored", "lost", "cut", "cancelled"]


_MARK = re.compile(r"\.([0-9a-f]{6})(?= )")


def expected_content(marker: str, tokens: int) -> str:
    """Return what the demo backend answers with `prefix=1&tokens=<tokens>`, without the marks of `call_marks=1`."""
    return f"{marker} " + "".join(f"{number} " for number in range(tokens))


@dataclass(slots=True, kw_only=True)
class Answer:
    """One accepted request and what came for it; times are `time.monotonic()` of this process."""

    marker: str
    model: str
    stream: bool
    expected: str
    sent_at: float
    verdict: Verdict = "open"
    code: str = ""
    """Of its error."""
    ended_at: float = 0.0
    content: str = ""
    """Without the marks of calls."""
    ids: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    """Marks of the backend calls that its text is from."""
    progress_at: list[float] = field(default_factory=list)
    """When data came; comments do not count."""
    finishes: int = 0
    endings: int = 0
    """How many `[DONE]` or whole bodies came."""
    errors: int = 0
    spoke_after_end: bool = False
    detail: str = ""
    _rest: bytes = b""

    @property
    def is_altered(self) -> bool:
        """Whether any text came that is not this request's own, in order and whole."""
        if self.verdict == "completed" and self.content != self.expected:
            return True
        return not self.expected.startswith(self.content) or len(self.ids) > 1

    @property
    def is_spliced(self) -> bool:
        """Whether its text is from more than one run of the request."""
        return len(self.calls) > 1

    @property
    def is_doubled(self) -> bool:
        """Whether a second answer, or a second end, came."""
        return (
            self.content.count(self.marker) > 1
            or self.finishes > 1
            or self.endings > 1
            or self.errors > 1
            or self.spoke_after_end
        )

    def _take_text(self, text: str) -> None:
        self.calls.update(_MARK.findall(text))
        self.content += _MARK.sub("", text)

    def end(self, verdict: Verdict, detail: str = "") -> None:
        """Note how it ended."""
        self.verdict, self.detail, self.ended_at = verdict, detail, time.monotonic()

    # --- plain ------------------------------------------------------------------------------------------------

    def take_body(self, status: int, raw: bytes) -> None:
        """Judge a whole body."""
        self.progress_at.append(time.monotonic())
        self.endings += 1
        body = orjson.loads(raw)
        if status != 200:
            self.take_error(body["error"])
            self.end("errored")
            return
        (choice,) = body["choices"]
        self._take_text(choice["message"]["content"])
        self.ids.add(body["id"])
        self.finishes += 1
        self.end("completed")

    def take_error(self, error: dict[str, Any]) -> None:
        """Note an error object."""
        self.errors += 1
        self.code = str(error["code"])

    # --- stream -----------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes of a stream."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        heard = False
        for event in events:
            if not event.startswith(b"data: "):
                continue  # a comment
            heard = True
            if self.endings:
                self.spoke_after_end = True
            if event == b"data: [DONE]":
                self.endings += 1
            else:
                self._take_chunk(orjson.loads(event[6:]))
        if heard:
            self.progress_at.append(time.monotonic())

    def _take_chunk(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self.take_error(chunk["error"])
            return
        if self.errors:
            self.spoke_after_end = True
        self.ids.add(chunk["id"])
        for choice in chunk["choices"]:
            self._take_text(choice["delta"].get("content") or "")
            self.finishes += choice.get("finish_reason") is not None

    def end_stream(self) -> None:
        """Judge a stream that the server has ended."""
        if self._rest or not self.endings:
            self.end("lost", f"the stream stopped after {self.content[-20:]!r}")
        elif self.errors:
            self.end("errored")
        elif self.finishes:
            self.end("completed")
        else:
            self.end("lost", "the stream ended without a finish reason")
