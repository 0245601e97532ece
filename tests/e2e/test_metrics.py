"""`/metrics` of real processes: to the unit what their clients saw, whichever process is asked and whatever dies."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.metrics import by, scrape, total
from tests.support.models import model
from tests.support.processes import Process, RedisServer, free_port
from tests.support.rooms import NOBODY
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

MODELS = {
    "good": model("tokens=5&token_seconds=0.01", aliases=["nice"]),
    "retries": model("tokens=2&status=503&fail_times=1", max_attempts=2),
    "fails-over": model("tokens=1") | {"backends": [{"url": NOBODY, "model": "x"}, {"model": "demo?tokens=1"}]},
    "refuses": model("status=400&code=bad_thing"),
    "long": model("tokens=400&token_seconds=0.05"),
    "one-slot": model("tokens=400&token_seconds=0.05", concurrency=1),
    "narrow": model("tokens=3&token_seconds=0.1", concurrency=1),
}
TESTING = {"lease_seconds": 2, "renew_seconds": 0.3, "sweep_seconds": 0.3}


class Site:
    """Two API processes and two workers over one Redis, and what their clients saw."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.second_url = ""
        self.second: Process
        self.seen: Counter[tuple[str, str]] = Counter()
        """Answers by model and status."""
        self.tokens: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def start_second_api(self) -> None:
        port = free_port()
        self.second_url = f"http://127.0.0.1:{port}"
        self.second = self.system.command("api", "--port", str(port), name="api-2").start()
        wait_until(self._is_ready, 30, "the second API")

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.second_url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, name: str, number: int, *, stream: bool, second: bool = False) -> None:
        """Send a request and note what came of it."""
        body = chat_body(name, f"{name} {number}", stream=stream)
        if stream:
            body["stream_options"] = {"include_usage": True}
        url = self.second_url if second else self.system.base_url
        answer = httpx.post(url + CHAT, json=body, headers={"authorization": f"Bearer {self.system.token}"}, timeout=60)
        with self._lock:
            self.seen[{"nice": "good"}.get(name, name), str(answer.status_code)] += 1
            for usage in usages(answer):
                self.tokens["good" if name == "nice" else name, "input"] += usage["prompt_tokens"]
                self.tokens["good" if name == "nice" else name, "output"] += usage["completion_tokens"]


def usages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield what an answer says that it has cost."""
    if answer.status_code != 200:
        return
    texts = [answer.text]
    if answer.headers["content-type"].startswith("text/event-stream"):
        texts = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    for text in texts:
        if usage := json.loads(text).get("usage"):
            yield usage


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("system")
    with System(
        folder,
        redis_url=module_redis.url,
        backend_url=demo_backend.url,
        models=MODELS,
        tokens={"viewer": {"role": "viewer"}},
        settings={"testing": TESTING, "storage": {"url": f"file://{folder}/store"}, "batches": {"line_attempts": 1}},
        workers=((), ()),
    ) as running:
        made = Site(running)
        made.start_second_api()
        yield made
        made.second.stop()


def equal(read: Callable[[], object], wanted: object) -> None:
    """Wait until what is read is what is wanted: other processes tell every two seconds."""
    seen: list[object] = []

    def is_so() -> bool:
        seen[:] = [read()]
        return seen[0] == wanted

    try:
        wait_until(is_so, 20, "the numbers to agree", poll_seconds=0.2)
    except AssertionError:
        assert seen[0] == wanted


@pytest.mark.chaos
def test_after_a_load_with_a_kill_a_drain_and_batches_every_number_is_what_clients_saw(
    site: Site, module_redis: RedisServer
) -> None:
    url, system = site.system.base_url, site.system
    with ThreadPoolExecutor(24) as pool:
        names = ["good", "nice", "retries", "refuses", "none", "narrow"] * 8
        asked = [
            pool.submit(site.ask, name, number, stream=number % 2 == 0, second=number % 3 == 0)
            for number, name in enumerate(names)
        ]
        wait_until(lambda: sum(one.done() for one in asked) >= 20, 30, "the load to run")
        system.workers[0].kill()
        for one in asked:
            one.result()
    wait_for_telling(module_redis, site.second)
    site.ask("good", 99, stream=False, second=True)
    site.second.terminate()  # its last word holds what it has not told yet
    assert site.second.wait(20) == 0
    with system.client() as client, client.stream("POST", CHAT, json=chat_body("long", stream=True)) as answer:
        next(answer.iter_raw())
    site.seen["long", "499"] += 1
    assert run_batch(site, "good", 6) == {"total": 6, "completed": 6, "failed": 0}
    assert run_batch(site, "refuses", 3) == {"total": 3, "completed": 0, "failed": 3}
    site.tokens.update({("good", "input"): 12, ("good", "output"): 30})  # two words a prompt

    wanted = Counter({("" if name == "none" else name, code): number for (name, code), number in site.seen.items()})
    equal(lambda: by_model_of_jobs(url), wanted)
    equal(lambda: by(url, "tokens_total", "model", "type"), site.tokens)
    equal(lambda: by(url, "batches_total", "status"), Counter({("completed",): 2}))
    ended = {("good", "completed"): 6, ("refuses", "failed"): 3}
    assert by(url, "batch_lines_total", "model", "outcome") == ended
    assert total(url, "batch_lines_accepted_total") == 9
    assert total(url, "requests_total", kind="chat.completions") == 50
    assert total(url, "request_seconds_count", kind="chat.completions") == 50
    equal(lambda: by(url, "cancels_total", "state"), Counter({("running",): 1}))
    held = total(url, "held_total", reason="room")
    assert held > 0
    equal(lambda: system.logs().count("held=room"), held)
    assert total(url, "runs_total", model="good", code="200") > 0
    assert total(url, "jobs_waiting") == total(url, "jobs_running") == 0
    equal(lambda: total(url, "workers", model="narrow"), 1)  # the killed one counts until its life has run out
    equal(lambda: total(url, "slots", model="narrow"), 1)


def wait_for_telling(server: RedisServer, process: Process) -> None:
    """Wait until a process has just told what it has counted; the next time is 2 s away."""
    with server.client() as client:
        (key,) = client.scan_iter(f"aq2:counted:*-{process.pid}-*", count=10_000)
        before = client.get(key)
        wait_until(lambda: client.get(key) != before, 20, "the next telling")


def by_model_of_jobs(url: str) -> Counter[tuple[str, ...]]:
    found = by(url, "requests_total", "kind", "model", "code")
    return Counter({key[1:]: number for key, number in found.items() if key[0] == "chat.completions"})


def run_batch(site: Site, name: str, count: int) -> dict[str, int]:
    """Run a batch to its end; returns its counts."""
    made = begin_batch(site, name, count)
    return wait_until(lambda: batch_counts(site, made), 40, "the batch to end")


def begin_batch(site: Site, name: str, count: int) -> str:
    """Make a batch; returns its id."""
    lines = [
        {"custom_id": f"id{n}", "method": "POST", "url": CHAT, "body": chat_body(name, f"line {n}")}
        for n in range(count)
    ]
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with site.system.client() as client:
        file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", data)}).json()
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        made: str = client.post("/v1/batches", json=asked).json()["id"]
    return made


def batch_counts(site: Site, batch_id: str) -> dict[str, int]:
    """Return the counts of a batch that has ended, nothing before."""
    with site.system.client() as client:
        batch = client.get(f"/v1/batches/{batch_id}").json()
    counts: dict[str, int] = batch["request_counts"]
    return counts if batch["status"] in ("completed", "failed", "expired") else {}


def test_calls_made_again_are_counted_as_the_log_tells_them(site: Site) -> None:
    url = site.system.base_url

    def told(name: str) -> list[str]:
        lines = (line for line in site.system.logs().splitlines() if f" model={name} " in line and " attempts=" in line)
        return [line.partition(" attempts=")[2].split()[0] for line in lines]

    def again(name: str) -> int:
        return sum(int(attempts) - 1 for attempts in told(name) if attempts != "-")

    before = len(told("fails-over"))
    for number in range(12):
        site.ask("fails-over", number, stream=False)
        equal(lambda: len(told("fails-over")), before + number + 1)  # a line comes behind its answer
        if again("fails-over"):
            break
    wanted = Counter({("fails-over",): again("fails-over")})
    assert wanted.total() > 0
    equal(lambda: by(url, "failovers_total", "model"), wanted)
    assert total(url, "retries_total", model="fails-over") == wanted.total()
    asked = total(url, "requests_total", model="fails-over")
    codes = by(url, "backend_seconds_count", "model", "code")
    assert (codes["fails-over", "200"], codes["fails-over", "503"]) == (asked, wanted.total())


def test_how_backends_stand_is_told_while_it_is_so(site: Site, demo_backend: DemoBackend) -> None:
    url, dead, live = site.system.base_url, NOBODY.split("/")[2], demo_backend.url.split("/")[2]
    for number in range(100):
        site.ask("fails-over", number, stream=False)
        if by(url, "backend_ejections_total", "model"):
            break
    assert by(url, "backend_ejections_total", "model", "backend").keys() == {("fails-over", dead)}
    equal(lambda: number_of(url, "backend_up", "fails-over", dead) in (0, 0.5), wanted=True)  # of two workers, or one
    assert number_of(url, "backend_up", "fails-over", live) == number_of(url, "backend_up", "good", live) == 1
    assert number_of(url, "backend_slots", "narrow", live) == 1
    assert number_of(url, "backend_held", "narrow", live) == 0
    with site.system.client() as client, ExitStack() as stack:
        parts = list[Iterator[bytes]]()
        for _ in range(3):
            answer = stack.enter_context(client.stream("POST", CHAT, json=chat_body("long", stream=True)))
            parts.append(answer.iter_raw())  # kept: its end would be the stream's
            next(parts[-1])
        equal(lambda: number_of(url, "backend_running", "long", live), 3)
        ejections = total(url, "backend_ejections_total")
    equal(lambda: number_of(url, "backend_running", "long", live), 0)
    assert total(url, "backend_ejections_total") == ejections  # nobody asked it meanwhile, and each counts once
    assert (number_of(url, "redis_memory_bytes") or 0) > 100_000


def number_of(url: str, name: str, model: str = "", backend: str = "") -> float | None:
    """Return a gauge's number, None where it is not told."""
    wanted = {"model": model, "backend": backend} if model else {}
    found = (
        value
        for (sample, given), value in scrape(url).items()
        if sample == f"aqueduct_{name}" and dict(given) == wanted
    )
    return next(found, None)


@pytest.mark.chaos
def test_how_batches_stand_is_told_while_they_run(site: Site) -> None:
    url = site.system.base_url
    made = begin_batch(site, "long", 3)
    equal(lambda: by(url, "batches_running", "model"), Counter({("long",): 1}))
    equal(lambda: total(url, "batch_lines_left", model="long"), 3)
    assert total(url, "batch_idle_seconds", model="long") < 60
    assert 23 * 3600 < total(url, "batch_window_seconds", model="long") <= 24 * 3600
    with site.system.client() as client:
        client.post(f"/v1/batches/{made}/cancel").raise_for_status()
    equal(lambda: by(url, "batches_running", "model"), Counter())
    assert by(url, "batch_lines_left", "model") == Counter()


def test_gauges_are_the_queues_own_whichever_process_is_asked(site: Site) -> None:
    if not site.second.running:
        site.start_second_api()
    with ExitStack() as stack:
        client, parts = stack.enter_context(site.system.client()), list[Iterator[bytes]]()
        for number in range(4):
            body = chat_body("one-slot", f"gauge {number}", stream=True)
            answer = stack.enter_context(client.stream("POST", CHAT, json=body))
            parts.append(answer.iter_raw())  # kept: its end would be the stream's
            next(parts[-1])  # a token, or that it waits
        for url in (site.system.base_url, site.second_url):
            assert total(url, "jobs_running", model="one-slot") == 1
            assert by(url, "jobs_waiting", "model", "lane") == {("one-slot", "default"): 3}
            assert total(url, "slots", model="one-slot") == 1
            assert total(url, "oldest_waiting_seconds", model="one-slot") < 60


def test_a_redis_that_is_full_is_told_to_be_full_and_not_away(site: Site, module_redis: RedisServer) -> None:
    url = site.system.base_url
    site.ask("good", 1, stream=False)  # there is something to tell
    with module_redis.client() as redis:
        redis.config_set("maxmemory", "1mb")
        try:
            used, most = number_of(url, "redis_memory_bytes"), number_of(url, "redis_memory_limit_bytes")
            assert number_of(url, "redis_up") == 1
            assert total(url, "slots", model="narrow") == 1
        finally:
            redis.config_set("maxmemory", "0")
    assert most == 1_048_576
    assert used is not None
    assert used > most


def test_who_may_look(site: Site) -> None:
    path, proxied = f"{site.system.base_url}/metrics", {"x-forwarded-for": "10.0.0.1"}

    def status(token: str | None = None, **headers: str) -> int:
        bearer = {"authorization": f"Bearer {site.system.tokens[token]}"} if token is not None else {}
        return httpx.get(path, headers={**headers, **bearer}, timeout=10).status_code

    assert status() == 200
    assert status(**proxied) == 401
    assert status(host="localhost:1") == status(host="[::1]") == 200
    for host in ("evil.example", "evil.example:", "evil.example:99999", "evil@localhost", "localhost#evil", "[", ""):
        assert status(host=host) == 401, host  # a page whose name was made to point here, or what nobody can read
    assert status("test", **proxied) == 403
    assert status("viewer", **proxied) == 200


def test_nothing_that_a_client_made_up_becomes_a_label(site: Site) -> None:
    with site.system.client() as client:
        client.post(CHAT, json=chat_body("secret-name"))
        client.get("/v1/secret-path")
        client.post(CHAT, json=chat_body("good"), headers={"authorization": "Bearer sk-secret-token"})
        client.post(CHAT, json=chat_body("refuses", "secret prompt"))
    text = httpx.get(f"{site.system.base_url}/metrics", timeout=10).text
    assert "secret" not in text
    assert "bad_thing" not in text
    assert site.system.token not in text
    assert "test" not in {value for _, labels in scrape(site.system.base_url) for _, value in labels}


def test_turned_off_nothing_is_counted_or_told(make_system: MakeSystem, own_redis: RedisServer) -> None:
    system = make_system(models={"demo": model("tokens=2")}, settings={"metrics": False}, redis_url=own_redis.url)
    with system.client() as client, own_redis.client() as redis:
        assert client.post(CHAT, json=chat_body("demo")).status_code == 200
        assert client.get("/metrics").status_code == 404
        system.stop()
        assert list(redis.scan_iter("aq2:metrics:*")) == list(redis.scan_iter("aq2:counted:*")) == []
