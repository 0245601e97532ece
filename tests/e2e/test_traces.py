"""Traces of real processes at a real collector: one trace shows every hop, with the right parents."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis

from tests.support.chat import CHAT, chat_body
from tests.support.collector import Collector, Received
from tests.support.models import model
from tests.support.processes import Process, RedisServer, free_port
from tests.support.rooms import NOBODY
from tests.support.streams import completion_id, resumed, stored_stream
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

PROMPT = "canary-prompt-5Qx"
MODELS = {
    "good": model("tokens=5"),
    "one-slot": model("tokens=8&token_seconds=0.1", concurrency=1),
    "expires": model("tokens=1000&token_seconds=0.1", concurrency=1, max_wait_seconds=0.3),
    "retries": model("tokens=2&status=503&fail_times=1", max_attempts=2),
    "fails-over": model("tokens=1") | {"backends": [{"url": NOBODY, "model": "x"}, {"model": "demo?tokens=1"}]},
    "refuses": model("status=400&code=bad_thing"),
    "checked": model("prefix=1", structured_output="retry", structured_output_retries=1),
    "slow": model("tokens=16&token_seconds=0.1", max_attempts=1),
    "lost": model("tokens=30&token_seconds=0.1"),
}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}


class Site:
    """Two API processes and a worker over one Redis and one store, all of them traced."""

    def __init__(self, folder: Path, redis: RedisServer, backend: DemoBackend, collector: Collector) -> None:
        self.collector = collector
        self.backend = backend
        self.system = System(
            folder, redis_url=redis.url, backend_url=backend.url, models=MODELS, environment=collector.environment,
            tokens={"member": {"group": "team"}, "looks": {"role": "viewer"}},
            settings={
                "log_format": "json", "storage": {"url": f"file://{folder}/store"}, "groups": [{"name": "team"}],
                "batches": {"shortest_window": "1s"},
                "testing": {"lease_seconds": 2, "renew_seconds": 0.3, "sweep_seconds": 0.3},
            },
        ).start()  # fmt: skip
        port = free_port()
        self.second: Process = self.system.command("api", "--port", str(port), name="api-2").start()
        self.second_url = f"http://127.0.0.1:{port}"
        wait_until(self._is_ready, 30, "the second API")
        self.client = self.system.client()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.second_url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self.client.close()
        self.second.stop()
        self.system.stop()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[Site]:
    with Collector() as collector:
        running = Site(tmp_path_factory.mktemp("traced"), module_redis, demo_backend, collector)
        yield running
        running.stop()


class Caller:
    """A traced client: its trace, and its span, which was sampled or not."""

    def __init__(self, *, sampled: bool = True) -> None:
        self.trace, self.span = secrets.token_hex(16), secrets.token_hex(8)
        self.headers = {"traceparent": f"00-{self.trace}-{self.span}-{int(sampled):02x}", "tracestate": "vendor=x1"}


def ask(site: Site, name: str, *, stream: bool = False, **more: Any) -> tuple[Caller, httpx.Response]:
    caller = Caller()
    body = {**chat_body(name, PROMPT, stream=stream), **more}
    return caller, site.client.post(CHAT, json=body, headers=caller.headers)


def whole(site: Site, caller: Caller) -> list[Received]:
    """Return a request's spans once both sides have told of its end: what ended before it is among them."""

    def ends() -> bool:
        return {"server", "consumer"} <= {span.kind for span in site.collector.of(caller.trace)}

    wait_until(ends, 20, "the request's last spans")
    return site.collector.of(caller.trace)


def one(spans: list[Received], kind: str, name: str = "") -> Received:
    """Return the only span of this kind and name."""
    (found,) = [span for span in spans if span.kind == kind and (not name or span.name == name)]
    return found


def hops(spans: list[Received], caller: Caller) -> tuple[Received, Received, Received, list[Received]]:
    """Return a request's spans from the API to the backends, once their parents are seen to be right."""
    server, wait = one(spans, "server"), one(spans, "internal", "wait")
    run, calls = one(spans, "consumer", "run"), [span for span in spans if span.kind == "client"]
    assert server.parent == caller.span
    assert wait.parent == run.parent == server.id
    assert {call.parent for call in calls} == {run.id}
    assert {span.request_id for span in spans} == {server.request_id}
    assert server.begin_ns <= wait.end_ns <= run.begin_ns <= calls[0].begin_ns
    assert run.end_ns >= calls[-1].end_ns
    return server, wait, run, calls


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_one_trace_shows_every_hop_and_goes_on_at_the_backend(site: Site, stream: bool) -> None:
    caller, answer = ask(site, "good", stream=stream)
    server, _, run, (call,) = hops(whole(site, caller), caller)
    request_id = answer.headers["x-request-id"]
    assert (server.request_id, server.name, call.name) == (request_id, "chat good", "chat demo?tokens=5")
    assert server.attributes["http.response.status_code"] == call.attributes["http.response.status_code"] == 200
    for span in (server, run, call):
        assert span.attributes["gen_ai.usage.output_tokens"] == 5
    assert call.attributes["gen_ai.operation.name"] == "chat"
    assert call.attributes["gen_ai.response.model"] == "demo?tokens=5"
    assert call.attributes["server.port"] == httpx.URL(site.backend.url).port
    assert ("first token" in server.events) is stream
    assert ("gen_ai.response.time_to_first_chunk" in call.attributes) is stream
    assert (server.resource["service.name"], run.resource["service.name"]) == ("aqueduct-api", "aqueduct-worker")
    (seen,) = [one for one in site.backend.requests() if one["headers"]["x-request-id"] == request_id]
    assert seen["headers"]["traceparent"] == f"00-{caller.trace}-{call.id}-01"
    assert seen["headers"]["tracestate"] == "vendor=x1"
    wait_until(lambda: _lines(site, request_id), 10, "the request's line")
    (line,) = _lines(site, request_id)
    assert line["trace"] == caller.trace


def _lines(site: Site, request_id: str) -> list[dict[str, Any]]:
    """Return what the API's log holds of a request: it comes just behind the answer."""
    assert site.system.api is not None
    told = [json.loads(line) for line in site.system.api.log().splitlines()]
    return [line for line in told if line.get("request_id") == request_id]


def test_without_a_context_a_request_begins_a_trace_and_one_of_a_group_keeps_it(site: Site) -> None:
    with site.system.client(site.system.tokens["member"]) as client:
        answer = client.post(CHAT, json=chat_body("good"))
    request_id = answer.headers["x-request-id"]

    def found() -> list[Received]:
        return [span for span in site.collector.spans() if span.request_id == request_id]

    wait_until(lambda: len(found()) == 4, 20, "the request's spans")
    server = one(found(), "server")
    assert server.parent == ""
    assert {span.trace for span in found()} == {server.trace}
    assert {span.attributes.get("aqueduct.group") for span in found() if span.kind != "client"} == {"team"}


@pytest.mark.parametrize("name", ["retries", "fails-over"])
def test_each_call_of_a_retried_job_has_its_span(site: Site, name: str) -> None:
    for _ in range(20):  # which of two backends is called first is left to chance
        caller, answer = ask(site, name, user=f"traced-{name}")
        assert answer.status_code == 200
        server, _, run, calls = hops(whole(site, caller), caller)
        if len(calls) > 1:
            break
    first, second = calls
    why = {"retries": "backend_unavailable", "fails-over": "connect_failed"}[name]
    assert (first.is_error, first.attributes["error.type"]) == (True, why)
    assert (second.is_error, second.attributes["aqueduct.attempt"]) == (False, 2)
    assert first.end_ns <= second.begin_ns
    assert run.attributes["aqueduct.retries"] == 1
    assert run.attributes["aqueduct.failovers"] == int(name == "fails-over")
    assert (server.attributes["aqueduct.attempts"], server.is_error) == (2, False)


def test_each_ask_for_structured_output_has_its_span(site: Site) -> None:
    caller, answer = ask(site, "checked", response_format=FORMAT)
    assert answer.json()["error"]["code"] == "structured_output_mismatch"
    server, _, run, calls = hops(whole(site, caller), caller)
    assert [call.attributes["error.type"] for call in calls] == ["structured_output_mismatch"] * 2
    assert (server.attributes["error.type"], run.is_error) == ("structured_output_mismatch", True)


def test_a_job_that_was_lost_with_its_worker_goes_on_in_its_trace(site: Site) -> None:
    first = site.system.workers[0]
    caller = Caller()
    body = chat_body("lost", PROMPT)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(site.client.post, CHAT, json=body, headers=caller.headers)
        wait_until(lambda: site.backend.state()["open_requests"] > 0, 20, "the backend to be called")
        first.kill()
        site.system.workers.remove(first)
        site.system.add_worker()
        answer = asked.result()
    assert answer.status_code == 200
    # What the first one had told of by then is there, too.
    spans = [span for span in whole(site, caller) if span.name != "wait" or span.attributes["aqueduct.attempt"] == 2]
    server, wait, run, (call,) = hops(spans, caller)
    assert wait.attributes["aqueduct.attempt"] == run.attributes["aqueduct.attempt"] == 2
    assert server.attributes["aqueduct.attempts"] == 2
    assert call.attributes["aqueduct.attempt"] == 1


@pytest.mark.parametrize("own", [True, False], ids=["its own trace", "no trace"])
@pytest.mark.parametrize("ended", [False, True], ids=["while it runs", "from the store"])
def test_a_resumed_stream_has_its_own_span_linked_to_the_first(site: Site, own: bool, ended: bool) -> None:
    first, second = Caller(), Caller()
    site.client.headers.update(first.headers)
    try:
        with stored_stream(site.client, "slow", PROMPT) as (answer, events):
            next(events)
            made = completion_id(answer)
    finally:
        for name in first.headers:
            del site.client.headers[name]
    if ended:
        whole(site, first)
        _forget(site, made)
    headers = second.headers if own else {}
    with httpx.Client(base_url=site.second_url, headers={**site.client.headers, **headers}, timeout=30) as client:
        assert len(resumed(client, made)) > 3
    spans = whole(site, first) if own else site.collector.wait(first.trace, 5)
    server, *_ = hops([span for span in spans if span.name != RESUMED], first)
    resume = site.collector.wait(second.trace, 1)[0] if own else one(spans, "server", RESUMED)
    assert resume.links == [(first.trace, server.id)]
    assert resume.parent == (second.span if own else server.id)
    assert resume.attributes["http.response.status_code"] == 200


RESUMED = "GET /v1/chat/completions/{id}/events"


def _forget(site: Site, made: str) -> None:
    """Have only the store know a stream."""
    digits = made.removeprefix("chatcmpl-")
    with redis.Redis.from_url(site.system.redis_url) as client:
        wait_until(
            lambda: client.llen("aq2:results:stored") == 0 and int(client.pttl(f"aq2:log:{digits}")) <= 60_000,
            20, "the stream to be written",
        )  # fmt: skip
        client.delete(f"aq2:log:{digits}", f"aq2:job:{digits}")


def test_each_line_of_a_batch_is_a_trace_linked_to_the_batch(site: Site) -> None:
    caller = Caller()
    rows = [
        {"custom_id": str(n), "method": "POST", "url": CHAT, "body": chat_body(name, f"{PROMPT} {n}")}
        for n, name in enumerate(["good", "good"])
    ]
    with openai.OpenAI(base_url=f"{site.system.base_url}/v1", api_key=site.system.token) as sdk:
        file = sdk.files.create(
            file=("in.jsonl", b"\n".join(json.dumps(row).encode() for row in rows)), purpose="batch"
        )
        batch = sdk.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_headers=caller.headers,
        )
        wait_until(lambda: sdk.batches.retrieve(batch.id).status == "completed", 40, "the batch", poll_seconds=0.2)
    create, feeder = site.collector.wait(caller.trace, 2)
    assert (create.kind, create.parent, create.name) == ("server", caller.span, "POST /v1/batches")
    assert (feeder.name, feeder.parent, feeder.attributes["aqueduct.batch_completed"]) == ("batch", create.id, 2)

    def lines() -> list[Received]:
        found = site.collector.spans()
        return [span for span in found if span.attributes.get("aqueduct.batch_id") == batch.id and span is not feeder]

    wait_until(lambda: len(lines()) == 2, 20, "the lines' spans")
    for line in (span for span in lines() if span.name == "batch line good"):
        assert line.parent == ""
        assert line.links == [(caller.trace, feeder.id), (caller.trace, create.id)]
        wait, run, call = [span for span in site.collector.wait(line.trace, 4) if span.id != line.id]
        assert (wait.name, run.name, call.kind) == ("wait", "run", "client")
        assert (wait.parent, run.parent, call.parent) == (line.id, line.id, run.id)
        assert line.begin_ns <= run.begin_ns <= run.end_ns <= line.end_ns
    assert len({span.trace for span in lines()}) == 2


def test_one_that_expired_in_line_shows_its_wait_and_no_run(site: Site) -> None:
    with site.client.stream("POST", CHAT, json=chat_body("expires", stream=True)) as running:
        parts = running.iter_raw()
        next(parts)
        caller, answer = ask(site, "expires")
    assert answer.status_code == 504
    spans = site.collector.wait(caller.trace, 2)
    server, wait = one(spans, "server"), one(spans, "internal")
    assert (server.parent, server.attributes["error.type"]) == (caller.span, "queue_timeout")
    assert (wait.name, wait.parent, wait.is_error) == ("wait", server.id, True)
    assert wait.end_ns - wait.begin_ns >= 300_000_000


def test_what_is_refused_and_what_is_no_job_has_a_span_alone(site: Site) -> None:
    caller, answer = ask(site, "none")
    assert answer.status_code == 404
    (server,) = site.collector.wait(caller.trace, 1)
    assert (server.is_error, server.attributes["http.response.status_code"]) == (False, 404)
    caller = Caller()
    site.client.get("/v1/models", headers=caller.headers)
    (server,) = site.collector.wait(caller.trace, 1)
    assert (server.name, server.parent) == ("GET /v1/models", caller.span)


def test_nothing_of_an_unsampled_parent_is_exported_and_the_backend_is_told_so(site: Site) -> None:
    unsampled, sampled = Caller(sampled=False), Caller()
    answers = [site.client.post(CHAT, json=chat_body("good"), headers=one.headers) for one in (unsampled, sampled)]
    whole(site, sampled)  # sent behind it
    assert site.collector.of(unsampled.trace) == []
    request_id = answers[0].headers["x-request-id"]
    (seen,) = [one for one in site.backend.requests() if one["headers"]["x-request-id"] == request_id]
    parent = seen["headers"]["traceparent"]
    assert parent.startswith(f"00-{unsampled.trace}-") and parent.endswith("-00")


@pytest.mark.parametrize(
    "parent",
    [
        "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", "nonsense", "", "twice",
    ],
)  # fmt: skip
def test_a_bad_context_is_none(site: Site, parent: str) -> None:
    parents = [Caller().headers["traceparent"] for _ in range(2)] if parent == "twice" else [parent]
    headers = [*(("traceparent", one) for one in parents), ("tracestate", "vendor=bad")]
    answer = site.client.post(CHAT, json=chat_body("good"), headers=headers)
    request_id = answer.headers["x-request-id"]
    (server,) = wait_until(
        lambda: [span for span in site.collector.spans() if span.request_id == request_id and span.kind == "server"],
        20,
        "the span",
    )
    assert server.parent == ""
    (seen,) = [one for one in site.backend.requests() if one["headers"]["x-request-id"] == request_id]
    assert "tracestate" not in seen["headers"]


def test_a_bad_state_is_left_out_and_fills_no_log(site: Site) -> None:
    caller = Caller()
    headers = {**caller.headers, "tracestate": "=canary-state;x,vendor=x1"}
    assert site.client.post(CHAT, json=chat_body("good"), headers=headers).status_code == 200
    hops(whole(site, caller), caller)
    assert "canary-state" not in site.system.logs()


def test_operators_are_told_the_trace_of_what_has_ended(site: Site) -> None:
    caller, answer = ask(site, "refuses")
    with site.system.client(site.system.tokens["looks"]) as client:

        def told() -> str | None:
            found = client.get(f"/admin/v1/jobs/{answer.headers['x-request-id']}")
            outcome = found.json().get("outcome") or {}
            return str(outcome["trace"]) if outcome.get("trace") else None

        assert wait_until(told, 20, "its end", poll_seconds=0.2) == caller.trace


def test_a_retry_names_the_request_whose_answer_it_shares(site: Site) -> None:
    callers = Caller(), Caller()
    first, second = (
        site.client.post(CHAT, json=chat_body("good"), headers={**one.headers, "idempotency-key": callers[0].trace})
        for one in callers
    )
    assert first.json() == second.json()
    hops(whole(site, callers[0]), callers[0])
    (server,) = site.collector.wait(callers[1].trace, 1)
    assert server.attributes["aqueduct.joined_request_id"] == first.headers["x-request-id"]


def test_no_span_holds_a_prompt_an_answer_or_a_key(site: Site) -> None:
    ask(site, "good", stream=True)
    whole(site, ask(site, "refuses")[0])
    everything = b"".join(site.collector.raw)
    assert b"aqueduct.request_id" in everything
    for secret in (PROMPT, site.system.token, "0 1 2"):
        assert secret.encode() not in everything


@pytest.fixture
def plain(tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend) -> dict[str, Any]:
    return {
        "folder": tmp_path,
        "redis_url": own_redis.url,
        "backend_url": demo_backend.url,
        "models": {"good": MODELS["good"]},
    }


def test_a_collector_in_trouble_costs_requests_nothing_and_is_told_of_once(plain: dict[str, Any]) -> None:
    with Collector(hangs=True) as collector:  # the API's; the worker's is not there at all
        environment = {
            **collector.environment, "OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }  # fmt: skip
        away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
        with (
            System(**plain, environment=environment, worker_environment=away) as system,
            system.client() as client,
        ):
            processes = [process for process in (system.api, *system.workers) if process is not None]
            for _ in range(40):
                assert client.post(CHAT, json=chat_body("good")).status_code == 200
            for process in processes:
                wait_until(lambda process=process: "traces are not exported" in process.log(), 30, "a word of it")  # type: ignore[misc]
            for _ in range(20):
                assert client.post(CHAT, json=chat_body("good")).status_code == 200
            wait_until(lambda: len(collector.raw) > 2, 30, "another try")
    for process in processes:
        assert process.returncode == 0
        assert process.log().count("traces are not exported") == 1
        assert "opentelemetry" not in process.log()
