"""A worker whose Celery consumer has gone silent still serves, and then exits; one that is only full lives on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from shared import keys
from shared.broker import TICKET_TASK, celery_app
from shared.config import load_settings
from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.waiting import wait_until


def test_worker_that_hears_no_tickets_serves_on_and_exits(make_system: MakeSystem) -> None:
    system = make_system(models={"demo": model("tokens=2")})
    control = celery_app(load_settings(system.config_file, environ={})).control
    control.cancel_consumer(keys.queue("demo"), reply=True, timeout=5)
    (worker,) = system.workers
    with system.client() as client:

        def ask_until_it_ends() -> bool:
            if worker.running:
                assert client.post(CHAT, json=chat_body("demo")).status_code in (200, 503)
            return not worker.running

        wait_until(ask_until_it_ends, 60, "the worker to exit")
    assert worker.returncode == 1
    assert "tickets lie unfetched" in worker.log()


def test_a_ticket_that_is_none_is_dropped(make_system: MakeSystem) -> None:
    system = make_system(models={"demo": model("tokens=2")})
    app = celery_app(load_settings(system.config_file, environ={}))
    for arguments in ((), ("demo", 2), ({"a": 1},), ("no-such-model",)):
        app.send_task(TICKET_TASK, args=arguments, queue=keys.queue("demo"), ignore_result=True)
    app.close()
    with system.client() as client:
        answers = [client.post(CHAT, json=chat_body("demo")).status_code for _ in range(5)]
    assert answers == [200] * 5
    (worker,) = system.workers
    assert worker.running


def test_a_worker_that_is_full_for_long_lives_on(make_system: MakeSystem) -> None:
    system = make_system(models={"demo": model("tokens=2&answer_seconds=1", concurrency=1)})
    with system.client(timeout=60) as client, ThreadPoolExecutor(22) as callers:
        answers = list(callers.map(lambda _: client.post(CHAT, json=chat_body("demo")).status_code, range(22)))
    assert answers == [200] * 22  # 22 s of work that was there from the start, so that no ticket came meanwhile
    (worker,) = system.workers
    assert worker.running
    assert "tickets lie unfetched" not in worker.log()
