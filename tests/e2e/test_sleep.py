"""Models whose backends may be away: what waits, who wakes them, how they are fed, and how they are put to sleep."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import openai

from tests.support.batches import chat_line
from tests.support.calls import Call
from tests.support.chat import chat_body
from tests.support.models import model
from tests.support.processes import RedisServer, free_port
from tests.support.receiver import Receiver
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

AWAY_SECONDS = 6.0
REQUESTS = 60
CONCURRENCY = 8
SECRET = "only-of-workers"


class Site:
    """A gateway whose backend is not there until it is started, and a receiver of hooks."""

    def __init__(
        self,
        folder: Path,
        redis: RedisServer,
        *,
        workers: int = 1,
        behaviour: str = "tokens=4&token_seconds=0.02",
        **settings: Any,
    ) -> None:
        with redis.client() as client:
            client.flushall()  # cool-downs outlast a test
        self.port = free_port()
        self.hooks = Receiver()
        self.backend = DemoBackend(folder, self.port)
        made = {
            "when_absent": "hold",
            "concurrency": CONCURRENCY,
            "max_wait_seconds": 60,
            "wake": {"url": self.hooks.url, "headers": {"x-key": "${HOOK_KEY}"}, "body": '{"replicas": 1}'},
            **settings,
        }
        self.system = System(
            folder,
            redis_url=redis.url,
            backend_url=f"http://127.0.0.1:{self.port}/v1",
            models={"sleepy": model(behaviour, **made)},
            workers=[()] * workers,
            worker_environment={"HOOK_KEY": SECRET},
            settings={"testing": {"renew_seconds": 0.5, "sweep_seconds": 0.5}, "api": {"keep_alive_seconds": 0.4}},
        )

    def __enter__(self) -> Site:
        self.hooks.open()
        self.system.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.system.stop()
        self.backend.stop()
        self.hooks.close()

    def call(self, prompt: str, *, stream: bool = False) -> Call:
        return Call(self.system, "sleepy", prompt, stream=stream)


def test_what_comes_while_no_backend_is_there_waits_for_it_and_one_hook_wakes_it(
    tmp_path: Path, module_redis: RedisServer
) -> None:
    with Site(tmp_path, module_redis, workers=2) as site:
        calls = [site.call(f"c{number}", stream=number % 2 == 0) for number in range(REQUESTS)]
        (hook,) = site.hooks.wait(1, 10)
        assert (hook.headers["x-key"], hook.body) == (SECRET, b'{"replicas": 1}')
        time.sleep(AWAY_SECONDS)
        assert not any(call.has_ended for call in calls)
        site.backend.start()
        for call in calls:
            call.wait(30).assert_complete(4)
        assert len(site.hooks.deliveries) == 1
        state = site.backend.state()
        assert state["total_requests"] == REQUESTS
        assert state["max_open_requests"] <= CONCURRENCY
        assert [line for line in site.system.logs().splitlines() if SECRET in line or "key=in-the-url" in line] == []


def test_who_waits_is_told_that_the_model_is_being_started(tmp_path: Path, module_redis: RedisServer) -> None:
    with Site(tmp_path, module_redis) as site:
        first = site.call("meets-it", stream=True)  # no slot was taken: it was called, and handed back
        site.hooks.wait(1, 20)
        second = site.call("comes-then", stream=True)
        wait_until(lambda: ", held: starting" in first.text, 20, "the first to be told")
        wait_until(lambda: ", held: starting" in second.text, 20, "the second to be told")
        with site.system.client() as client:
            said = client.get(f"/requests/{first.request_id}").raise_for_status().json()
        assert (said["state"], said["held"], said["position"], said["estimated_wait_ms"]) == (
            "waiting",
            "starting",
            0,
            None,
        )
        queues = site.system.command("queues", "--once", "--json").start()
        assert queues.wait(20) == 0
        (row,) = json.loads(queues.log().splitlines()[-1])["models"]
        assert (row["held"], row["waiting"]["default"], row["running"]) == ("starting", 2, 0)
        site.backend.start()
        for call in (first, second):
            call.wait(20).assert_complete(4)

        def told() -> bool:
            lines = [line for line in site.system.logs().splitlines() if first.request_id in line]
            return any("queue_ms=" in line and "held=starting" in line for line in lines)

        wait_until(told, 5, "the request's line")


def test_a_backend_that_had_the_request_is_not_away(tmp_path: Path, module_redis: RedisServer) -> None:
    with Site(tmp_path, module_redis, behaviour="cut_before=1", max_attempts=1) as site:
        site.backend.start()
        assert site.call("cut").wait(20).assert_one_error()["code"] == "backend_unavailable"
        assert site.hooks.deliveries == []


def test_who_has_waited_for_too_long_is_told_that_the_model_did_not_start(
    tmp_path: Path, module_redis: RedisServer
) -> None:
    with Site(tmp_path, module_redis, max_wait_seconds=2) as site:
        site.hooks.status = 500
        error = site.call("too-long").wait(20).assert_one_error()
        assert error["code"] == "queue_timeout"
        assert "did not start" in error["message"]
        wait_until(lambda: "wake hook failed: 127.0.0.1 answered 500" in site.system.logs(), 10, "the hook's failure")


def test_a_hook_that_fails_is_called_again_after_its_cool_down_while_somebody_waits(
    tmp_path: Path, module_redis: RedisServer
) -> None:
    hook = {"command": ["sh", "-c", f"echo $AQUEDUCT_MODEL >> {tmp_path}/woken; exit 1"]}
    limits = {"timeout_seconds": 1, "cooldown_seconds": 2}
    with Site(tmp_path, module_redis, wake={**hook, **limits}) as site:
        call = site.call("again")
        woken = tmp_path / "woken"
        wait_until(lambda: woken.exists() and woken.read_text().count("sleepy\n") >= 2, 20, "a second call")
        call.leave()
        site.backend.start()
        site.call("later").wait(20).assert_complete(4)


def test_a_model_that_loads_is_waited_for_by_its_health(tmp_path: Path, module_redis: RedisServer) -> None:
    with Site(tmp_path, module_redis) as site, Receiver() as health:
        health.status = 503
        site.system.rewrite(
            models={
                "sleepy": {
                    **model("tokens=4", when_absent="hold", max_wait_seconds=60),
                    "backends": [{"url": f"http://127.0.0.1:{health.port}/v1", "health_path": "/health"}],
                }
            }
        )
        assert site.system.command("reload").start().wait(20) == 0
        call = site.call("loading")
        wait_until(lambda: sum(one.path == "/health" for one in health.deliveries) >= 3, 20, "looks at its health")
        asked = [one.path for one in health.deliveries]
        assert asked.count("/v1/chat/completions") <= 3  # as often as a run tries, and never again until it is ready
        call.leave()


def test_a_model_without_any_worker_holds_its_requests_too(tmp_path: Path, module_redis: RedisServer) -> None:
    with Site(tmp_path, module_redis) as site:
        site.backend.start()
        site.system.workers[0].stop()
        with site.system.client() as client:
            client.get("/v1/models")
        call = site.call("nobody-there")
        time.sleep(2)
        assert not call.has_ended
        site.system.add_worker()
        call.wait(30).assert_complete(4)


def test_a_model_that_nobody_uses_is_put_to_sleep_once_and_woken_for_the_next(
    tmp_path: Path, module_redis: RedisServer
) -> None:
    acts = tmp_path / "acts"
    settings: dict[str, Any] = {
        "wake": {"command": ["sh", "-c", f"echo wake >> {acts}"]},
        "sleep": {
            "command": ["sh", "-c", f"echo sleeps >> {acts}; sleep 2; echo asleep >> {acts}"],
            "timeout_seconds": 5,
            "cooldown_seconds": 5,
        },
        "idle_seconds": 2,
    }
    with Site(tmp_path, module_redis, workers=2, **settings) as site:
        site.backend.start()
        site.call("first").wait(20).assert_complete(4)

        def begins() -> bool:
            return acts.exists() and acts.read_text().endswith("sleeps\n")

        wait_until(begins, 30, "the sleep hook", poll_seconds=0.02)
        before = acts.read_text()
        # One that comes just then waits for the hook's end, and has it woken then: its backend was about to go.
        call = site.call("just-then")
        call.wait(20).assert_complete(4)
        assert acts.read_text() == before + "asleep\nwake\n"


def test_a_reload_that_lets_nothing_wait_any_more_fails_what_waits(tmp_path: Path, module_redis: RedisServer) -> None:
    with Site(tmp_path, module_redis) as site:
        call = site.call("waits")
        site.hooks.wait(1, 20)
        time.sleep(1)
        assert not call.has_ended
        site.system.rewrite(models={"sleepy": model("tokens=4", when_absent="fail", concurrency=2)})
        assert site.system.command("reload").start().wait(20) == 0
        assert call.wait(20).assert_one_error()["code"] == "backend_unavailable"


def test_a_gateway_whose_models_wait_for_workers_is_ready_without_any(own_redis: RedisServer, tmp_path: Path) -> None:
    """Else nothing would be sent to it, and nobody would learn that workers are wanted."""
    models = {"sleepy": model("tokens=2", when_absent="hold"), "plain": model("tokens=2")}
    with System(
        tmp_path, redis_url=own_redis.url, backend_url="http://127.0.0.1:1/v1", models=models, workers=(),
        tokens={"look": {"role": "viewer"}}, settings={"storage": {"url": f"file://{tmp_path}/store"}},
    ) as system, system.client(system.tokens["look"]) as looking, system.client() as client:  # fmt: skip
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "unserved": ["sleepy", "plain"]})

        def demand(name: str) -> object:
            return looking.get("/admin/v1/demand", params={"model": name}).json()["jobs"]

        assert demand("sleepy") == 0
        with client.stream("POST", "/v1/chat/completions", json=chat_body("sleepy", stream=True)):
            wait_until(lambda: demand("sleepy") == 1, 20, "the demand for a worker")
        wait_until(lambda: demand("sleepy") == 0, 20, "nobody to wait any more")
        with openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=system.token) as sdk:
            lines = b"\n".join(json.dumps(chat_line(f"l{at}", "Hello", "sleepy")).encode() for at in range(2))
            file = sdk.files.create(file=("in.jsonl", lines), purpose="batch")
            sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        wait_until(lambda: (demand("sleepy"), demand("plain")) == (1, 1), 20, "a worker to be wanted for the batch")
        system.add_worker("plain")
        wait_until(lambda: demand("plain") == 0, 30, "the batch's model to be known, and this one to be left out")
        wait_until(lambda: demand("sleepy") == 2, 30, "the demand of the batch's lines")
        system.workers.pop().stop()
        assert client.get("/readyz").status_code == 200
        system.rewrite(models={"sleepy": model("tokens=2"), "plain": model("tokens=2")})
        assert system.api is not None
        system.api.signal(signal.SIGHUP)
        wait_until(lambda: client.get("/readyz").status_code == 503, 20, "models that do not wait any more")
