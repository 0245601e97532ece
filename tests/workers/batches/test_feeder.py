"""Batches from their first status to the last, by real workers."""

from __future__ import annotations

import base64
import json
import random
import signal
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from shared import keys
from shared.batches.record import Status
from shared.tokens import StoredToken, TokenStore
from tests.support.batch_site import Site
from tests.support.batches import BatchStore, chat_line
from tests.support.chat import prompt_of
from tests.support.waiting import wait_until
from workers.batches.service import MAX_FEEDERS


def test_a_batch_is_validated_run_and_completed(site: Site) -> None:
    lines = [chat_line(f"line-{number}", f"text {number}") for number in range(300)]
    batch = site.batches.put(lines)
    site.system.add_worker()
    ended = site.batches.wait(batch, 40, site.logs)
    assert ended.record.status is Status.COMPLETED, site.logs()
    assert ended.ids() == sorted(line["custom_id"] for line in lines)
    assert all(text.startswith(f"text {name[5:]}") for name, text in ended.texts().items())
    assert (ended.record.counts.total, ended.record.counts.completed, ended.record.error_file_id) == (300, 300, None)
    assert ended.record.usage is not None and ended.record.usage.output_tokens > 0
    assert not site.batches.is_open(batch)
    with site.redis.client() as client:
        assert [key for key in client.keys("aq2:*") if batch.encode() in key] == []
        assert client.keys("aq2:job:*") == []


def test_what_fails_is_tried_again_and_told_where_that_does_not_help(site: Site) -> None:
    batches = {
        model: site.batches.put([chat_line(f"line-{n}", "text", model, user=f"{model}-{n}") for n in range(3)])
        for model in ("flaky", "broken", "refuses")
    }
    site.system.add_worker()
    flaky = site.batches.wait(batches["flaky"], 30, site.logs)
    assert flaky.record.counts.completed == 3, flaky.errors
    broken = site.batches.wait(batches["broken"], 30, site.logs)
    assert (broken.record.status, broken.record.output_file_id) == (Status.COMPLETED, None)
    assert broken.ids() == ["line-0", "line-1", "line-2"]
    assert {line["response"]["status_code"] for line in broken.errors} == {500}
    refused = site.batches.wait(batches["refuses"], 30, site.logs)
    assert set(refused.codes().values()) == {"bad_thing"}
    calls = Counter(str(record["model"]).partition("?")[2] for record in site.backend.requests())
    assert calls["status=500"] == 9, "each line as often as batches.line_attempts says"
    assert calls["status=400&code=bad_thing"] == 3, "what cannot help is not tried"


def test_a_bad_parameter_fails_its_line_alone_and_a_bad_line_the_batch(site: Site) -> None:
    good = chat_line("good", "text")
    one = site.batches.put([good, chat_line("bad", "text", temperature="hot")])
    other = site.batches.put([good, b"{", chat_line("good", "text")])
    site.system.add_worker()
    ended = site.batches.wait(one, 30, site.logs)
    assert (ended.record.status, ended.ids()) == (Status.COMPLETED, ["bad", "good"])
    assert ended.errors[0]["response"]["body"]["error"]["param"] == "temperature"
    failed = site.batches.wait(other, 30, site.logs).record
    assert [(error["line"], error["code"]) for error in failed.errors] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
    ]
    assert failed.status is Status.FAILED
    assert not site.batches.is_open(other)


def test_a_cancelled_batch_keeps_what_has_ended_and_stops_the_rest(site: Site) -> None:
    lines = [chat_line(f"line-{n}", "text", "slow") for n in range(100)]
    batch = site.batches.put(lines)
    hanging = site.batches.put([chat_line(f"line-{n}", "text", "hangs") for n in range(9)])
    site.system.add_worker()
    wait_until(lambda: site.backend.state()["total_requests"] > 20, 20, "some lines to run")
    site.batches.ask_cancel(batch)
    site.batches.ask_cancel(hanging)
    ended = site.batches.wait(batch, 20, site.logs)
    assert ended.record.status is Status.CANCELLED
    assert ended.ids() == sorted(line["custom_id"] for line in lines)
    assert ended.output
    assert set(ended.codes().values()) == {"batch_cancelled"}
    assert len(site.batches.wait(hanging, 20, site.logs).errors) == 9
    wait_until(lambda: site.backend.state()["open_requests"] == 0, 5, "the backend to be let go")


def test_at_the_windows_end_what_has_ended_is_kept_and_the_rest_expires(site: Site) -> None:
    lines = [chat_line(f"line-{n}", "text", "hangs") for n in range(9)]
    batch = site.batches.put(lines, window_seconds=4)
    unknown = site.batches.put([chat_line("a", "text", "m")], window_seconds=600)
    site.system.add_worker()
    ended = site.batches.wait(batch, 20, site.logs)
    assert ended.record.status is Status.EXPIRED
    assert ended.ids() == sorted(line["custom_id"] for line in lines)
    assert set(ended.codes().values()) == {"batch_expired"}
    assert site.batches.wait(unknown, 10).record.status is Status.COMPLETED


def test_a_batch_whose_model_is_taken_away_waits_and_goes_on_when_it_is_back(site: Site) -> None:
    lines = [chat_line(f"line-{n}", "text", "slow") for n in range(60)]
    batch = site.batches.put(lines)
    worker = site.system.add_worker()
    wait_until(lambda: site.backend.state()["total_requests"] > 20, 20, "some lines to run")
    worker.terminate()
    worker.wait(20)
    calls = site.backend.state()["total_requests"]
    site.system.write_config(without={"slow"})
    worker = site.system.add_worker()
    wait_until(lambda: f"batch {batch} waits: its model 'slow'" in site.logs(), 20, "the batch to wait")
    other = site.batches.wait(site.ring(site.batches.put([chat_line("a", "text")])), 60, site.logs)
    assert other.record.status is Status.COMPLETED, "another model's batch runs meanwhile"
    assert site.batches.record(batch).status is Status.IN_PROGRESS
    assert site.backend.state()["total_requests"] == calls + 1
    worker.kill()
    site.system.write_config()
    site.system.add_worker()
    ended = site.batches.wait(batch, 60, site.logs)
    assert (ended.record.status, ended.record.errors) == (Status.COMPLETED, ())
    assert ended.ids() == sorted(line["custom_id"] for line in lines) and not ended.errors
    assert site.logs().count("is not in the configuration") == 1


def test_a_batch_goes_on_when_a_reload_brings_its_model_back(site: Site) -> None:
    lines = [chat_line(f"line-{n}", "text", "slow") for n in range(60)]
    batch = site.batches.put(lines)
    first = site.system.add_worker()
    wait_until(lambda: site.backend.state()["total_requests"] > 20, 20, "some lines to run")
    first.kill()  # so that the next one takes results without a model, and passes lines over
    site.system.write_config(without={"slow"})
    worker = site.system.add_worker()
    wait_until(lambda: f"batch {batch} waits: its model 'slow'" in site.logs(), 30, "the batch to wait")
    site.system.write_config()
    worker.signal(signal.SIGHUP)
    ended = site.batches.wait(batch, 40, site.logs)
    assert (ended.record.status, ended.record.errors) == (Status.COMPLETED, ())
    assert ended.ids() == sorted(line["custom_id"] for line in lines) and not ended.errors
    assert "goes on: its model is back" in site.logs()
    assert "misses results" not in site.logs()


def test_a_batch_that_runs_uses_the_slots_that_a_reload_brings(site: Site) -> None:
    backend = {"model": "demo?prefix=1&tokens=3&token_seconds=0.1"}
    site.system.rewrite(models={"m": {"concurrency": 1, "backends": [backend]}})
    batch = site.batches.put([chat_line(f"line-{n}", "text") for n in range(120)])
    worker = site.system.add_worker()
    wait_until(lambda: site.backend.state()["total_requests"] > 1, 20, "some lines to run")
    site.system.rewrite(models={"m": {"concurrency": 16, "backends": [backend]}})
    worker.signal(signal.SIGHUP)
    wait_until(lambda: site.backend.state()["open_requests"] > 8, 20, "the slots to be used")
    assert site.batches.wait(batch, 60, site.logs).record.status is Status.COMPLETED


def test_a_batch_whose_model_stays_away_expires_and_keeps_what_has_ended(site: Site) -> None:
    lines = [chat_line(f"line-{n}", "text", "slow") for n in range(60)]
    batch = site.batches.put(lines, window_seconds=25)
    worker = site.system.add_worker()
    wait_until(lambda: site.backend.state()["total_requests"] > 20, 20, "some lines to run")
    worker.kill()  # with results in Redis that no segment holds
    answered = len(site.backend.requests())
    site.system.write_config(without={"slow"})
    site.system.add_worker()
    ended = site.batches.wait(batch, 60, site.logs)
    assert ended.record.status is Status.EXPIRED
    assert ended.ids() == sorted(line["custom_id"] for line in lines)
    assert set(ended.codes().values()) == {"batch_expired"}
    assert len(ended.output) >= answered - 8, "all but those that were in flight"
    (error,) = ended.record.errors
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "'slow' was taken from the configuration" in error["message"]


def test_a_batch_cancelled_while_nobody_carries_it_keeps_what_has_ended_and_stops_what_runs(site: Site) -> None:
    lines = [chat_line(f"line-{n}", "text", "slow") for n in range(60)]
    batch = site.batches.put(lines)
    hanging = site.batches.put([chat_line(f"line-{n}", "text", "hangs") for n in range(9)])
    worker = site.system.add_worker()
    wait_until(lambda: site.backend.state()["total_requests"] > 20, 20, "some lines to run")
    worker.kill()
    for one in (batch, hanging):
        site.batches.ask_cancel(one)
    site.system.add_worker()  # runs what Redis holds of them until the dead feeder's lease is over
    ended = site.batches.wait(batch, 40, site.logs)
    calls = len([one for one in site.backend.requests() if "call_marks" in str(one["model"])])
    assert ended.record.status is Status.CANCELLED
    assert ended.ids() == sorted(line["custom_id"] for line in lines)
    assert len(ended.output) >= calls - 8, "all but those in flight when the worker died"
    assert len(site.batches.wait(hanging, 20, site.logs).errors) == 9
    wait_until(lambda: site.backend.state()["open_requests"] == 0, 5, "the backend to be let go")


@pytest.mark.parametrize("how", ["created", "configured"])
def test_a_token_revoked_in_the_middle_cancels_its_batch(site: Site, how: str) -> None:
    mine = BatchStore(site.batches.folder, "gone")
    lines = [chat_line(f"line-{n}", "text", "hangs") for n in range(3)]
    with site.redis.client() as client:
        tokens = TokenStore(client, site.batches.folder.parent / "data")
        if how == "created":
            tokens.create(StoredToken(name="gone", sha256="0" * 64, created_at=datetime.now(UTC)))
        else:
            site.system.write_config(tokens={"gone": {}})
        batch = mine.put(lines, is_configured=how == "configured")
        worker = site.system.add_worker()
        wait_until(lambda: mine.record(batch).status is Status.IN_PROGRESS, 20, "the batch to run")
        if how == "created":
            assert tokens.revoke("gone")
        else:
            worker.kill()
            site.system.write_config()
            site.system.add_worker()
    ended = mine.wait(batch, 40, site.logs)
    assert ended.record.status is Status.CANCELLED
    assert [error["code"] for error in ended.record.errors] == ["token_revoked"]
    assert set(ended.codes().values()) == {"batch_cancelled"}


@pytest.mark.parametrize("is_configured", [True, False])
def test_nobody_is_judged_by_a_configuration_older_than_the_batch_or_a_redis_that_forgot(
    site: Site, is_configured: bool
) -> None:
    mine = BatchStore(site.batches.folder, "new")
    first = site.batches.put([chat_line("a", "text")])
    site.system.add_worker()
    site.batches.wait(first, 60, site.logs)
    time.sleep(1)  # a batch's time is in whole seconds
    batch = site.ring(mine.put([chat_line("a", "text")], is_configured=is_configured))
    ended = mine.wait(batch, 60, site.logs)
    assert ended.record.status is Status.COMPLETED


def test_a_feeder_that_died_between_its_files_and_its_last_word_leaves_no_file_behind(site: Site) -> None:
    lines = [chat_line(f"line-{n}", f"text {n}") for n in range(20)]
    batch = site.batches.put([*lines, chat_line("bad", "text", temperature="hot")])
    site.system.add_worker()
    first = site.batches.wait(batch, 30, site.logs)
    site.batches.unfinish(batch)
    site.system.add_worker()
    again = site.batches.wait(batch, 40, site.logs)
    assert again.record.output_file_id and again.record.error_file_id
    assert again.record.output_file_id == first.record.output_file_id
    assert again.record.error_file_id == first.record.error_file_id
    assert (again.output, again.errors) == (first.output, first.errors)
    assert len(site.batches.files()) == 2


def test_the_batches_whose_windows_end_first_are_carried_first(site: Site) -> None:
    lines = [chat_line("a", "text", "hangs")]
    windows = random.sample(range(100, 200), 12)
    batches = {site.batches.put(lines, window_seconds=seconds): seconds for seconds in windows}
    site.system.add_worker()

    def carried() -> set[int]:
        return {batches[one] for one in batches if site.batches.record(one).status is Status.IN_PROGRESS}

    wait_until(lambda: len(carried()) == MAX_FEEDERS, 20, "as many as a process carries")
    assert carried() == set(sorted(windows)[:MAX_FEEDERS])
    last = max(batches, key=lambda one: batches[one])
    for batch in batches:
        if batch != last:
            site.batches.ask_cancel(batch)
    wait_until(lambda: site.batches.record(last).status is Status.IN_PROGRESS, 40, "the last one's turn")


def test_a_batch_whose_input_is_gone_ends_and_says_so(site: Site) -> None:
    batch = site.batches.put([chat_line(f"line-{n}", "text", "slow") for n in range(400)])
    worker = site.system.add_worker()
    wait_until(lambda: site.backend.state()["total_requests"] > 20, 20, "some lines to run")
    worker.kill()
    site.batches.delete_input(batch)
    with site.redis.client() as client:
        client.flushall()
    site.system.add_worker()
    ended = site.batches.wait(batch, 20, site.logs)
    assert (ended.record.status, ended.record.errors[0]["code"]) == (Status.CANCELLED, "input_lost")
    assert len(ended.output) == ended.record.counts.total


def test_a_batch_pauses_while_the_store_takes_nothing(site: Site) -> None:
    batch = site.batches.put([chat_line(f"line-{n}", "text") for n in range(50)])
    in_the_way = site.batches.folder / "batches" / site.batches.tenant / batch / "results"
    in_the_way.write_text("a file where a folder is to be")
    site.system.add_worker()
    wait_until(lambda: f"batch {batch} pauses" in site.logs(), 20, "the batch to pause")
    in_the_way.unlink()
    ended = site.batches.wait(batch, 20, site.logs)
    assert (ended.record.status, len(ended.output)) == (Status.COMPLETED, 50)
    assert site.logs().count("pauses") == 1


def test_flower_shows_a_batch_as_one_task_with_its_progress(site: Site) -> None:
    batch = site.batches.put([chat_line(f"line-{n}", "text") for n in range(20)])
    told: list[dict[str, Any]] = []
    with site.redis.client() as client, client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe("/0.celeryev/task.multi")
        site.system.add_worker()

        def has_ended() -> bool:
            message = heard.get_message(timeout=0.1)
            if message is not None:
                events = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
                told.extend(event for event in events if event["uuid"] == batch)
            return any(event["type"] == "task-succeeded" for event in told)

        wait_until(has_ended, 20, "Flower to hear of the end")
    assert {event["name"] for event in told} == {"aqueduct.batch"}
    assert [event["type"] for event in told][:2] == ["task-received", "task-started"]
    assert told[-1]["result"] == "completed: 20 completed, 0 failed of 20"


def test_of_a_tokens_batches_the_one_whose_window_ends_first_goes_first(site: Site) -> None:
    later = site.batches.put([chat_line(f"line-{n}", "later", "slow") for n in range(250)], window_seconds=900)
    site.system.add_worker()
    wait_until(lambda: site.backend.seen("later"), 20, "the later one to run")
    sooner = site.batches.put([chat_line(f"line-{n}", "sooner", "slow") for n in range(150)], window_seconds=300)
    site.ring(sooner)
    assert site.batches.wait(later, 40, site.logs).record.counts.completed == 250
    assert site.batches.wait(sooner, 40, site.logs).record.counts.completed == 150
    with site.redis.client() as client:
        assert not client.hexists(keys.order("test", "slow"), sooner), "it keeps others waiting"
    order = [prompt_of(record) for record in site.backend.requests()]
    order = order[order.index("sooner") :]
    between = order[: len(order) - order[::-1].index("sooner")].count("later")
    # What had begun when the other came, for two seconds at most, and what follows once its last line has begun.
    assert between <= 110, order  # in turns it is as many as the other has
    assert order[-1] == "later"


def test_a_batch_past_the_tokens_limit_fails_and_one_fits_again_later(site: Site) -> None:
    site.limit("test", max_enqueued_batch_tokens=2000)  # 8,000 bytes
    first = site.batches.put([chat_line(f"line-{n}", "text", "slow") for n in range(50)])
    second = site.batches.put([chat_line(f"line-{n}", "text", "slow") for n in range(30)])
    others = BatchStore(site.batches.folder, "other").put([chat_line(f"line-{n}", "text") for n in range(70)])
    site.system.add_worker()
    failed = site.batches.wait(second, 30, site.logs).record
    assert (failed.status, [error["code"] for error in failed.errors]) == (Status.FAILED, ["token_limit_exceeded"])
    assert "it may have 2000" in failed.errors[0]["message"] and failed.errors[0]["line"] is None
    assert site.batches.wait(first, 30, site.logs).record.counts.completed == 50
    assert BatchStore(site.batches.folder, "other").wait(others).record.counts.completed == 70
    again = site.batches.put([chat_line(f"line-{n}", "text", "slow") for n in range(30)])
    site.ring(again)
    assert site.batches.wait(again, 30, site.logs).record.counts.completed == 30
    huge = site.batches.put([chat_line(f"line-{n}", "text", "slow") for n in range(70)])
    site.ring(huge)
    assert site.batches.wait(huge, 30, site.logs).record.status is Status.FAILED
