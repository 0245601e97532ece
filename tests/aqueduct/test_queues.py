"""`aqueduct queues`: what an operator reads when requests wait, from a real Redis."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared import keys
from shared.batches.progress import Progress
from shared.batches.record import Counts, Status
from shared.capacity import STATE, Found, backend_key, write_state
from shared.catalogue import Catalogue
from shared.config import load_settings
from shared.jobs import JobSpec, new_id
from shared.lanes import Lane
from shared.redis import RedisClient
from shared.redis.bulk import Bulk
from shared.room.admission import Admission, Admissions
from shared.room.leases import How, Leases
from shared.token_settings import TokenSettings
from tests.support.batches import BatchStore, chat_line
from tests.support.clock import set_clock
from tests.support.processes import ROOT, RedisServer
from tests.support.waiting import wait_until

TOKEN = TokenSettings(name="tester", sha256="0" * 64)


@pytest.fixture
def config_file(tmp_path: Path, module_redis: RedisServer) -> Path:
    with module_redis.client() as client:
        client.flushall()
    models = {name: {"concurrency": 2, "backends": [{"url": "http://127.0.0.1:1/v1"}]} for name in ("busy", "idle")}
    file = tmp_path / "aqueduct.yaml"
    file.write_text(yaml.safe_dump({"redis_url": module_redis.url, "models": models}))
    return file


def fill(config_file: Path, lanes: list[Lane], take: int) -> None:
    """Let jobs wait in the room of `busy`, and start `take` of them."""

    async def work() -> None:
        settings = load_settings(config_file)
        client = RedisClient(settings.redis)
        await client.open()
        bulk = Bulk(settings.redis)
        admissions, leases = (
            Admissions(client, bulk, Catalogue(settings), "owner-1"),
            Leases(client, bulk, Catalogue(settings), "worker-1"),
        )
        await leases.renew(["busy"], [])
        await admissions.beat()
        for lane in lanes:
            spec = JobSpec(tenant="tester", lane=lane, public_model="busy")
            job = Admission(
                id=new_id(), model="busy", token=TOKEN, lane=lane, owner="owner-1", body=b"{}", spec=spec, cost=1
            )
            await admissions.admit(job)
        if take:
            await leases.take("busy", free=take, mine=0, surplus=True)
        await client.close()

    asyncio.run(work())


def queues(config_file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aqueduct", "queues", "--config", str(config_file), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip


def test_json_tells_lanes_slots_workers_and_tickets(config_file: Path) -> None:
    fill(config_file, ["priority", "default", "default", "flex", "batch"], take=2)
    ended = queues(config_file, "--once", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["batches"], told["batches_error"]) == (None, None)
    busy, idle = told["models"]
    assert busy["model"] == "busy"
    assert sum(busy["waiting"].values()) == 3
    assert (busy["running"], busy["concurrency"], busy["live_workers"]) == (2, 2, 1)
    assert busy["tickets"] == 1
    assert 0 < busy["oldest_wait_seconds"] < 60
    assert idle == {
        "model": "idle", "waiting": {"priority": 0, "default": 0, "flex": 0, "batch": 0}, "oldest_wait_seconds": 0,
        "running": 0, "concurrency": 2, "live_workers": 0, "tickets": 0, "ends_per_minute": None,
        "state": "active", "held": None, "backends_held": [],
    }  # fmt: skip


def test_table_has_a_line_a_model_under_headings(config_file: Path) -> None:
    fill(config_file, ["default", "flex", "flex"], take=0)
    ended = queues(config_file, "--once")
    headings, busy, idle = (line.split() for line in ended.stdout.splitlines())
    assert headings[:6] == ["MODEL", "STATE", "PRIORITY", "DEFAULT", "FLEX", "BATCH"]
    assert busy[:6] == ["busy", "active", "0", "1", "2", "0"]
    assert "0/2" in idle


def test_a_model_outside_its_batch_hours_says_until_when(config_file: Path) -> None:
    fill(config_file, ["batch", "batch"], take=0)
    content: dict[str, Any] = yaml.safe_load(config_file.read_text())
    hour = (datetime.now(UTC).hour + 6) % 24
    content["models"]["busy"]["batch_hours"] = f"{hour:02d}:00-{(hour + 6) % 24:02d}:00 UTC"
    config_file.write_text(yaml.safe_dump(content))
    assert f"2 until {hour:02d}:00 UTC" in queues(config_file, "--once").stdout
    busy, idle = json.loads(queues(config_file, "--once", "--json").stdout)["models"]
    assert (busy["waiting"]["batch"], busy["batch_begins_at"]) == (2, f"{hour:02d}:00 UTC")
    assert "batch_begins_at" not in idle


def test_what_was_found_of_a_backend_is_shown_with_its_reason(config_file: Path) -> None:
    fill(config_file, ["default"], take=0)
    content: dict[str, Any] = yaml.safe_load(config_file.read_text())
    content["models"]["busy"]["concurrency"] = {"min": 2, "max": 64}
    config_file.write_text(yaml.safe_dump(content))
    (busy, _) = json.loads(queues(config_file, "--once", "--json").stdout)["models"]
    assert (busy["concurrency"], busy["capacity"][0]["concurrency"]) == (2, 2), "nothing was found yet"

    settings = load_settings(config_file)
    backend = settings.models["busy"].backends[0]
    found = Found(14, 12, "throughput still rises", 12, {"throughput still rises": 5, "tried": 9})

    async def publish() -> None:
        client = RedisClient(settings.redis)
        await client.open()
        state = write_state({backend_key(backend): found})
        await client.call("HSET", keys.capacity("busy"), STATE, state, "places", 14)
        await client.call("PEXPIRE", keys.capacity("busy"), 60_000)
        await client.close()

    asyncio.run(publish())
    busy, idle = json.loads(queues(config_file, "--once", "--json").stdout)["models"]
    assert busy["concurrency"] == 14 and "capacity" not in idle
    assert busy["capacity"] == [
        {
            "backend": backend.address, "concurrency": 14, "min": 2, "max": 64, "before": 12,
            "reason": "throughput still rises", "changes": {"throughput still rises": 5, "tried": 9},
        }
    ]  # fmt: skip
    text = queues(config_file, "--once").stdout
    assert "0/14" in text and "concurrency 12 → 14 of 2 to 64, throughput still rises (so far: tried 9" in text


def end(config_file: Path, number: int) -> None:
    """Let so many jobs of `busy` begin and end."""

    async def work() -> None:
        settings = load_settings(config_file)
        client = RedisClient(settings.redis)
        await client.open()
        leases = Leases(client, Bulk(settings.redis), Catalogue(settings), "worker-1")
        taken = await leases.take("busy", free=number, mine=0, surplus=True)
        assert len(taken.jobs) == number
        await leases.release("busy", [(job.id, job.attempt, How.END, b"", b"") for job in taken.jobs])
        await client.close()

    asyncio.run(work())


def test_a_rate_is_that_of_the_last_minute_and_told_from_five_ends_on(
    config_file: Path, module_redis: RedisServer
) -> None:
    def told() -> tuple[object, str]:
        (busy, _) = json.loads(queues(config_file, "--once", "--json").stdout)["models"]
        return busy["ends_per_minute"], queues(config_file, "--once").stdout.splitlines()[1].split()[-1]

    fill(config_file, ["default"] * 6, take=0)
    for ended, rate in ((2, (None, "-")), (2, (None, "-")), (2, (6, "6"))):
        end(config_file, ended)
        assert told() == rate
    with module_redis.client() as client:
        set_clock(client, 80)
    assert told() == (None, "-")


def test_open_batches_stand_below_the_models(config_file: Path, tmp_path: Path, module_redis: RedisServer) -> None:
    content: dict[str, Any] = yaml.safe_load(config_file.read_text())
    config_file.write_text(yaml.safe_dump({**content, "storage": {"url": f"file://{tmp_path}/store"}}))
    assert json.loads(queues(config_file, "--once", "--json").stdout)["batches"] is None
    assert not (tmp_path / "store").exists()
    store = BatchStore(tmp_path / "store", token="team-a")
    first = store.put([chat_line("a", "x")], model="busy", status=Status.IN_PROGRESS, counts=Counts(9, 2, 1))
    second = store.put([chat_line("a", "x")])
    finish_at = int(time.time()) + 10_800
    with module_redis.client() as client:
        client.hset(keys.batch(first), mapping=Progress(Counts(9, 5, 1), finish_at).fields())
    one, two = json.loads(queues(config_file, "--once", "--json").stdout)["batches"]
    assert (one["id"], one["token"], one["model"], one["status"]) == (first, "team-a", "busy", "in_progress")
    assert (one["completed"], one["failed"], one["total"], one["finish_at"]) == (5, 1, 9, finish_at)
    assert (two["id"], two["model"], two["status"], two["finish_at"]) == (second, None, "validating", None)
    *_, headings, in_progress, validating = (line.split() for line in queues(config_file, "--once").stdout.splitlines())
    assert headings == ["BATCH", "TOKEN", "MODEL", "STATUS", "DONE", "FAILED", "TOTAL", "ENDS", "IN"]
    assert in_progress == [first, "team-a", "busy", "in_progress", "5", "1", "9", "3", "h"]
    assert validating == [second, "team-a", "-", "validating", "0", "0", "0", "-"]


def test_a_store_that_cannot_be_read_harms_no_other_figure(config_file: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(config_file.read_text())
    config_file.write_text(yaml.safe_dump({**content, "storage": {"url": f"file://{tmp_path}/store"}}))
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o777)  # anybody may write there
    ended = queues(config_file, "--once")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[1].startswith("busy")
    assert ended.stdout.splitlines()[-1].startswith(f"Batches cannot be told: The folder {tmp_path}/store ")


def test_redis_away_is_said_with_the_next_step(config_file: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(config_file.read_text())
    config_file.write_text(yaml.safe_dump({**content, "redis_url": "redis://127.0.0.1:1/0"}))
    ended = queues(config_file, "--once")
    assert ended.returncode == 1
    assert "Redis did not answer" in ended.stderr
    assert "aqueduct check" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [("--once",), ("--json", "--interval", "0.1")], ids=["once", "live"])
def test_a_reader_that_has_read_enough_ends_it_quietly(config_file: Path, words: tuple[str, ...]) -> None:
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "aqueduct", "queues", "--config", str(config_file), *words]
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    os.close(ours)
    _, complaints = child.communicate(timeout=20)
    assert complaints == b""
    assert child.returncode == 1


def test_interval_out_of_range_is_refused_by_name(config_file: Path) -> None:
    ended = queues(config_file, "--interval", "0")
    assert ended.returncode == 2
    assert "--interval" in ended.stderr


def test_terminal_table_is_refreshed_in_place_and_survives_an_outage(tmp_path: Path, own_redis: RedisServer) -> None:
    file = tmp_path / "aqueduct.yaml"
    models = {"busy": {"backends": [{"url": "http://127.0.0.1:1/v1"}]}}
    file.write_text(yaml.safe_dump({"redis_url": own_redis.url, "models": models}))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "aqueduct", "queues", "--config", str(file), "--interval", "0.1"]
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        seen = _read_until(ours, ["busy", "\x1b[H\x1b[J", "busy"])
        own_redis.kill()
        seen = _read_until(ours, ["Redis cannot be asked"])
        own_redis.restart()
        seen = _read_until(ours, ["MODEL", "busy"])
        child.send_signal(2)
        assert wait_until(lambda: child.poll() is not None, 5, "the table to end")
        assert child.returncode == 0, seen
        assert "Traceback" not in seen
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def _read_until(terminal: int, wanted: list[str]) -> str:
    """Read what the terminal shows from now on until the texts have come, in this order."""
    seen = ""
    ends_at = time.monotonic() + 15
    while time.monotonic() < ends_at:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).decode()
        at = 0
        for text in wanted:
            at = seen.find(text, at)
            if at < 0:
                break
            at += len(text)
        else:
            return seen
    raise AssertionError(f"waited for {wanted}; the terminal showed {seen!r}")
