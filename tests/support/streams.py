"""A stored stream as raw events: numbers, data, comments, read by hand so that it can be left at any event."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.chat import CHAT


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came, comments left out."""

    number: int | None
    data: bytes


DONE = Event(None, b"[DONE]")


def read_events(answer: httpx.Response) -> Iterator[Event]:
    """Yield events as they come; AssertionError for anything else between them but comments without a blank line."""
    assert answer.status_code == 200, answer.read()
    assert answer.headers["content-type"].startswith("text/event-stream")
    rest = b""
    for part in answer.iter_raw():
        rest += part
        while b"\n\n" in rest:
            block, rest = rest.split(b"\n\n", 1)
            yield _event(block)
    assert not rest, rest


def _event(block: bytes) -> Event:
    lines = [line for line in block.split(b"\n") if not line.startswith(b":")]
    assert lines, f"a comment with its own blank line is an empty event to SDKs: {block!r}"
    number = None
    if lines[0].startswith(b"id: "):
        number = int(lines.pop(0).removeprefix(b"id: "))
    assert len(lines) == 1 and lines[0].startswith(b"data: "), block
    return Event(number, lines[0].removeprefix(b"data: "))


@contextlib.contextmanager
def stored_stream(
    client: httpx.Client, model: str, text: str = "hello", **more: Any
) -> Iterator[tuple[httpx.Response, Iterator[Event]]]:
    """Begin a stored stream; leaving the context closes its connection."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True, "store": True, **more}
    with client.stream("POST", CHAT, json=body) as answer:
        yield answer, read_events(answer)


def completion_id(answer: httpx.Response) -> str:
    """Return the id of the completion that an answer streams; its request's id has the same digits."""
    return "chatcmpl-" + answer.headers["x-request-id"].removeprefix("req_")


def resumed(client: httpx.Client, made: str, after: int | None = None, header: int | None = None) -> list[Event]:
    """Read a stored stream on to its end."""
    headers = {} if header is None else {"last-event-id": str(header)}
    params = {} if after is None else {"after": after}
    with client.stream("GET", f"/v1/chat/completions/{made}/events", params=params, headers=headers) as answer:
        return [*read_events(answer)]
