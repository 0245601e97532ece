"""What processes count, told to a real Redis, and the text that is made of it: each thing once, whatever goes wrong."""

from __future__ import annotations

import ast
import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from shared import keys
from shared.lanes import LANES
from shared.metrics import names
from shared.metrics.codes import code_label
from shared.metrics.counts import Counts
from shared.metrics.exposition import encoded
from shared.metrics.gauges import Whole
from shared.metrics.publisher import Publisher, read_counts
from shared.redis import RedisClient, RedisRefused
from shared.room.scripts import COUNT, CountArguments, CountRow
from shared.room.upkeep import Depth
from shared.scripting import Scripts
from tests.support.asynchronous import asynchronous
from tests.support.processes import ROOT, RedisServer
from tests.support.rooms import open_bench
from tests.support.waiting import wait_until_async

KIND = ("chat.completions", "default")


def text_of(counts: Counts, depths: dict[str, Depth] | None = None) -> str:
    whole = Whole("1.0", is_up=True, counted=counts.take(), depths=depths or {})
    return encoded(whole, "")[0].decode()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return each sample's value by name and the values of its labels, sorted by label."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def full() -> Counts:
    """Return counts of every metric there is."""
    counts = Counts()
    for metric in names.COUNTED:
        labels = tuple(f"{label}-1" for label in metric.labels)
        if metric.type == "histogram":
            counts.observations(metric, "m" if metric.by_model else "", labels).observe(0.03)
        else:
            counts.add(metric, "m" if metric.by_model else "", labels, 2)
    return counts


def test_every_declared_metric_is_told_with_its_labels_and_nothing_else_is() -> None:
    depth = Depth(waiting=dict.fromkeys(LANES, 1), running=2, workers=1, oldest_ms=1500, oldest_request_ms=1500, ends=0)
    families = {family.name: family for family in text_string_to_metric_families(text_of(full(), {"m": depth}))}
    declared = (*names.COUNTED, *names.READ, *names.TOLD, names.TOKENS_TOTAL)
    own = {metric.name.removesuffix("_total"): metric for metric in declared}
    assert {name for name in families if not name.startswith("gen_ai_")} == own.keys()
    for name, metric in own.items():
        family = families[name]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(metric.all_labels), sample
    assert {name for name in families if name.startswith("gen_ai_")} == {
        "gen_ai_server_request_duration_seconds",
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_server_time_per_output_token_seconds",
        "gen_ai_client_operation_duration_seconds",
        "gen_ai_client_token_usage",
    }


def test_a_model_that_is_held_says_why_and_one_that_is_not_says_so() -> None:
    depth = Depth(waiting=dict.fromkeys(LANES, 0), running=0, workers=1, oldest_ms=0, oldest_request_ms=0, ends=0)
    words = ("paused", "starting", "backend")
    found = samples(text_of(Counts(), {"": depth} | {word: replace(depth, held=word) for word in words}))
    told = {key[1:]: value for key, value in found.items() if key[0] == "aqueduct_model_held"}
    assert told == {(model, word): float(model == word) for model in ("", *words) for word in words}


def test_how_long_people_wait_is_told_without_lines_of_batches() -> None:
    depth = Depth(
        waiting=dict.fromkeys(LANES, 1), running=2, workers=1, oldest_ms=9_000_000, oldest_request_ms=1500, ends=0
    )
    assert samples(text_of(Counts(), {"m": depth}))["aqueduct_oldest_waiting_seconds", "m"] == 1.5


def test_a_reader_of_open_metrics_understands_it_too() -> None:
    body, content_type = encoded(
        Whole("1.0", is_up=True, counted=full().take()), "application/openmetrics-text; version=1.0.0"
    )
    assert content_type.startswith("application/openmetrics-text")
    found = {family.name for family in open_families(body.decode())}  # type: ignore[no-untyped-call]
    assert "aqueduct_requests" in found


@pytest.mark.full("promtool")
def test_prometheus_own_tool_finds_nothing_to_mend() -> None:
    depth = Depth(waiting=dict.fromkeys(LANES, 1), running=2, workers=1, oldest_ms=1500, oldest_request_ms=1500, ends=0)
    text = text_of(full(), {"m": depth})
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_buckets_add_up_and_a_value_on_a_bound_is_within() -> None:
    counts = Counts()
    observed = counts.observations(names.WAIT_SECONDS, "m", KIND)
    for value in (0.005, 0.01, 0.0100001, 5000):
        observed.observe(value)
    found = samples(text_of(counts))
    name, rest = "aqueduct_wait_seconds_bucket", ("m",)
    at = {bound: found[(name, KIND[0], KIND[1], bound, *rest)] for bound in ("0.01", "0.02", "655.36", "+Inf")}
    assert at == {"0.01": 2, "0.02": 3, "655.36": 3, "+Inf": 4}
    assert found["aqueduct_wait_seconds_count", *KIND, "m"] == 4
    assert found["aqueduct_wait_seconds_sum", *KIND, "m"] == pytest.approx(5000.0250001)


def test_the_same_counts_stand_under_open_telemetrys_names() -> None:
    counts = Counts()
    for lane, code, seconds in (("default", "200", 1.0), ("flex", "200", 2.0), ("flex", "503", 4.0)):
        counts.observations(names.REQUEST_SECONDS, "m", (KIND[0], lane, code)).observe(seconds)
    counts.observations(names.REQUEST_TOKENS, "m", (*KIND, "output")).observe(7)
    counts.observations(names.BACKEND_SECONDS, "m", (KIND[0], "10.0.0.1:9000", "200")).observe(1)
    found = samples(text_of(counts))
    common = ("chat", "aqueduct", "m")
    assert found["gen_ai_server_request_duration_seconds_sum", "", *common] == 3
    assert found["gen_ai_server_request_duration_seconds_sum", "503", *common] == 4
    assert found["gen_ai_client_token_usage_sum", *common, "output"] == 7
    assert found["gen_ai_client_operation_duration_seconds_count", "", *common, "10.0.0.1", "9000"] == 1
    assert found["aqueduct_tokens_total", *KIND, "m", "output"] == 7


def test_a_name_that_would_break_a_line_is_escaped() -> None:
    counts = Counts()
    counts.add(names.RETRIES, 'a"b\\c\nd', KIND)
    assert samples(text_of(counts))["aqueduct_retries_total", *KIND, 'a"b\\c\nd'] == 1


def test_what_another_version_has_counted_is_left_out() -> None:
    taken = {"m": {"retries_total\tone": 1, "of_tomorrow_total\ta\tb": 2, "retries_total\ta\tb": 3, "": 1}}
    found = samples(encoded(Whole("1", is_up=True, counted=taken), "")[0].decode())
    assert [value for key, value in found.items() if key[0] == "aqueduct_retries_total"] == [3]


def test_a_backends_own_code_is_no_label() -> None:
    assert code_label(None) == ""
    assert code_label("queue_full") == "queue_full"
    assert code_label("sk-secret") == "other"


def test_every_code_that_is_given_by_name_is_a_label() -> None:
    given = {
        keyword.value.value
        for folder in ("api", "shared", "workers")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        for keyword in node.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str)
    }
    assert len(given) > 20
    assert {code for code in given if code_label(code) == "other"} == set()


# --- through Redis ----------------------------------------------------------------------------------------------------


async def told(bench: Any) -> dict[str, int]:
    return (await read_counts(bench.client, ["m"])).get("m", {})


@asynchronous
async def test_what_several_processes_count_adds_up_and_stays_when_one_is_gone(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        mine, others = Counts(), Counts()
        first, second = Publisher(mine, bench.client, "one"), Publisher(others, bench.client, "two")
        for counts, number in ((mine, 3), (others, 4)):
            counts.add(names.RETRIES, "m", KIND, number)
        await first.flush()
        await second.flush()
        mine.add(names.RETRIES, "m", KIND)
        await first.flush()
        await first.flush()  # nothing is new but its own round trips
        assert await told(bench) == {"retries_total\tchat.completions\tdefault": 8}
        assert await bench.redis("PTTL", keys.metrics("m")) > 0
        assert await bench.redis("PTTL", keys.metrics("m")) > 29 * 86_400_000


@asynchronous
async def test_a_telling_whose_answer_was_lost_counts_once(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        row = CountRow("m", ("retries_total\ta\tb", 5))
        tell = CountArguments("one", 1, bench.client.run_id)
        scripts = Scripts(bench.client)
        assert [await scripts.run(COUNT, tell, [row]) for _ in range(2)] == [1, 0]
        assert await told(bench) == {"retries_total\ta\tb": 5}
        assert await scripts.run(COUNT, tell._replace(number=2), [row]) == 1
        assert await told(bench) == {"retries_total\ta\tb": 10}


@asynchronous
async def test_a_number_past_what_redis_holds_keeps_nothing_else_from_being_counted(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        tell = CountArguments("one", 1, bench.client.run_id)
        huge = 2**62
        for number in (1, 2, 3):
            row = CountRow("m", ("request_tokens\ta", huge, "retries_total\ta\tb", 5))
            await Scripts(bench.client).run(COUNT, tell._replace(number=number), [row])
        assert await told(bench) == {"request_tokens\ta": huge, "retries_total\ta\tb": 15}


@asynchronous
async def test_what_redis_did_not_take_is_told_later_and_nothing_twice(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        counts = Counts()
        publisher = Publisher(counts, bench.client, "one")
        counts.add(names.RETRIES, "m", KIND, 2)
        await bench.redis("CONFIG", "SET", "maxmemory", "1mb")
        try:
            with pytest.raises(RedisRefused, match="OOM"):
                await publisher.flush()
        finally:
            await bench.redis("CONFIG", "SET", "maxmemory", "0")
        counts.add(names.RETRIES, "m", KIND, 3)
        await asyncio.gather(publisher.flush(), publisher.flush())
        assert await told(bench) == {"retries_total\tchat.completions\tdefault": 5}


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@asynchronous
async def test_after_a_restart_of_redis_counters_begin_at_nothing_instead_of_falling_back(
    own_redis: RedisServer,
) -> None:
    async with open_bench(own_redis.url) as bench:
        counts = Counts()
        publisher = Publisher(counts, bench.client, "one")
        counts.add(names.RETRIES, "m", KIND, 1000)
        await publisher.flush()
        before = bench.client.run_id
        own_redis.kill()
        own_redis.restart()
        await wait_until_async(lambda: _is_other(bench.client, before))
        assert await told(bench) == {}
        counts.add(names.RETRIES, "m", KIND)
        await publisher.flush()
        assert await told(bench) == {"retries_total\tchat.completions\tdefault": 1}


async def _is_other(client: RedisClient, run_id: str) -> bool:
    return client.connected.is_set() and client.run_id != run_id
