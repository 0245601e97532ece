"""API, workers, Redis and a backend on hosts of their own, with addresses of their own: what is on loopback everywhere
else in these tests. It works, it asks strangers for tokens, and links that are cut heal: nothing lost, nothing twice.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

import httpx
import openai
import pytest
import redis

from tests.chaos.load import TOKENS_OF, Load
from tests.support.batches import chat_line
from tests.support.chat import CHAT, chat_body, prompt_of
from tests.support.models import model
from tests.support.namespaces import NotPermitted, listeners
from tests.support.spread import PORT, Spread
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.full("ip"), pytest.mark.chaos, pytest.mark.timeout(300)]
CUT_SECONDS: Final = 9.0
"""Longer than a worker's lease and an API process's heartbeat last."""
CALLERS: Final = 16
TOKEN_SECONDS: Final = {"talk": 0.08, "quick": 0.02}


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:
    folder = tmp_path_factory.mktemp("spread")
    models = {
        name: model(
            f"prefix=1&call_marks=1&tokens={tokens}&token_seconds={TOKEN_SECONDS[name]}",
            concurrency=8, max_wait_seconds=90, timeout_seconds=60,
        )
        for name, tokens in TOKENS_OF.items()
    }  # fmt: skip
    made = Spread(
        folder, models=models, tokens={"op": {"role": "operator"}, "look": {"role": "viewer"}},
        settings={"storage": {"url": f"file://{folder}/store"}},
    )  # fmt: skip
    try:
        with made, made.network.inside("client"):
            yield made
    except NotPermitted as error:
        pytest.skip(f"no network namespaces may be made here: {error}")


def asked(spread: Spread, path: str, token: str | None = None, **headers: str) -> httpx.Response:
    given = {"authorization": f"Bearer {spread.system.tokens[token]}"} if token else {}
    return httpx.get(f"{spread.system.base_url}{path}", headers={**given, **headers}, timeout=30)


def test_requests_streams_and_batches_are_answered(spread: Spread) -> None:
    for url in spread.system.urls:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=spread.system.token, max_retries=0) as sdk:
            plain = sdk.chat.completions.create(model="quick", messages=[{"role": "user", "content": "far"}])
            assert (plain.choices[0].message.content or "").startswith("far 0.")
            parts = sdk.chat.completions.create(
                model="quick", messages=[{"role": "user", "content": "away"}], stream=True
            )
            assert "".join(part.choices[0].delta.content or "" for part in parts).startswith("away 0.")
            assert_each_line_once(sdk, begin_batch(sdk, 5, "calm"), 5, "calm")


def begin_batch(sdk: openai.OpenAI, count: int, name: str) -> str:
    lines = [json.dumps(chat_line(f"{name}-{at}", f"{name}-{at}", "quick")) for at in range(count)]
    file = sdk.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h").id


def done(sdk: openai.OpenAI, batch: str) -> int:
    counts = sdk.batches.retrieve(batch).request_counts
    return counts.completed if counts else 0


def goes_on(sdk: openai.OpenAI, batch: str, seen: int) -> bool:
    return done(sdk, batch) > seen or sdk.batches.retrieve(batch).status == "completed"


def assert_each_line_once(sdk: openai.OpenAI, batch: str, count: int, name: str) -> None:
    wait_until(lambda: sdk.batches.retrieve(batch).completed_at, 90, "the batch to end", poll_seconds=0.3)
    rows = [json.loads(row) for row in sdk.files.content(sdk.batches.retrieve(batch).output_file_id or "").iter_lines()]
    found = Counter(row["custom_id"] for row in rows)
    assert found == dict.fromkeys((f"{name}-{at}" for at in range(count)), 1)
    for row in rows:
        assert row["response"]["body"]["choices"][0]["message"]["content"].startswith(f"{row['custom_id']} 0.")


def test_who_comes_from_elsewhere_is_asked_for_a_token(spread: Spread) -> None:
    assert asked(spread, "/healthz").status_code == 200
    assert asked(spread, "/readyz").json() == {"status": "ready", "unserved": 0}, "names are for the machine itself"
    for path in ("/metrics", "/admin/v1/models", "/admin/v1/demand?model=quick", "/v1/models"):
        for spoofed in ({}, {"host": "localhost"}, {"host": f"127.0.0.1:{PORT}"}, {"x-forwarded-for": "127.0.0.1"}):
            refused = asked(spread, path, **spoofed)
            assert refused.status_code == 401, (path, spoofed, refused.text)
    for path in ("/metrics", "/admin/v1/models"):
        assert [asked(spread, path, token).status_code for token in ("test", "look", "op")] == [403, 200, 200]
    drained = httpx.post(
        f"{spread.system.base_url}/admin/v1/models/quick/pause",
        headers={"authorization": f"Bearer {spread.system.tokens['look']}"},
    )
    assert drained.status_code == 403
    own = spread.network.addresses["api-1"]
    with spread.network.inside("api-1"):
        assert httpx.get(f"http://127.0.0.1:{PORT}/metrics").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{PORT}/readyz").json()["unserved"] == []
        assert httpx.get(f"http://{own}:{PORT}/metrics").status_code == 401, "by its outer address"


def test_metrics_of_either_host_tell_of_both(spread: Spread) -> None:
    for number, url in enumerate(spread.system.urls):
        with httpx.Client(headers={"authorization": f"Bearer {spread.system.token}"}) as client:
            for _ in range(number + 1):
                assert client.post(f"{url}{CHAT}", json=chat_body("talk", "counted"), timeout=30).status_code == 200

    def counted(url: str) -> list[str]:
        text = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {spread.system.tokens['look']}"}).text
        return [line for line in text.splitlines() if line.startswith("aqueduct_requests_total{") and '"talk"' in line]

    def alike() -> bool:
        one, other = map(counted, spread.system.urls)
        return one == other and bool(one)

    wait_until(alike, 30, "both to tell the same")


def test_only_what_must_listens(spread: Spread) -> None:
    system = spread.system
    assert system.api is not None
    assert listeners(system.api.pid) == [PORT]
    assert [listeners(worker.pid) for worker in system.workers] == [[], []]
    with pytest.raises(redis.AuthenticationError), redis.Redis(spread.network.addresses["redis"], 6379) as stranger:
        stranger.ping()


def test_a_link_that_is_cut_lets_nothing_through(spread: Spread) -> None:
    def reaches() -> bool:
        with redis.Redis.from_url(spread.redis.url, socket_timeout=1, socket_connect_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    assert reaches()
    with spread.network.cut("client", "redis"):
        assert not reaches()
        assert asked(spread, "/healthz").status_code == 200, "only this link was to be cut"
    wait_until(reaches, 10, "the link to be whole again")


LINKS: Final = [("worker-1", "redis"), ("api-1", "redis"), ("worker-1", "backend")]


@pytest.mark.parametrize(("one", "other"), LINKS, ids=lambda name: name)
def test_a_link_that_is_cut_heals_with_nothing_lost_and_nothing_twice(spread: Spread, one: str, other: str) -> None:
    spread.backend.clear()
    load = Load(spread.system.urls, spread.system.token, callers=CALLERS, seed=7)
    with load.in_background():
        wait_until(lambda: load.accepted >= CALLERS, 60, "requests to be answered")
        cut_at = time.monotonic()
        with spread.network.cut(one, other):
            time.sleep(CUT_SECONDS)
        before = load.accepted
        wait_until(lambda: load.accepted >= before + 2 * CALLERS, 60, "requests to be answered again")
    calls = Counter(prompt_of(record) for record in spread.backend.requests())
    load.settle_unsure(calls)
    assert [one for one in load.answers if one.verdict in ("lost", "cut", "open")] == []
    assert [one for one in load.answers if one.is_altered or one.is_doubled or one.is_spliced] == []
    # A stream that had begun may end with an error where its worker was away for longer than its lease; no other may.
    errored = [
        (one.code, one.marker, f"{one.ended_at - one.sent_at:.1f} s", f"{one.sent_at - cut_at:.1f} s after the cut")
        for one in load.answers
        if one.verdict == "errored" and not one.content
    ]
    assert errored == [], spread.system.logs()[-20_000:]
    assert any(one.verdict == "completed" for one in load.answers)

    def left() -> int:
        rows = asked(spread, "/admin/v1/models", "look").json()["data"]
        return sum(row["running"] + sum(row["waiting"].values()) for row in rows)

    wait_until(lambda: left() == 0, 30, "every slot to come back")
    assert spread.backend.state()["open_requests"] == 0


def test_a_batch_whose_workers_lose_redis_one_after_the_other_has_each_line_once(spread: Spread) -> None:
    with openai.OpenAI(base_url=f"{spread.system.urls[1]}/v1", api_key=spread.system.token) as sdk:
        made = begin_batch(sdk, 300, "cut")
        for worker in ("worker-1", "worker-2"):
            wait_until(partial(goes_on, sdk, made, done(sdk, made)), 60, "a line to end")
            with spread.network.cut(worker, "redis"):
                time.sleep(CUT_SECONDS)
        assert_each_line_once(sdk, made, 300, "cut")
