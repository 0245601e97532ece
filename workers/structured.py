"""A run whose answer is checked: judged once it is whole, and asked for again as often as the model's settings say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from shared.errors import SchemaBreach
from shared.jobs import TakenJob, Usage
from shared.kinds import Kind
from shared.kinds.kind import Check
from shared.settings import ModelSettings

P = ParamSpec("P")
T = TypeVar("T")

LARGE_BYTES: Final = 64 * 1024
"""A larger schema or answer is judged beside the event loop."""


class Structured:
    """The asks of one run; made by `structured_of`."""

    def __init__(self, kind: Kind, model: ModelSettings) -> None:
        self._kind = kind
        self._left = model.structured_output_retries if model.structured_output == "retry" else 0
        self._check: Check | None = None
        self._breach: SchemaBreach | None = None
        self._spent: list[Usage] = []

    async def asks(self, job: TakenJob) -> bytes | None:
        """Return the body to ask with; the job's own, or that and what was wrong with the last answer."""
        body = job.body
        if body is None:
            return None
        if self._check is None and self._kind.check is not None:
            self._check = await _beside(len(body), self._kind.check, body)
        if self._breach is None or self._kind.asked_again is None:
            return body
        return await _beside(len(body), self._kind.asked_again, body, self._breach)

    async def judge(self, answer: bytes) -> None:
        """Raise SchemaBreach for an answer that does not fit."""
        if self._check is not None:
            await _beside(len(answer), self._check.check, answer)

    def may_ask_again(self, breach: SchemaBreach, usage: Usage | None) -> bool:
        """Whether another try is left; what the last one has cost is remembered."""
        self._breach = breach
        self._left -= 1
        if self._left < 0:
            return False
        if usage is not None:
            self._spent.append(usage)
        return True

    def all_of(self, usage: Usage | None) -> Usage | None:
        """Return what all asks have cost together, given the last one's usage."""
        if not self._spent:
            return usage
        every = self._spent if usage is None else [*self._spent, usage]
        return Usage(
            sum(one.prompt_tokens for one in every),
            sum(one.completion_tokens for one in every),
            sum(one.total_tokens for one in every),
            sum(one.cached_tokens for one in every),
            sum(one.reasoning_tokens for one in every),
        )


def structured_of(kind: Kind, job: TakenJob, model: ModelSettings) -> Structured | None:
    """Return what checks a job's answer; None for the many that nobody wants checked."""
    if "structured" not in job.spec.options or model.structured_output == "passthrough" or job.spec.stream:
        return None
    return Structured(kind, model)


async def _beside(size: int, call: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    if size > LARGE_BYTES:
        return await asyncio.to_thread(call, *given, **named)
    return call(*given, **named)
