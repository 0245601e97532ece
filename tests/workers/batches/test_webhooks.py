"""Ends of batches are told to receivers, signed, until they take it: real workers and servers, OpenAI's own check."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest
import yaml

from shared.batches.record import Counts, Status
from tests.support.batch_site import Site
from tests.support.batches import BatchStore, chat_line
from tests.support.node import node_script
from tests.support.processes import RedisServer
from tests.support.receiver import Receiver
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until

SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()
OTHER = "whsec_" + base64.b64encode(os.urandom(32)).decode()
LINES = [chat_line("a", "text")]
_NOTICE = {"type": "batch.completed", "tries": 0, "due_at": 0.0}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


@pytest.fixture
def other() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


@pytest.fixture
def site(tmp_path: Path, receiver: Receiver, other: Receiver) -> Iterator[Site]:
    with RedisServer(tmp_path / "redis") as redis, DemoBackend(tmp_path) as backend:
        made = Site(
            tmp_path,
            redis,
            backend,
            tokens={
                "test": {"webhook": {"url": receiver.url, "secret": "${HOOK_SECRET}"}},
                "other": {"webhook": {"url": other.url, "secret": "${OTHER_SECRET}"}},
                "silent": {},
            },
            worker_environment={"HOOK_SECRET": SECRET, "OTHER_SECRET": OTHER},
        )
        try:
            yield made
            assert "in-the-url" not in made.logs()
            with redis.client() as client:
                client.save()
            written = [path for path in tmp_path.rglob("*") if path.is_file()]
            assert any(path.suffix == ".rdb" for path in written)
            assert not [path for path in written if SECRET[6:].encode() in path.read_bytes()], "in logs, store or Redis"
        finally:
            made.stop()


def _is_quiet(site: Site) -> None:
    wait_until(lambda: not site.batches.notices(), 10, "the notices to go")


def test_each_end_is_told_as_openai_tells_it(site: Site, receiver: Receiver) -> None:
    completed = site.batches.put(LINES)
    failed = site.batches.put([b"{"])
    expired = site.batches.put([chat_line("a", "text", "hangs")], window_seconds=2)
    cancelled = site.batches.put([chat_line("a", "text", "hangs")])
    site.batches.ask_cancel(cancelled)
    silent = BatchStore(site.batches.folder, "silent")
    untold = silent.put(LINES)
    site.system.add_worker()
    events = {event.data.id: event for event in (one.unwrap(SECRET) for one in receiver.wait(4))}
    wanted = {completed: "completed", failed: "failed", expired: "expired", cancelled: "cancelled"}
    assert {batch: event.type for batch, event in events.items()} == {
        batch: f"batch.{how}" for batch, how in wanted.items()
    }
    for batch, event in events.items():
        record = site.batches.record(batch)
        assert event.created_at == getattr(record, f"{record.status}_at")
        assert (event.object, event.id) == ("event", f"evt_{batch[6:]}")
    assert len({one.headers["webhook-id"] for one in receiver.deliveries}) == 4
    assert receiver.deliveries[0].path == "/hooks?key=in-the-url"
    assert receiver.deliveries[0].headers["content-type"] == "application/json"
    silent.wait(untold)
    _is_quiet(site)
    assert len(receiver.deliveries) == 4, "each once, and nothing for the token that has none"


def test_another_secret_or_another_body_is_refused_by_the_receiver(site: Site, receiver: Receiver) -> None:
    site.batches.put(LINES)
    site.system.add_worker()
    (delivery,) = receiver.wait(1)
    assert delivery.unwrap(SECRET).type == "batch.completed"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        delivery.unwrap(OTHER)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        replace(delivery, body=delivery.body.replace(b"completed", b"cancelled")).unwrap(SECRET)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        replace(delivery, headers={**delivery.headers, "webhook-timestamp": str(int(time.time()) - 9)}).unwrap(SECRET)


@pytest.mark.full("node")
@pytest.mark.timeout(180)
def test_the_node_client_unwraps_it(site: Site, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> None:
    site.batches.put(LINES)
    site.system.add_worker()
    (delivery,) = receiver.wait(1)
    script = node_script("webhooks.mjs", tmp_path_factory.mktemp("node"))
    given = json.dumps({"body": delivery.body.decode(), "headers": delivery.headers, "secret": SECRET, "wrong": OTHER})
    done = subprocess.run(["node", str(script)], input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"event": json.loads(delivery.body), "refused": "InvalidWebhookSignatureError"}


def test_a_receiver_that_is_down_or_in_trouble_is_told_when_it_works_again(site: Site, receiver: Receiver) -> None:
    receiver.close()
    site.batches.put(LINES)
    site.system.add_worker()
    wait_until(lambda: any(one["tries"] for one in site.batches.notices()), 20, "a first try")
    receiver.status = 503
    receiver.open()
    receiver.wait(1)
    with site.redis.client() as client:
        client.flushall()
    receiver.status = 204
    first, second = receiver.wait(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    assert second.unwrap(SECRET).type == "batch.completed"
    _is_quiet(site)
    assert site.logs().count("tried again for a day") == 1


def test_a_worker_that_dies_before_a_receiver_has_answered_is_followed_by_another(
    site: Site, receiver: Receiver
) -> None:
    receiver.hangs = True
    batch = site.batches.put(LINES)
    worker = site.system.add_worker()
    site.batches.wait(batch)
    receiver.wait(1)
    worker.kill()
    receiver.hangs = False
    site.system.add_worker()
    first, second = receiver.wait(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    _is_quiet(site)


def test_a_reload_brings_a_receiver_and_takes_it(site: Site, receiver: Receiver, other: Receiver) -> None:
    silent = BatchStore(site.batches.folder, "silent")
    first = silent.put(LINES)
    worker = site.system.add_worker()
    silent.wait(first)
    text = site.system.config_file.read_text()
    moved = json.loads(json.dumps(yaml.safe_load(text)))
    tokens = {token["name"]: token for token in moved["tokens"]}
    tokens["silent"]["webhook"] = tokens["test"].pop("webhook")
    site.system.config_file.write_text(yaml.safe_dump(moved))
    worker.signal(signal.SIGHUP)
    wait_until(lambda: "tokens" in site.logs().rpartition("reload")[2], 10, "the reload to be told")
    second, untold = silent.put(LINES), site.batches.put(LINES)
    site.ring(second)
    site.ring(untold)
    (delivery,) = receiver.wait(1)
    assert delivery.unwrap(SECRET).data.id == second
    site.batches.wait(untold)
    assert len(receiver.deliveries) == 1


def test_what_is_left_of_a_round_goes_where_the_configuration_says_by_then(
    site: Site, receiver: Receiver, other: Receiver
) -> None:
    receiver.hangs = True
    batches = [f"batch_{n:032x}" for n in range(8)]
    for batch in batches:
        site.batches.put_notice({**_NOTICE, "batch_id": batch, "ended_at": int(time.time())})
    worker = site.system.add_worker()
    receiver.wait(4)
    text = site.system.config_file.read_text()
    site.system.config_file.write_text(text.replace(receiver.url, other.url))
    worker.signal(signal.SIGHUP)
    wait_until(lambda: "tokens" in site.logs().rpartition("reload")[2], 10, "the reload to be told")
    told = {delivery.unwrap(SECRET).data.id for delivery in other.wait(8)}
    assert told == set(batches)
    assert len(receiver.deliveries) == 4, "what had not begun is not sent to where nobody listens any more"
    _is_quiet(site)


def test_an_end_that_its_worker_died_upon_is_told(site: Site, receiver: Receiver) -> None:
    batch = site.batches.put(LINES)
    made = site.batches.record(batch)
    ended = replace(made, status=Status.COMPLETED, completed_at=made.created_at + 5, counts=Counts(1, 1, 0))
    site.batches.reopen(ended)  # saved, and neither told nor taken from the open ones
    site.system.add_worker()
    (delivery,) = receiver.wait(1)
    assert json.loads(delivery.body)["created_at"] == made.created_at + 5
    wait_until(lambda: not site.batches.is_open(batch), 10, "the batch to be closed")


def test_no_redirect_is_followed_and_no_answer_is_read_on(site: Site, receiver: Receiver, other: Receiver) -> None:
    receiver.status, receiver.location = 307, other.url
    site.batches.put(LINES)
    site.system.add_worker()
    wait_until(lambda: any(one["tries"] for one in site.batches.notices()), 20, "a first try")
    assert "answered 307, a redirect" in site.logs()
    assert other.deliveries == []
    receiver.status, receiver.endless = 200, True
    receiver.wait(2)
    _is_quiet(site)


def test_a_receiver_that_hangs_holds_up_no_other_and_no_batch(site: Site, receiver: Receiver, other: Receiver) -> None:
    receiver.hangs = True
    for n in range(8):
        site.batches.put_notice({**_NOTICE, "batch_id": f"batch_{n:032x}", "ended_at": int(time.time())})
    theirs = BatchStore(site.batches.folder, "other")
    batch = theirs.put(LINES)
    site.system.add_worker()
    receiver.wait(4)
    (delivery,) = other.wait(1)
    assert all(one["tries"] == 0 for one in site.batches.notices()), "the others hang still"
    assert delivery.unwrap(OTHER).data.id == batch
    assert theirs.record(batch).status is Status.COMPLETED
    wait_until(lambda: any(one["tries"] for one in site.batches.notices()), 20, "the first to be given up for now")
    assert "did not answer within 10 s" in site.logs()


def test_after_a_day_it_is_given_up_and_told(site: Site, receiver: Receiver) -> None:
    receiver.status = 500
    batch = "batch_" + "1" * 32
    site.batches.put_notice({**_NOTICE, "batch_id": batch, "ended_at": int(time.time()) - 86_400})
    site.system.add_worker()
    receiver.wait(1)
    _is_quiet(site)
    assert f"webhook batch.completed of {batch}: given up after a day" in site.logs()


def test_a_notice_that_nobody_can_read_stops_no_other(site: Site, receiver: Receiver) -> None:
    bad = {"batch_id": "batch_" + "0" * 32}
    site.batches.put_notice(bad)
    site.batches.put(LINES)
    site.system.add_worker()
    receiver.wait(1)
    wait_until(lambda: site.batches.notices() == [bad], 10, "the good one to go")
    assert site.logs().count("cannot be read") == 1
