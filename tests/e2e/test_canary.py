"""A canary in the prompt and one in the backend's key: where they may be while a request lives, and nowhere else, ever.

Allowed for the prompt (and the answer, which repeats it) is only what the job itself needs:
- the keys `aq2:job:<id>`, `aq2:body:<id>` and `aq2:log:<id>` of the very job, its body until its end (inside the record
  where it is small), the log at most 60 s longer;
- the commands that write these keys: the scripts `admit` and `append` as our processes send them, an RPUSH of a body;
- the pub/sub message of the job's events to the API process that asked for it.
The backend's key is allowed nowhere but in the workers' environment.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx
import psutil
import pytest
import redis

from shared import keys
from shared.broker import celery_app
from shared.config import load_settings
from shared.room.scripts import ADMIT, APPEND
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer, free_port
from tests.support.raw import chat_request, connect
from tests.support.startable import Startable
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

PROMPT = "cnry7f3aprompt"
KEY = "cnry7f3abackendkey"
EITHER = "cnry7f3a"
LOGIN = ("aqueduct", "correct-horse")
LARGE_BYTES = 100_000
"""More than travels inside a script call."""
MAX_KEEP_MS = 60_000

_MONITORED = re.compile(r"[\d.]+ \[\d+ (?P<client>[^\]]+)\] (?P<words>.*)", re.DOTALL)
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')


def keyed(behaviour: str, **settings: Any) -> dict[str, Any]:
    made = model(behaviour, **settings)
    made["backends"][0]["api_key"] = "${CANARY_KEY}"
    return made


MODELS = {
    "echo": keyed("prefix=1"),
    "long": keyed("tokens=400&token_seconds=0.05"),
    "one-slot": keyed("tokens=400&token_seconds=0.05", concurrency=1),
    "refuses": keyed("status=400&code=bad_thing&message=no"),
    "cut": keyed("tokens=8&cut_after=4"),
}


OTHER_KINDS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": "echo", "prompt": f"say {PROMPT} please", "echo": True}),
    ("/v1/completions", {"model": "cut", "prompt": [f"say {PROMPT} please"], "stream": True, "suffix": PROMPT}),
    ("/v1/completions", {"model": "echo", "prompt": [PROMPT, 5], "logit_bias": {PROMPT: 1}}),
    ("/v1/embeddings", {"model": "echo", "input": [f"say {PROMPT} please"], "user": PROMPT}),
    ("/v1/embeddings", {"model": "refuses", "input": f"say {PROMPT} please"}),
    ("/v1/embeddings", {"model": "echo", "input": [{"text": PROMPT}]}),
]
"""Answered, cut, refused by the backend and by us."""


class Tap:
    """Everything that Redis was told (MONITOR) and every Celery event and control message, from now on."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.commands: list[str] = []
        self.celery: list[bytes] = []
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.sendall(f"AUTH {server.password}\r\nMONITOR\r\n".encode())
        self._client = server.client()
        self._pubsub: Any = self._client.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.psubscribe("/*", "celery*")
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._listen)]
        for thread in self._threads:
            thread.start()
        with server.client() as client:
            client.ping()
            wait_until(lambda: any('"PING"' in line for line in self.commands) or client.ping() is None, 5, "MONITOR")

    def _read(self) -> None:
        rest = b""
        while part := self._receive():
            *lines, rest = (rest + part).split(b"\r\n")
            self.commands += [line.decode("latin-1").removeprefix("+") for line in lines]

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(1 << 20)
        except OSError:
            return b""

    def _listen(self) -> None:
        try:
            for message in self._pubsub.listen():
                data = message["data"]
                if isinstance(data, bytes):
                    # kombu's envelope holds its body as Base64.
                    self.celery += [data, base64.b64decode(json.loads(data)["body"])]
        except (redis.RedisError, OSError, ValueError):
            return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._client.connection_pool.disconnect()
        self._client.close()


class Scene(Startable):
    """A whole system with Flower, in which every kind of request has been seen through once."""

    def __init__(self, folder: Any, server: RedisServer, backend: DemoBackend) -> None:
        self.server = server
        self.backend = backend
        port = free_port()
        self.system = System(
            folder / "system",
            redis_url=server.url,
            backend_url=backend.url,
            models=MODELS,
            settings={"flower": {"port": port, "password": LOGIN[1]}, "log_level": "debug"},
            worker_environment={"CANARY_KEY": KEY},
        )
        self.system.write_config()
        self.flower = self.system.command("flower")
        self.flower_url = f"http://127.0.0.1:{port}"
        self.ids: list[str] = []
        self.alive: dict[str, bytes] = {}
        self.inspected: dict[str, Any] = {}

    def start(self) -> None:
        self.flower.start()
        self.system.start()
        wait_until(
            lambda: "aqueduct.flower ready" in self.flower.log() or not self.flower.running, 30, "Flower to listen"
        )

    def stop(self) -> None:
        self.system.stop()
        self.flower.stop()

    def play(self) -> None:
        """Answer, refuse, cut and leave requests; look at Redis and at the workers while some run and one waits."""
        with ExitStack() as stack:
            client = stack.enter_context(self.system.client())
            for name, stream in (("echo", False), ("echo", True), ("refuses", False), ("cut", True)):
                self._remember(client.post(CHAT, json=body(name, stream=stream)))
            for path, asked in OTHER_KINDS:
                self._remember(client.post(path, json=asked))
            large = body("echo")
            large["messages"][0]["content"] += " x" * (LARGE_BYTES // 2)
            self._remember(client.post(CHAT, json=large))
            reading = []
            for name in ("long", "one-slot"):
                answer = stack.enter_context(client.stream("POST", CHAT, json=body(name, stream=True)))
                lines = answer.iter_lines()
                next(lines)
                reading.append(lines)  # a collected iterator closes its connection
                self._remember(answer)
            stack.enter_context(self._ask_without_waiting("one-slot"))
            with self.server.client() as looking:
                wait_until(lambda: looking.zcard(keys.lane("default", "one-slot")), 10, "a request to wait")
                self.ids += [one.decode() for one in looking.zrange(keys.lane("default", "one-slot"), 0, -1)]
                self.alive = dump(looking)
            self.inspected = self._inspect()

    def _remember(self, answer: httpx.Response) -> None:
        self.ids.append(answer.headers["x-request-id"].removeprefix("req_"))

    def _ask_without_waiting(self, name: str) -> socket.socket:
        """Send a request; its connection is closed by the caller, unanswered."""
        connection = connect(self.system)
        connection.sendall(chat_request(self.system, body(name)))
        return connection

    def _inspect(self) -> dict[str, Any]:
        app = celery_app(load_settings(self.system.config_file, resolve_backend_keys=False))
        inspect = app.control.inspect(timeout=1.0)
        asked = ("active", "reserved", "scheduled", "stats", "registered", "active_queues", "conf", "report", "revoked")
        replies = {name: getattr(inspect, name)() for name in asked}
        app.close()
        return replies


def body(name: str, *, stream: bool = False) -> dict[str, Any]:
    return chat_body(name, f"say {PROMPT} please", stream=stream)


def dump(client: redis.Redis) -> dict[str, bytes]:
    """Return every key with all it holds."""
    found = {}
    asked: Any = client
    for name in client.scan_iter(count=1000):
        kind: Any = client.type(name)
        read: Any = {
            b"string": asked.get,
            b"hash": asked.hgetall,
            b"list": lambda one: asked.lrange(one, 0, -1),
            b"set": asked.smembers,
            b"zset": lambda one: asked.zrange(one, 0, -1),
        }.get(kind, lambda one: None)(name)
        found[bytes(name).decode()] = read if isinstance(read, bytes) else repr(read).encode()
    return found


@pytest.fixture(scope="module")
def played(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[tuple[Scene, Tap]]:
    with (
        closing(Tap(module_redis)) as tap,
        Scene(tmp_path_factory.mktemp("canary"), module_redis, demo_backend) as scene,
    ):
        scene.play()
        with module_redis.client() as client:
            running = [keys.running(name) for name in MODELS]
            wait_until(lambda: not any(client.zcard(key) for key in running), 10, "every slot to be free")
        last = f"req_{scene.ids[-2]}"
        wait_until(lambda: any(last.encode() in event for event in tap.celery), 10, "the last job's Celery event")
        yield scene, tap


def test_the_canaries_were_really_there(played: tuple[Scene, Tap]) -> None:
    scene, tap = played
    calls = [call for call in scene.backend.requests() if PROMPT in json.dumps(call)]
    assert len(calls) >= 7
    assert any(KEY in json.dumps(call) for call in calls)
    assert any(PROMPT.encode() in value for value in scene.alive.values())
    assert any(PROMPT in line for line in tap.commands)
    assert tap.celery


def test_logs_hold_neither_even_at_debug_level(played: tuple[Scene, Tap]) -> None:
    scene, _ = played
    logs = scene.system.logs() + scene.flower.log() + scene.backend.process.log()
    logs += (scene.server.folder / "redis.log").read_text(errors="replace")
    assert "req_" + scene.ids[0] in logs
    assert EITHER not in logs


def test_only_workers_have_the_backends_key_and_no_command_line_has(played: tuple[Scene, Tap]) -> None:
    scene, _ = played
    assert scene.system.api is not None
    assert KEY in str(psutil.Process(scene.system.workers[0].pid).environ())
    for process in (scene.system.api, scene.flower):
        assert EITHER not in str(psutil.Process(process.pid).environ())
    for process in (scene.system.api, scene.flower, *scene.system.workers):
        assert EITHER not in " ".join(psutil.Process(process.pid).cmdline())


def test_flowers_pages_and_api_hold_neither(played: tuple[Scene, Tap]) -> None:
    scene, _ = played
    with httpx.Client(base_url=scene.flower_url, auth=LOGIN, timeout=10, follow_redirects=True) as client:
        wait_until(lambda: f"req_{scene.ids[0]}" in client.get("/api/tasks").text, 10, "Flower to list the request")
        worker = client.get("/workers?json=1").json()["data"][0]["hostname"]
        paths = ["/", "/tasks", "/workers", "/broker", "/metrics", f"/worker/{worker}"]
        paths += ["/api/tasks", "/api/workers?refresh=1", "/api/queues/length", "/api/task/types"]
        paths += [f"/task/req_{one}" for one in scene.ids] + [f"/api/task/info/req_{one}" for one in scene.ids]
        for path in paths:
            assert EITHER not in client.get(path).text, path
    with httpx.Client(base_url=scene.flower_url, auth=LOGIN, timeout=10) as client:
        assert EITHER not in client.post("/tasks/datatable", data={"draw": "1", "start": "0", "length": "100"}).text


def test_celery_events_and_inspect_hold_neither(played: tuple[Scene, Tap]) -> None:
    scene, tap = played
    assert EITHER.encode() not in b"".join(tap.celery)
    assert scene.inspected["stats"], "no worker answered inspect"
    assert EITHER not in repr(scene.inspected)


def test_while_a_job_lives_only_its_own_body_and_log_hold_the_prompt(played: tuple[Scene, Tap]) -> None:
    scene, _ = played
    allowed = {key(one) for one in scene.ids for key in (keys.job, keys.body, keys.log)}
    holding = {name for name, value in scene.alive.items() if EITHER.encode() in value}
    assert keys.job(scene.ids[-1]) in holding, "the waiting job's body"
    assert holding <= allowed
    assert not any(KEY.encode() in value for value in scene.alive.values())


def test_redis_is_told_the_prompt_only_by_commands_on_the_jobs_own_keys(played: tuple[Scene, Tap]) -> None:
    scene, tap = played
    with_canary = [line for line in tap.commands if EITHER in line]
    assert with_canary
    wrong = [line[:300] for line in with_canary if not _is_allowed(line, set(scene.ids))]
    assert wrong == []
    assert not any(KEY in line for line in tap.commands)


def _is_allowed(line: str, ids: set[str]) -> bool:
    """Tell whether a line of MONITOR is one of the three kinds that this module's head names."""
    match = _MONITORED.match(line)
    words = _WORD.findall(match["words"]) if match else []
    if len(words) < 2:
        return False
    name, first = words[0].upper(), words[1]
    if name == "EVALSHA":
        admit, append = ADMIT.sha1.decode(), APPEND.sha1.decode()
        if first == admit:
            return words[4] in ids  # behind the packed numbers
        return first == append and EITHER not in " ".join(words[3:5])
    if name == "HSET":
        return first in {keys.job(one) for one in ids}
    if name == "RPUSH":
        return first in {key(one) for one in ids for key in (keys.log, keys.body)}
    return bool(name == "PUBLISH" and first.startswith(keys.PREFIXES["events"]))


def test_slow_log_is_off(played: tuple[Scene, Tap]) -> None:
    scene, _ = played
    with scene.server.client() as client:
        assert client.config_get("slowlog-max-len") == {"slowlog-max-len": "0"}
        assert client.slowlog_get(1000) == []


def test_after_the_end_only_logs_with_a_short_life_hold_the_prompt(played: tuple[Scene, Tap]) -> None:
    scene, _ = played
    with scene.server.client() as client:
        holding = [name for name, value in dump(client).items() if EITHER.encode() in value]
        lifetimes = {name: client.pttl(name) for name in holding}
    logs = {keys.log(one) for one in scene.ids}
    assert set(holding) <= logs
    assert all(0 < life <= MAX_KEEP_MS for life in lifetimes.values()), lifetimes
    cancelled = {keys.log(one) for one in scene.ids[-3:]}
    assert not cancelled & set(holding), "a job whose client left keeps nothing"
