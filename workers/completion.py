"""The run of one job of any kind: a backend's answer becomes events. Knows neither Celery, Redis nor what is answered.

The run is tried again, on any backend of the model, only while nothing was handed over, and only within its time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
import traceback
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from shared import events
from shared.deadline import Deadline
from shared.errors import (
    AqueductError,
    BackendError,
    BackendTimeout,
    BackendUnreachable,
    BadBackendResponse,
    JobLost,
    SchemaBreach,
)
from shared.events import Completed, Ran
from shared.jobs import CLIENT_LEFT_STATUS, End, TakenJob, Usage, request_id
from shared.kinds import KINDS, Kind
from shared.kinds.common.sse import looks_like_events
from shared.kinds.kind import Folder, Transformer
from shared.settings import ModelSettings
from workers.absence.presence import ModelAbsent, Presence
from workers.backends import Answer, Backends
from workers.large_bodies import LargeBodies
from workers.outbox import JobOutput
from workers.record import BackendCall, RunRecord
from workers.structured import Structured, structured_of
from workers.transport.base import ConnectFailed, ConnectionLost

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("aqueduct.worker.run")

RETRY_BACKOFF_SECONDS = 0.1
"""Before the second try; doubles, and is jittered."""
MAX_RETRY_AFTER_SECONDS = 5.0
"""A backend's Retry-After up to this is waited for in the slot."""
CLIENT_RETRY_SECONDS = 2.0
"""What a client is told when all tries failed and no backend said how long it will be."""
HEAD_START_SECONDS = 0.05
"""So that a backend which never answers is told to its health as a failure of its own."""
CLIENT_GONE = 499
"""What a call counts as that was cut because nobody wanted its answer any more."""
MAX_JOB_BYTES = 256 * 1024 * 1024
"""Bytes of answer a job may hold in Redis."""
_STOPPED = "The model's backend stopped sending."


class Run:
    """One attempt of a job in this worker's hands."""

    def __init__(
        self,
        job: TakenJob,
        model: ModelSettings,
        backends: Backends,
        output: JobOutput,
        bodies: LargeBodies,
        on_sent: Callable[[], None],
        record: RunRecord,
        presence: Presence | None = None,
    ) -> None:
        """Take the job and all it needs; `on_sent` is called when a large body is here no more.

        With a `presence` the job waits on while no backend is there.
        """
        self._job = job
        self._model = model
        self._backends = backends
        self._output = output
        self._estimate = (job.size if job.body is None else len(job.body)) / 4
        self._bodies = bodies
        self._on_sent = on_sent
        self._record = record
        self._began = time.monotonic()
        # Each run that was lost with its worker has cost a call at least.
        self._calls_before = job.tries - 1
        self._max_calls = max(1, model.max_attempts - self._calls_before)
        self._presence = presence
        if presence is not None:  # only where none of them is there the job waits on
            self._max_calls = max(self._max_calls, len(model.backends))
        self._calls = 0
        self._place: int | None = None
        """Of the backend called last."""
        self._structured: Structured | None = None
        self.usage: Usage | None = None

    async def complete(self) -> End:
        """Run the job to its end; the last event has been handed over when this returns. Cancelling closes the call.

        Raises ModelAbsent where no backend is there and the job may wait.
        """
        try:
            kind = KINDS.get(self._job.spec.kind)
            if kind is None:
                raise _unknown_kind(self._job.spec.kind)
            self._structured = structured_of(kind, self._job, self._model)
            await self._asks(kind)
        except AqueductError as error:
            self._finish(events.failed(error, self._ran()), status=error.status, code=error.code)
            _forget_frames(error)
        assert self._output.end is not None  # noqa: S101 - every way out of an attempt has set it
        return self._output.end

    async def _asks(self, kind: Kind) -> None:
        """Have the job answered; again, where its answer is checked and does not fit."""
        while True:
            try:
                return await self._attempts(kind)
            except SchemaBreach as breach:
                if self._structured is None or not self._structured.may_ask_again(breach, self.usage):
                    raise
                self.usage = None  # it is remembered there
                log.info("asked again: %s", breach.where, extra={"request_id": request_id(self._job.id)})

    async def _attempts(self, kind: Kind) -> None:
        """Call a backend, and another one as long as that can help and nobody has seen anything."""
        ends_at = self._began + self._model.timeout_seconds
        tried: set[int] = set()
        away: set[int] = set()
        for attempt in range(1, self._max_calls + 1):
            place = self._backends.health.choose(tried)
            tried.add(place)
            self._calls += 1
            if attempt > 1:
                self._record.retries += 1
                self._record.failovers += place != self._place
            self._place = place
            called_at, status = time.monotonic(), 0
            code: str | None = None
            try:
                left = max(0.0, ends_at - called_at)
                # The call itself has the limit until its head; this one, a little later, is for what follows them. Of a
                # plain answer that is as a rule nothing, and a timer costs as much as the sending of a request.
                async with nullcontext() if self._is_plain(place) else asyncio.timeout(left + HEAD_START_SECONDS):
                    await self._once(kind, place, left)
                status = 200
                return
            except asyncio.CancelledError:
                status, code = CLIENT_GONE, "cancelled"
                raise
            except TimeoutError as error:
                status, code = BackendTimeout.status, BackendTimeout.code
                raise self._unfinished() from error
            except BackendError as error:
                status, code = error.status, _cause(error)
                pause = self._pause(error, attempt)
                if self._presence is not None and self._is_away(error):
                    away.add(place)
                    is_sure = pause is None or isinstance(error.__cause__, ConnectFailed) or not self._presence.is_there
                    if is_sure and len(away) >= self._backends.health.callable:
                        raise ModelAbsent from error
                if pause is None or time.monotonic() + pause >= ends_at:
                    if isinstance(error, BackendUnreachable) and error.retry_after is None:
                        error.retry_after = CLIENT_RETRY_SECONDS
                    raise
            finally:
                if status:  # else no backend was called
                    seconds, since = time.monotonic() - called_at, called_at - self._began
                    self._record.calls.append(BackendCall(place, seconds, status, code, since))
                if self._record.trace is not None:
                    self._record.trace.called(status, code, self.usage)
            await asyncio.sleep(pause)

    def _is_plain(self, place: int) -> bool:
        """Whether the body is here and the answer should come in one piece."""
        return not self._job.spec.stream and self._job.body is not None and not self._backends.folds(place)

    def _unfinished(self) -> BackendTimeout:
        text = f"The model's backend did not finish within {self._model.timeout_seconds:g} s."
        return BackendTimeout(text, should_retry=False)

    async def _in_time(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        """Return what is read within the run's limit."""
        try:
            async with asyncio.timeout(max(0.0, self._began + self._model.timeout_seconds - time.monotonic())):
                return await reading
        except TimeoutError:
            raise self._unfinished() from None

    def _pause(self, error: BackendError, attempt: int) -> float | None:
        """Return the seconds before another try, or None when there must be none."""
        can_help = (isinstance(error, BackendUnreachable) or error.status == 429) and error.should_retry is not False
        if not can_help or self._output.has_published or attempt == self._max_calls:
            return None
        backoff = RETRY_BACKOFF_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        asked = error.retry_after or 0.0
        # A backend that asks for more is told to the client, who may wait elsewhere than in a slot.
        return None if asked > MAX_RETRY_AFTER_SECONDS else max(backoff, asked)

    def _is_away(self, error: BackendError) -> bool:
        """Whether a failure says that its backend is not there: none can be reached, or it is not ready."""
        if self._output.has_published or not isinstance(error, BackendUnreachable):
            return False
        return not isinstance(error.__cause__, ConnectionLost)  # it was there, and had the request

    def _has_answered(self) -> None:
        if self._presence is not None:
            self._presence.answered()

    async def _once(self, kind: Kind, place: int, left_seconds: float) -> None:
        """Call a backend with the body, which is fetched first where it did not come with the job."""
        room = await self._bodies.fetch(self._job) if self._job.body is None else None
        if room is None:
            await self._ask(kind, place, left_seconds)
            return

        def let_go() -> None:
            room.give_back()
            self._on_sent()

        try:
            await self._ask(kind, place, left_seconds, let_go)
        finally:
            let_go()

    async def _ask(
        self, kind: Kind, place: int, left_seconds: float, on_sent: Callable[[], None] | None = None
    ) -> None:
        job = self._job
        transformer = kind.stream(job.spec, job.id) if kind.stream is not None and job.spec.stream else None
        fold = kind.fold if transformer is None and self._backends.folds(place) else None
        as_stream = transformer is not None or fold is not None
        head_seconds = min(left_seconds, self._first_token_seconds()) if as_stream else left_seconds
        if self._structured is not None:
            job = replace(job, body=await self._structured.asks(job))
        trace = self._record.trace
        call = self._backends.call(
            kind,
            job,
            place,
            stream=as_stream,
            head_seconds=head_seconds,
            on_sent=on_sent,
            more_headers=trace.call(place, stream=as_stream) if trace is not None else None,
        )
        async with call as given:
            answer = given if trace is None else trace.listened(given)
            if transformer is not None:
                await self._stream(transformer, answer)
                return
            if fold is not None and answer.is_stream:
                body = await self._fold(fold(job.spec, job.id), answer, self._first_token_seconds())
            elif kind.fold is not None and answer.is_stream:  # not what was asked for, but an answer
                folded = self._fold(kind.fold(job.spec, job.id), answer, self._model.timeout_seconds)
                body = await self._in_time(folded)
            else:
                body = await self._plain(kind, answer)
        if on_sent is not None:
            self._job.body = None  # fetched anew where it is asked for again
        if self._structured is not None:  # outside of the call: what does not fit is no sign of a backend that ails
            await self._structured.judge(body)
        self._finish_whole(body)

    async def _stream(self, transformer: Transformer, answer: Answer) -> None:
        job, output = self._job, self._output
        begun = False
        stall_seconds = self._model.stall_timeout_seconds
        watch = _watch(answer, self._first_token_seconds())

        def take(data: bytes) -> bool:  # what every chunk passes: see `Response.follow`
            nonlocal begun
            try:
                ready = transformer.feed(data)
            except Exception as error:
                raise self._meaning(error) from None
            if ready:
                if not begun:
                    begun = True
                    self._has_answered()
                    output.put(events.started(job.queue_ms))
                output.put_chunks(ready)
                if output.total_bytes > MAX_JOB_BYTES:
                    raise BackendError("The answer is too large.")
            if begun:
                watch.extend(stall_seconds)
            return not (transformer.done or output.is_full)

        try:
            # A backend that stays open after its end must not hold the slot.
            while await answer.follow(take) and not transformer.done:
                watch.pause()  # it is Redis that is silent
                await output.drained()
                watch.extend(stall_seconds)
            tail = self._understood(transformer.finish)
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
        output.put_chunks(tail)
        self._complete(b"")

    async def _fold(self, folder: Folder, answer: Answer, first_seconds: float) -> bytes:
        watch = _watch(answer, first_seconds)
        try:
            while data := await answer.read():
                answer.count_folded(data)
                self._understood(folder.feed, data)
                watch.extend(self._model.stall_timeout_seconds)
                if folder.done:
                    break
            body = self._understood(folder.result)
        except Exception:
            if watch.expired:
                raise BackendTimeout(_STOPPED, should_retry=False) from None
            raise
        finally:
            watch.stop()
            self.usage = folder.usage
        return body

    async def _plain(self, kind: Kind, answer: Answer) -> bytes:
        # The usual answer comes together with its head: nothing to wait for, so no timer to set.
        raw = await (answer.read() if answer.is_complete else self._in_time(self._rest(answer)))
        if kind.fold is not None and looks_like_events(raw):
            body, self.usage = self._understood(_folded, kind.fold(self._job.spec, self._job.id), raw)
        else:
            body, self.usage = self._understood(kind.plain, raw, self._job.spec, self._job.id)
        return body

    async def _rest(self, answer: Answer) -> bytes:
        # The head may come long before the body; only what stops in the middle is stalled.
        watch = _watch(answer, self._model.timeout_seconds)
        try:
            return await answer.body(lambda: watch.extend(self._model.stall_timeout_seconds))
        except Exception:
            if watch.expired:
                raise BackendTimeout(_STOPPED, should_retry=False) from None
            raise
        finally:
            watch.stop()

    def _understood(self, read: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """Return what a kind makes of an answer."""
        try:
            return read(*given, **named)
        except Exception as error:
            raise self._meaning(error) from None

    def _meaning(self, error: Exception) -> AqueductError:
        """Return what to raise: an answer so odd that a kind's code stumbles is the backend's fault, not ours."""
        if isinstance(error, AqueductError):
            return error
        # Its message may quote the answer: only the kind of error and the place are told.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        fields = {"request_id": request_id(self._job.id), "model": self._job.model}
        log.error("an answer was not understood: %s in %s", type(error).__name__, where, extra=fields)
        return BadBackendResponse()

    def _first_token_seconds(self) -> float:
        first = self._model.first_token_timeout_seconds or self._model.timeout_seconds
        return max(0.0, self._began + first - time.monotonic())

    def _finish_whole(self, body: bytes) -> None:
        self._has_answered()
        parts, rest = events.parts(body)
        if parts:
            self._output.put(*parts)
        self._complete(rest)

    def _complete(self, body: bytes) -> None:
        usage = self.usage
        prompt, completion = (usage.prompt_tokens, usage.completion_tokens) if usage else (-1, -1)
        done = events.completed(Completed(self._job.queue_ms, self._run_ms(), prompt, completion, body))
        calls = self._calls_before + self._calls
        if calls > 1 and self._place is not None:
            self._finish(events.attempts(calls, self._place), done)
        else:  # as nearly always: an event costs, and this one would say nothing
            self._finish(done)

    def _ran(self) -> Ran:
        calls = self._calls_before + self._calls
        return Ran(queue_ms=self._job.queue_ms, run_ms=self._run_ms(), attempts=calls, backend=self._place)

    def _finish(self, *last: bytes, status: int = 200, code: str | None = None) -> None:
        """Hand over the last events, with what the job has cost: the real tokens, or the estimate when nobody told."""
        usage = self._all_usage()
        cost = float(usage.total_tokens) if usage else self._estimate
        self._output.finish(*last, end=End(status=status, code=code, cost=cost, usage=usage, run_ms=self._run_ms()))

    def _all_usage(self) -> Usage | None:
        return self.usage if self._structured is None else self._structured.all_of(self.usage)

    def cut_short(self) -> End:
        """Return what is known of a run that was stopped, for its usage."""
        usage = self._all_usage() if self._calls else Usage(0, 0, 0)
        is_partly_known = self._calls > 0 and self.usage is None
        return End(status=CLIENT_LEFT_STATUS, usage=usage, run_ms=self._run_ms(), cut=is_partly_known)

    def _run_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)


def _cause(error: BackendError) -> str | None:
    """Return why a call failed, for operators: more closely than callers are told, and in no words of a backend's."""
    if isinstance(error.__cause__, ConnectFailed):
        return "connect_failed"
    return "connection_lost" if isinstance(error.__cause__, ConnectionLost) else error.code


def _folded(folder: Folder, raw: bytes) -> tuple[bytes, Usage | None]:
    """Return the body of an event stream that came under another name, and its usage."""
    folder.feed(raw)
    return folder.result(), folder.usage


def _unknown_kind(kind: str) -> JobLost:
    """Return the error of a job that a newer API has made."""
    return JobLost(
        f"The workers of this gateway are older than its API and do not know '{kind[:64]}'; tell the operator.",
        should_retry=False,
    )


def _watch(answer: Answer, seconds: float) -> Deadline:
    """Return what closes an answer that is silent for too long. One timer for many parts, as one a part costs more."""
    deadline = Deadline(answer.close)
    deadline.extend(seconds)
    return deadline


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what a failure's frames hold, and they it: the answer would stay until the garbage collector looks."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
