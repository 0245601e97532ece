"""All of the gateway under one supervisor: a `Plan` in, an exit status out, and nothing left running.

Order of start: Redis, then all others at once. Order of end: the APIs drain while the workers go on, then the workers
end, then Flower and the demo backend, Redis last. Children are started again when they end by themselves; a second
Ctrl-C ends all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shlex
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from aqueduct.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from aqueduct.errors import CommandError
from aqueduct.own_log import log_descriptor, say, variable
from aqueduct.ports import free_port, listen, url_of
from aqueduct.probing.lookup import backend_check
from aqueduct.reloads import Reloads
from aqueduct.supervisor import Child, Pause
from aqueduct.up_plan import Plan
from shared.flower import PATH
from shared.logging import escaped
from shared.settings import Settings

READY_POLL_SECONDS = 0.1
REMIND_AFTER_SECONDS = 60
KILL_MARGIN_SECONDS = 5
"""Given to a process beyond its own grace time before it is killed."""


def up(plan: Plan, *, api_processes: int = 1, with_flower: bool = True, watch: bool = False) -> int:
    """Run everything until a signal says to end; returns 0, or 1 when something could not be started.

    Raises:
        CommandError: a port is taken, or Redis cannot be started.
    """
    listener = listen(plan.settings.api.host, plan.settings.api.port)
    redis = EmbeddedRedis(plan.settings.data_dir) if plan.settings.redis_url is None else None
    try:
        if redis is not None:
            redis.start()
            if plan.token_is_ours and not plan.settings.tokens:
                _keep_token(plan, redis.url)  # before an API reads the tokens for the first time
        return asyncio.run(_Up(plan, redis, listener, api_processes, with_flower, watch).run())
    finally:
        if redis is not None:
            redis.stop()
        listener.close()


class _Up:
    """One run of `aqueduct up`."""

    def __init__(
        self,
        plan: Plan,
        redis: EmbeddedRedis | None,
        listener: socket.socket,
        api_processes: int,
        with_flower: bool,
        watch: bool,
    ) -> None:
        self._plan = plan
        self._redis = redis
        self._listener = listener
        self._host, self._port = listener.getsockname()[:2]
        self._flower_port = (
            _port_for_flower(plan.settings.flower.host, plan.settings.flower.port) if with_flower else None
        )
        self._log_fd = log_descriptor()
        self._apis = self._make_apis(api_processes)
        self._workers = self._make_workers()
        self._helpers = self._make_helpers()
        self._runs: dict[Child, asyncio.Task[int]] = {}
        self._reloads = Reloads(
            plan,
            redis.url if redis else None,
            watch=watch,
            follow=self._follow,
            reload_all=self._reload_all,
            say=say,
        )
        self._end = asyncio.Event()
        self._hurry = asyncio.Event()
        self._over = asyncio.Event()
        """Set when there is something to look at: a child or a task of ours has ended, or all shall."""
        self._has_terminal = sys.stdin.isatty()

    @property
    def _children(self) -> list[Child]:
        return [*self._apis, *self._workers, *self._helpers]

    def _child(self, name: str, given: Mapping[str, str], *arguments: str, pass_fds: Sequence[int] = ()) -> Child:
        # -P: a folder `api` or `workers` where the person happens to be must not be taken for ours.
        command = [sys.executable, "-P", "-m", *arguments]
        return Child(name, command, self._environment(name, given), say, pass_fds=(*pass_fds, self._log_fd))

    def _environment(self, name: str, given: Mapping[str, str]) -> dict[str, str]:
        redis = {"AQUEDUCT_REDIS_URL": self._redis.url} if self._redis is not None else {}
        return {**given, "PYTHONUNBUFFERED": "1", **redis, **variable(self._log_fd, name)}

    def _worker(self, name: str, served: Sequence[str]) -> Child:
        child = self._child(name, self._plan.environment_for(models=served), "aqueduct", "worker", "--")
        child.tail = child.began_with = tuple(served)
        return child

    def _make_apis(self, count: int) -> list[Child]:
        fd, given = self._listener.fileno(), self._plan.environment_for()
        if self._flower_port is not None:
            upstream = url_of(self._plan.settings.flower.host, self._flower_port)
            given = {"AQUEDUCT_FLOWER__UPSTREAM": upstream, **given}
        return [
            self._child(_numbered("api", index, count), given, "aqueduct", "api", "--fd", str(fd), pass_fds=(fd,))
            for index in range(count)
        ]

    def _make_workers(self) -> list[Child]:
        """Return one worker a model, up to the number of cores; beyond that models share a worker."""
        models = list(self._plan.settings.models)
        count = min(len(models), os.cpu_count() or 1)
        return [self._worker(_numbered("worker", index, count), models[index::count]) for index in range(count)]

    def _make_helpers(self) -> list[Child]:
        helpers = []
        if self._plan.demo_port is not None:
            given = self._plan.environment_for()
            helpers.append(self._child("demo", given, "aqueduct.demo", "--port", str(self._plan.demo_port)))
        if self._flower_port is not None:
            given = self._plan.environment_for(flower=True)
            helpers.append(self._child("flower", given, "aqueduct", "flower", "--port", str(self._flower_port)))
        return helpers

    async def run(self) -> int:
        """Start, wait for the end, and end everything in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        for child in self._children:
            self._run_child(child)
        others: list[asyncio.Task[None]] = [
            asyncio.create_task(self._keep_redis()),
            asyncio.create_task(self._announce()),
            asyncio.create_task(self._reloads.run()),
        ]
        try:
            given_up = await self._wait_for_the_end(others)
            if not self._end.is_set():
                say("up", f"{given_up[0]} cannot run: its last lines are above. Ending." if given_up else "ending")
            await self._shut_down(self._runs)
            return 0 if self._end.is_set() and not given_up else 1
        finally:
            for child in self._children:
                child.kill()
            for task in others:
                task.cancel()
            await asyncio.gather(*self._runs.values(), *others, return_exceptions=True)
            os.close(self._log_fd)

    def _run_child(self, child: Child) -> None:
        self._runs[child] = asyncio.create_task(child.run())
        self._runs[child].add_done_callback(lambda _: self._over.set())

    async def _wait_for_the_end(self, others: list[asyncio.Task[None]]) -> list[str]:
        """Wait for a signal, or for a child that is given up; returns the names of such. Raises what `others` raise."""
        for task in others:
            task.add_done_callback(lambda _: self._over.set())
        while not (self._end.is_set() or any(task.done() for task in self._runs.values())):
            await self._over.wait()
            self._over.clear()
            for task in [task for task in others if task.done()]:
                task.result()  # an error of ours is no reason to go on
                others.remove(task)
        return [child.name for child, task in self._runs.items() if task.done()]

    def _follow(self, plan: Plan) -> None:
        """Start one more worker for models that are new; one that ends comes back for those that are left to it."""
        self._plan = plan
        new = list(plan.settings.models)
        for child in self._workers:  # one that has come back while a model was away is without it, and stays so
            child.tail = tuple(name for name in child.began_with if name in plan.settings.models)
            child.environment = self._environment(child.name, plan.environment_for(models=child.tail))
            new = [name for name in new if name not in child.tail]
        if new:
            child = self._worker(f"worker-{len(self._workers) + 1}", new)
            child.settled = True
            self._workers.append(child)
            self._run_child(child)

    def _on_hangup(self) -> None:
        """End behind a terminal that closes, since nothing may be left running there; else reload, all children too."""
        if self._has_terminal and _is_hung_up():
            self._on_signal()
            return
        self._reload_all()

    def _reload_all(self) -> None:
        self._reloads.hang_up()
        for child in (*self._apis, *self._workers):
            child.hang_up()

    def _on_signal(self) -> None:
        if self._end.is_set():
            self._hurry.set()
        self._end.set()
        self._over.set()

    async def _shut_down(self, runs: dict[Child, asyncio.Task[int]]) -> None:
        grace_seconds = self._plan.settings.api.drain_seconds
        say("up", f"ending; open requests get up to {grace_seconds:g} s (Ctrl-C again ends them now)")
        # Told to end while an API still waits for its answers, a worker would hand its jobs back to nobody.
        stages = (
            (self._apis, grace_seconds),
            (self._workers, self._plan.settings.worker.drain_seconds),
            (self._helpers, 0.0),
        )
        for children, seconds in stages:
            for child in children:
                child.terminate()
            hurry = asyncio.create_task(self._hurry.wait())
            done = asyncio.gather(*(runs[child] for child in children), return_exceptions=True)
            either: list[asyncio.Future[Any]] = [hurry, done]
            await asyncio.wait(either, timeout=seconds + KILL_MARGIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            for child in children:
                child.kill()
            await done

    async def _keep_redis(self) -> None:
        """Start the embedded Redis again, with its data and address, when it ends by itself."""
        if self._redis is None:
            await asyncio.Event().wait()
            return
        loop = asyncio.get_running_loop()
        pause, started = Pause(), loop.time()
        while True:
            await asyncio.sleep(0.2)
            if self._redis.pid is not None:
                continue
            seconds = pause.after(loop.time() - started)
            say("redis", f"ended; starting it again in {seconds:g} s. Its last lines: {self._redis.log_tail()}")
            await asyncio.sleep(seconds)
            started = loop.time()
            try:
                await asyncio.to_thread(self._redis.prepare)
                self._redis.spawn()  # on the main thread, with which it ends
                await asyncio.to_thread(self._redis.wait_ready)
            except (EmbeddedRedisError, OSError) as error:
                say("redis", str(error))

    async def _announce(self) -> None:
        """Wait until what it prints is true, then print what a person needs."""
        loop = asyncio.get_running_loop()
        remind_at = loop.time() + REMIND_AFTER_SECONDS
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            while not await self._is_ready(client):
                if loop.time() > remind_at:
                    say("up", f"not ready yet; {self._url}/readyz says why")
                    remind_at = loop.time() + REMIND_AFTER_SECONDS
                await asyncio.sleep(READY_POLL_SECONDS)
        for child in self._children:
            child.settled = True
        sys.stdout.write(f"{self._banner()}\n")  # as one, where children write too
        sys.stdout.flush()
        await self._warn_of_backends()

    async def _warn_of_backends(self) -> None:
        """Tell of each backend that does not answer, in a line; everything runs all the same, and it may come yet."""
        asked = [
            asyncio.to_thread(backend_check, name, backend)
            for name, model in self._plan.settings.models.items()
            for backend in model.backends
        ]
        for check in await asyncio.gather(*asked):
            if check.status == "fail":
                say("up", escaped(f"warning: {check.name}: {check.message}. Fix: {check.fix}"))

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        """Tell whether every model is served and, where the token is ours, a request with it would be let in."""
        with contextlib.suppress(httpx.HTTPError):
            # The API is ready as soon as one model has a worker; a newcomer's first request may be for any.
            answer = await client.get(f"{self._url}/readyz")
            if answer.status_code != 200 or answer.json()["unserved"]:
                return False
            if not self._plan.token_is_ours:
                return True
            headers = {"authorization": f"Bearer {self._plan.credentials.token}"}
            return (await client.get(f"{self._url}/v1/models", headers=headers)).status_code == 200
        return False

    @property
    def _url(self) -> str:
        return url_of(self._host, self._port)

    def _elsewhere(self) -> list[str]:
        """Return the line that lets other commands find this gateway, where they would not by themselves."""
        folder = self._plan.settings.data_dir
        if folder == Settings.model_fields["data_dir"].default.absolute():
            return []
        return [f"For `aqueduct queues`, `token`, `check`: export AQUEDUCT_DATA_DIR={shlex.quote(str(folder))}", ""]

    def _banner(self) -> str:
        plan = self._plan
        models = list(plan.settings.models)
        token = plan.credentials.token if plan.token_is_ours else "YOUR_TOKEN"
        shown = token if plan.token_is_ours else "one of your configuration's (or `aqueduct token create NAME`)"
        body = f'{{"model": "{models[0]}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
        lines = [
            "",
            "Aqueduct is ready.",
            "",
            f"  API     {self._url}/v1",
            f"  Token   {shown}",
            f"  Models  {escaped(', '.join(models[:8]))}{', …' if len(models) > 8 else ''}",
        ]
        if plan.settings.ui:
            lines += [f"  Status  {self._url}/ui"]
            way_in = plan.credentials.operator_token if plan.token_is_ours else "one with `role: operator`"
            lines += [f"          token {way_in}"]
        if self._flower_port is not None:
            given = plan.settings.flower.password is not None
            password = "as configured" if given else plan.credentials.flower_password
            lines += [
                f"  Flower  http://{plan.settings.flower.host}:{self._flower_port}",
                f"          user {plan.settings.flower.user}, password {password}",
            ]
            if plan.settings.ui:
                lines += [f"          or {self._url}{PATH}/ without, for who is logged in at the status page"]
        lines += [
            "",
            "Try it:",
            "",
            f"  curl -N {self._url}/v1/chat/completions \\",
            f'    -H "Authorization: Bearer {token}" -H "Content-Type: application/json" \\',
            f"    -d '{escaped(body)}'",
            "",
            *self._elsewhere(),
            f"Ctrl-C ends it. It listens on {self._host} {_reach(self._host)}.",
            "",
        ]
        return "\n".join(lines)


def _reach(host: str) -> str:
    """Return who can reach an address, for the banner."""
    if host in ("127.0.0.1", "::1", "localhost"):
        return "only, this machine's own (--host 0.0.0.0 for all)"
    return "for other machines too"


def _keep_token(plan: Plan, redis_url: str) -> None:
    """Make the printed tokens valid where the configuration file has no token at all."""
    from shared.redis_sync import connect  # noqa: PLC0415 - rarely needed
    from shared.tokens import StoredToken, TokenStore  # noqa: PLC0415

    now = datetime.now(UTC)
    with connect(redis_url) as client:
        store = TokenStore(client, plan.settings.data_dir)
        for fields in plan.credentials.tokens():
            record = StoredToken.model_validate({**fields, "created_at": now, "created_by": "aqueduct up"})
            if record.sha256 in {known.sha256 for known in store.list()}:
                continue
            store.revoke(record.name)  # of credentials that are no more
            store.create(record)


def _port_for_flower(host: str, port: int) -> int:
    """Return Flower's port, or a free one when that is taken: nobody depends on it, and the banner names it."""
    try:
        listen(host, port).close()
    except CommandError:
        say("flower", f"port {port} is taken; using a free one")
        return free_port()
    return port or free_port()


def _is_hung_up() -> bool:
    """Whether the terminal that this was started from is gone."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))


def _numbered(name: str, index: int, count: int) -> str:
    return name if count == 1 else f"{name}-{index + 1}"
