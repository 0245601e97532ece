"""Requests that run while a test goes on: `Call` sends one in a thread and keeps what came, and when."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

import httpx

from tests.support.chat import CHAT, chat_body
from tests.support.system import System
from tests.support.waiting import wait_until

DONE = "data: [DONE]\n\n"


def wait_for_content(*calls: Call) -> None:
    """Wait until every stream has brought text: its job runs."""
    wait_until(lambda: all('"content"' in call.text for call in calls), 20, "the streams to run")


class Call:
    """One chat completion in a thread of its own, with the system's token unless another is given."""

    def __init__(
        self,
        system: System,
        model: str,
        prompt: str,
        *,
        stream: bool = True,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.prompt = prompt
        self.stream = stream
        self.status = 0
        self.request_id = ""
        """Once the headers are here."""
        self.text = ""
        self.failure: Exception | None = None
        self._client = system.client(token, timeout=120)
        self._body = chat_body(model, prompt, stream=stream)
        self._headers = dict(headers or {})
        self._has_left = threading.Event()
        self.began_at = time.monotonic()
        self.ended_at = 0.0
        self.heard_at: list[float] = []
        """When something came."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._client as client, client.stream("POST", CHAT, json=self._body, headers=self._headers) as answer:
                self.status = answer.status_code
                self.request_id = answer.headers.get("x-request-id", "")
                for part in answer.iter_text():
                    self.text += part
                    self.heard_at.append(time.monotonic())
                    if self._has_left.is_set():
                        return
        except httpx.HTTPError as error:
            self.failure = error
        finally:
            self.ended_at = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """Whether the answer, or the connection, has ended."""
        return not self._thread.is_alive()

    @property
    def seconds(self) -> float:
        """From the start to the end."""
        return self.ended_at - self.began_at

    def leave(self) -> None:
        """Close the connection, as soon as the stream's next part comes."""
        self._has_left.set()
        self._thread.join(10)

    def wait(self, timeout_seconds: float = 20) -> Self:
        """Wait for the end; AssertionError with what came so far."""
        self._thread.join(timeout_seconds)
        assert self.has_ended, (
            f"{self.prompt} did not end within {timeout_seconds:g} s: {self.status} {self.text[-300:]!r}"
        )
        return self

    def events(self) -> list[dict[str, Any]]:
        """Return the JSON events of a stream."""
        lines = [line[6:] for line in self.text.split("\n\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    def content(self) -> str:
        """Return the text of the answer."""
        if not self.stream:
            return str(json.loads(self.text)["choices"][0]["message"]["content"])
        return "".join(
            choice["delta"].get("content") or "" for event in self.events() for choice in event.get("choices", ())
        )

    def errors(self) -> list[dict[str, Any]]:
        """Return the error objects it was given, in the stream or as the whole answer."""
        if self.status != 200:
            return [json.loads(self.text)["error"]]
        return [event["error"] for event in self.events() if "error" in event] if self.stream else []

    def assert_complete(self, tokens: int) -> None:
        """Check that every token came once, in order, and the end after them."""
        assert self.failure is None, f"{self.prompt}: {self.failure!r} after {self.text[-300:]!r}"
        assert self.status == 200, f"{self.prompt}: {self.text}"
        assert self.content().split() == [str(number) for number in range(tokens)], self.prompt
        if self.stream:
            assert self.text.endswith(DONE)
            assert self.text.count(DONE) == 1

    def assert_one_error(self) -> dict[str, Any]:
        """Check that it ended in one clear error, and return it."""
        assert self.failure is None, f"{self.prompt}: {self.failure!r} after {self.text[-300:]!r}"
        (error,) = self.errors()
        assert set(error) == {"message", "type", "param", "code"}
        if self.status == 200:
            assert self.text.endswith("}\n\n" + DONE)
            assert self.text.count(DONE) == 1
        return error
