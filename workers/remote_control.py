"""What Celery's own tools find here: `inspect active|reserved|stats` tell of jobs, `control revoke` ends them.

A request's id, as Flower and `x-request-id` show it, is its task's id. Every worker hears a revoke, so each asks Redis
to end the job, and the first that finds it under way writes it into the audit log. Nothing here tells of a prompt.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, Protocol

from celery.utils.functional import maybe_list
from celery.worker import control as celery_control
from celery.worker.control import control_command, inspect_command

from shared import keys
from shared.jobs import request_id
from shared.redis import RedisRefused, RedisUnavailable
from workers.held import HeldJob, State
from workers.statistics import statistics

ANSWER_SECONDS: Final = 2.0
"""Celery's consumer waits no longer for the jobs' loop."""
_REQUEST_ID: Final = re.compile(r"req_[0-9a-f]{32}")
_CELERYS_REVOKE: Final[Callable[..., dict[str, Any]]] = vars(celery_control)["revoke"]


class ServedView(NamedTuple):
    """One model in this process."""

    running: int
    limit: int


class JobsView(Protocol):
    """What is asked of the jobs' loop; every method is called on it."""

    def held_jobs(self) -> Sequence[HeldJob]:
        """Return the jobs of this process."""

    def slots(self) -> tuple[int, dict[str, ServedView]]:
        """Return how many jobs the process runs at most, and what runs of each model."""

    async def revoke(self, request_ids: Sequence[str]) -> dict[str, int]:
        """End jobs; returns what became of how many."""


Ask = Callable[[Callable[[JobsView], Coroutine[Any, Any, Any]]], Any]
"""Runs a question on the jobs' loop from another thread; raises TimeoutError, and RuntimeError where there is none."""


def bind_remote_control(ask: Ask) -> None:
    """Answer Celery's remote control from here on; replaces commands of Celery's own in this process."""

    @inspect_command(name="active", alias="dump_active")
    def active(state: Any, **_: Any) -> list[dict[str, Any]]:
        """Jobs that run here."""
        return _told(ask, state.hostname, lambda held: held.state is not State.TAKEN)

    @inspect_command(name="reserved", alias="dump_reserved")
    def reserved(state: Any, **_: Any) -> list[dict[str, Any]]:
        """Jobs that were taken and have not begun."""
        return _told(ask, state.hostname, lambda held: held.state is State.TAKEN)

    @inspect_command(name="stats")
    def stats(state: Any, **more: Any) -> dict[str, Any]:
        """Celery's own figures, and slots."""
        told: dict[str, Any] = statistics(state, **more)
        most, models = ask(_slots)
        told["pool"] = {**(told.get("pool") or {}), "max-concurrency": most}
        told["slots"] = {
            "process": most,
            "running": sum(one.running for one in models.values()),
            "models": {name: one._asdict() for name, one in models.items()},
        }
        return told

    @control_command(name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
    def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **more: Any) -> dict[str, Any]:
        """End the requests with these ids; other ids are Celery's to remember."""
        ids = [str(one) for one in maybe_list(task_id) or []]
        requests = [one for one in ids if _REQUEST_ID.fullmatch(one)]
        others = [one for one in ids if one not in requests]
        if others:
            answer = _CELERYS_REVOKE(state, others, terminate, signal, **more)
            if not requests:
                return answer
        try:
            done = ask(lambda view: view.revoke(requests))
        except (TimeoutError, RuntimeError, RedisUnavailable, RedisRefused) as error:
            return {"error": f"not ended: {type(error).__name__}"}
        return {"ok": ", ".join(f"{number} {what}" for what, number in done.items())}

    @control_command(name="terminate", variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 ...]]")
    def terminate(state: Any, signal: Any, task_id: Any, **more: Any) -> dict[str, Any]:
        """As revoke."""
        answer: dict[str, Any] = revoke(state, task_id, terminate=True, signal=signal, **more)
        return answer


async def _slots(view: JobsView) -> tuple[int, dict[str, ServedView]]:
    return view.slots()


def _told(ask: Ask, hostname: str, is_meant: Callable[[HeldJob], bool]) -> list[dict[str, Any]]:
    async def look(view: JobsView) -> list[dict[str, Any]]:
        return [_task(held, hostname) for held in view.held_jobs() if is_meant(held)]

    found: list[dict[str, Any]] = ask(look)
    return found


def _task(held: HeldJob, hostname: str) -> dict[str, Any]:
    """Return a job as Celery tells of a task."""
    job = held.job
    who = {"lane": job.spec.lane, "tenant": job.spec.tenant} | ({"group": job.spec.group} if job.spec.group else {})
    return {
        "id": request_id(job.id),
        "name": f"{job.spec.kind}:{job.model}",
        "type": f"{job.spec.kind}:{job.model}",
        "args": [job.model],
        "kwargs": who,
        "hostname": hostname,
        "time_start": held.record.began_at,
        "acknowledged": True,
        "delivery_info": {"exchange": "", "routing_key": keys.queue(job.model), "redelivered": job.tries > 1},
        "worker_pid": None,
    }


def ask_on(loop: asyncio.AbstractEventLoop, question: Coroutine[Any, Any, Any]) -> Any:
    """Run a question on a loop that another thread runs, and wait for its answer."""
    future = asyncio.run_coroutine_threadsafe(question, loop)
    try:
        return future.result(ANSWER_SECONDS)
    except TimeoutError:
        future.cancel()
        raise
