"""What backends answer: nothing harms a worker, reaches a client as it is, or costs more than its limit says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from tests.attack.scripts import ENDLESS_ANSWERS, ENDLESS_EVENTS, ENDLESS_HEADS, KEY, KEY_BASE64, SCRIPTS
from tests.attack.stack import ANSWER_BYTES
from tests.attack.suite import MIB, Group, Suite, cost_of
from tests.support.chat import CHAT, chat_body

EVENT_BYTES = 16 * MIB
TRIES = 3
SECONDS_PER_MIB = 0.01
"""What it may cost to read what a limit allows."""


def groups(suite: Suite) -> Iterator[Group]:
    """Yield what is answered, plain and streamed, and what of it has no end."""
    found = Backends(suite)
    for stream in (False, True):
        how = "streamed" if stream else "plain"
        answers = {name: partial(found.answers, name, stream=stream) for name in SCRIPTS}
        yield Group(f"backends, {how}", answers, at_once=4)
        limits = {
            **dict.fromkeys(ENDLESS_HEADS, 0),
            **dict.fromkeys(ENDLESS_ANSWERS, ANSWER_BYTES),
            **dict.fromkeys(ENDLESS_EVENTS, EVENT_BYTES),
        }
        costs = {name: partial(found.costs, name, limit, stream=stream) for name, limit in limits.items()}
        yield Group(f"backends without end, {how}", costs)


class Backends:
    """The checks."""

    def __init__(self, suite: Suite) -> None:
        self._stack = suite.stack

    def answers(self, name: str, *, stream: bool) -> None:
        """The client gets one well-formed answer, in which nothing is that it must not see."""
        with self._stack.client() as client:
            answer = client.post(CHAT, json=chat_body(name, stream=stream))
        for secret in (KEY, KEY_BASE64):
            assert secret not in answer.text and secret not in str(answer.headers), answer.text[:300]
        if answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.text.endswith("data: [DONE]\n\n") and '"error"' in answer.text, answer.text[-300:]
        else:
            assert answer.status_code >= 400 and answer.json()["error"]["message"], answer.text[:300]

    def costs(self, name: str, limit: int, *, stream: bool) -> None:
        """The worker keeps nothing of it, and spends what reading up to the limit takes.

        What is kept of each, or is spent on each, shows each time: an allocator that takes a few pages more, once,
        does not.
        """
        for _ in range(2):
            self._ask(name, stream=stream)  # what a process takes at the first time, it keeps
        for tries_left in reversed(range(TRIES)):
            try:
                self._cost(name, limit, stream=stream)
                return
            except AssertionError:
                if not tries_left:
                    raise

    def _cost(self, name: str, limit: int, *, stream: bool) -> None:
        with cost_of(self._stack.worker_of(name), more_seconds=limit / MIB * SECONDS_PER_MIB):
            began = time.monotonic()
            self._ask(name, stream=stream)
            assert time.monotonic() - began < 3.9, "only a time ended it"

    def _ask(self, name: str, *, stream: bool) -> None:
        with self._stack.client() as client:
            client.post(CHAT, json=chat_body(name, stream=stream))
