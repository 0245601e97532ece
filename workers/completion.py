"""The run of one job: a backend's answer becomes events. Knows neither Celery nor Redis.

The run is tried again, on any backend of the model, only while nothing was handed over, and only within its time.
"""

from __future__ import annotations

import asyncio
import math
import random
import time

from shared import events
from shared.errors import AqueductError, BackendError, BackendTimeout, BackendUnreachable
from shared.events import Completed
from shared.jobs import End, TakenJob, Usage
from shared.kinds.chat.fold import Folder
from shared.kinds.chat.plain import rewrite_completion
from shared.kinds.chat.stream import StreamTransformer
from shared.settings import ModelSettings
from workers.backends import Answer, Backends
from workers.outbox import JobOutput

RETRY_BACKOFF_SECONDS = 0.1
"""Before the second try; doubles, and is jittered."""
MAX_RETRY_AFTER_SECONDS = 5.0
"""A backend's Retry-After up to this is waited for in the slot."""
CLIENT_RETRY_SECONDS = 2.0
"""What a client is told when all tries failed and no backend said how long it will be."""
HEAD_START_SECONDS = 0.05
"""So that a backend which never answers is told to its health as a failure of its own."""
MAX_JOB_BYTES = 256 * 1024 * 1024
"""Bytes of answer a job may hold in Redis."""
_STOPPED = "The model's backend stopped sending."


class Run:
    """One attempt of a job in this worker's hands."""

    def __init__(
        self, job: TakenJob, model: ModelSettings, backends: Backends, output: JobOutput, estimate: float
    ) -> None:
        self._job = job
        self._model = model
        self._backends = backends
        self._output = output
        self._estimate = estimate
        self._began = time.monotonic()
        self.usage: Usage | None = None

    async def complete(self) -> End:
        """Run the job to its end; the last event has been handed over when this returns. Cancelling closes the call."""
        try:
            await self._attempts()
        except AqueductError as error:
            self._finish(events.failed(error), status=error.status, code=error.code)
        assert self._output.end is not None  # noqa: S101 - every way out of an attempt has set it
        return self._output.end

    async def _attempts(self) -> None:
        """Call a backend, and another one as long as that can help and nobody has seen anything."""
        ends_at = self._began + self._model.timeout_seconds
        tried: set[int] = set()
        for attempt in range(1, self._model.max_attempts + 1):
            place = self._backends.health.choose(tried)
            tried.add(place)
            try:
                left = max(0.0, ends_at - time.monotonic())
                # The call itself has the limit until its head; this one, a little later, is for what follows them.
                async with asyncio.timeout(left + HEAD_START_SECONDS):
                    await self._once(place, left)
                return
            except TimeoutError as error:
                raise BackendTimeout(
                    f"The model's backend did not finish within {self._model.timeout_seconds:g} s.", should_retry=False
                ) from error
            except BackendError as error:
                pause = self._pause(error, attempt)
                if pause is None or time.monotonic() + pause >= ends_at:
                    if isinstance(error, BackendUnreachable) and error.retry_after is None:
                        error.retry_after = CLIENT_RETRY_SECONDS
                    raise
                await asyncio.sleep(pause)

    def _pause(self, error: BackendError, attempt: int) -> float | None:
        """Return the seconds before another try, or None when there must be none."""
        can_help = isinstance(error, BackendUnreachable) or error.status == 429
        if not can_help or self._output.has_published or attempt == self._model.max_attempts:
            return None
        backoff = RETRY_BACKOFF_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        asked = error.retry_after or 0.0
        # A backend that asks for more is told to the client, who may wait elsewhere than in a slot.
        return None if asked > MAX_RETRY_AFTER_SECONDS else max(backoff, asked)

    async def _once(self, place: int, left_seconds: float) -> None:
        stream = self._job.spec.stream
        as_stream = stream or self._backends.folds(place)
        head_seconds = min(left_seconds, self._first_token_seconds()) if as_stream else left_seconds
        async with self._backends.call(self._job, place, stream=as_stream, head_seconds=head_seconds) as answer:
            if stream:
                await self._stream(answer)
            elif as_stream and answer.is_stream:
                await self._fold(answer)
            else:
                await self._plain(answer)

    async def _stream(self, answer: Answer) -> None:
        job, output = self._job, self._output
        transformer = StreamTransformer(
            job_id=job.id,
            public_model=job.spec.public_model,
            include_usage=job.spec.options.get("include_usage", False),
            created=job.spec.created,
        )
        begun = False
        stall_seconds = self._model.stall_timeout_seconds
        watch = _Watch(answer, self._first_token_seconds())
        try:
            while data := await answer.read():
                ready = transformer.feed(data)
                if ready:
                    if not begun:
                        begun = True
                        output.put(events.started(job.queue_ms))
                    output.put_chunks(ready)
                    if output.total_bytes > MAX_JOB_BYTES:
                        raise BackendError("The answer is too large.")
                    if output.is_full:
                        watch.pause()  # it is Redis that is silent
                        await output.drained()
                if begun:
                    watch.extend(stall_seconds)
                if transformer.done:  # a backend that stays open after its end must not hold the slot
                    break
            tail = transformer.finish()
        except Exception:
            if watch.expired:
                what = "stopped sending" if begun else "sent no first token in time"
                raise BackendTimeout(f"The model's backend {what}.", should_retry=False) from None
            raise
        finally:
            watch.stop()
            self.usage = transformer.usage
        if not begun:
            output.put(events.started(job.queue_ms))
        if tail:
            output.put_chunks(tail)
        self._finish(events.completed(self._completed(b"")))

    async def _fold(self, answer: Answer) -> None:
        folder = Folder(job_id=self._job.id, public_model=self._job.spec.public_model, created=self._job.spec.created)
        watch = _Watch(answer, self._first_token_seconds())
        try:
            while data := await answer.read():
                folder.feed(data)
                watch.extend(self._model.stall_timeout_seconds)
                if folder.done:
                    break
            body = folder.result()
        except Exception:
            if watch.expired:
                raise BackendTimeout(_STOPPED, should_retry=False) from None
            raise
        finally:
            watch.stop()
            self.usage = folder.usage
        self._finish(events.completed(self._completed(body)))

    async def _plain(self, answer: Answer) -> None:
        # The usual answer comes together with its head: nothing to wait for, so no timer to set.
        raw = await (answer.read() if answer.is_complete else self._rest(answer))
        spec = self._job.spec
        body, self.usage = rewrite_completion(
            raw, job_id=self._job.id, public_model=spec.public_model, created=spec.created
        )
        self._finish(events.completed(self._completed(body)))

    async def _rest(self, answer: Answer) -> bytes:
        # The head may come long before the body; only what stops in the middle is stalled.
        watch = _Watch(answer, self._model.timeout_seconds)
        try:
            return await answer.body(lambda: watch.extend(self._model.stall_timeout_seconds))
        except Exception:
            if watch.expired:
                raise BackendTimeout(_STOPPED, should_retry=False) from None
            raise
        finally:
            watch.stop()

    def _first_token_seconds(self) -> float:
        first = self._model.first_token_timeout_seconds or self._model.timeout_seconds
        return max(0.0, self._began + first - time.monotonic())

    def _completed(self, body: bytes) -> Completed:
        usage = self.usage
        prompt, completion = (usage.prompt_tokens, usage.completion_tokens) if usage else (-1, -1)
        return Completed(self._job.queue_ms, self._run_ms(), prompt, completion, body)

    def _finish(self, last: bytes, *, status: int = 200, code: str | None = None) -> None:
        """Hand over the last event, with what the job has cost: the real tokens, or the estimate when nobody told."""
        usage = self.usage
        cost = float(usage.total_tokens) if usage else self._estimate
        self._output.finish(last, end=End(status=status, code=code, cost=cost, usage=usage, run_ms=self._run_ms()))

    def _run_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)


class _Watch:
    """Closes an answer that is silent for too long. One timer for many parts: setting one a part costs more than it."""

    def __init__(self, answer: Answer, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._deadline = self._checks_at = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._deadline, self._check)
        self.expired = False

    def extend(self, seconds: float) -> None:
        """Allow this much silence from now on."""
        self._deadline = self._loop.time() + seconds
        if self._checks_at > self._deadline:
            self._timer.cancel()
            self._arm()

    def pause(self) -> None:
        """Watch no longer until `extend`."""
        self._timer.cancel()
        self._checks_at = math.inf

    def _arm(self) -> None:
        self._checks_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._check)

    def stop(self) -> None:
        """Watch no longer."""
        self._timer.cancel()

    def _check(self) -> None:
        if self._loop.time() < self._deadline:
            self._arm()
        else:
            self.expired = True
            self._answer.close()
