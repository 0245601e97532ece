"""Boards and alerts before a real Prometheus: every query has data after a load, every alert fires for its cause."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.metrics import names
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import ROOT, Process, RedisServer, free_port
from tests.support.prometheus import Prometheus
from tests.support.system import DemoBackend, System
from tests.support.trouble import TROUBLED_MODELS, Troubles
from tests.support.waiting import wait_until
from tools.monitoring.alerts import ALERTS, rule_file

AQUEDUCT = [sys.executable, "-m", "aqueduct"]
pytestmark = [pytest.mark.full("prometheus", "promtool"), pytest.mark.long]

SCALE = 1 / 60
"""Minutes become seconds."""
MODELS = {
    "good": model("tokens=5&token_seconds=0.01"),
    "night": model("tokens=5", batch_hours="00:00-23:59 UTC"),
    **TROUBLED_MODELS,
}
SERVED = [name for name in MODELS if name != "unserved"]
VALUES = {"model": ".*", "__rate_interval": "1m", "source": "prometheus"}
"""Of Grafana's variables."""
ALL = {alert.name for alert in ALERTS}
OF_REDIS = {"AqueductRedisSlow", "AqueductRedisNearlyFull", "AqueductRedisAway"}


class Site:
    """A gateway of two API processes and two workers, its Redis, and the Prometheus that watches it."""

    def __init__(self, system: System, redis: RedisServer, folder: Path) -> None:
        self.system, self.redis, self.folder = system, redis, folder
        port = free_port()
        self.second: Process = system.command("api", "--port", str(port), name="api-2").start()
        self.prometheus = Prometheus(
            folder / "prometheus", [f"127.0.0.1:{system.address[1]}", f"127.0.0.1:{port}"], rule_file(SCALE)
        )

    def wait_for(self, *alerts: str) -> None:
        """Wait until these have fired; some do for seconds only, and may have done so before."""
        try:
            wait_until(lambda: set(alerts) <= self.prometheus.fired(), 120, "the alerts to fire", poll_seconds=0.5)
        except AssertionError:
            assert set(alerts) - self.prometheus.fired() == set()

    def begin_batch(self, name: str, count: int, window: str = "24h") -> str:
        """Make a batch; returns its id."""
        lines = [
            {"custom_id": f"id{n}", "method": "POST", "url": CHAT, "body": chat_body(name, f"line {n}")}
            for n in range(count)
        ]
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        with self.system.client() as client:
            file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", data)}).json()
            asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": window}
            made: dict[str, Any] = client.post("/v1/batches", json=asked).json()
        return str(made["id"])

    def load(self) -> None:
        """Have every kind of end once, and two batches run to theirs."""
        with self.system.client() as client:
            for name in ("good", "good", "night", "broken", "half-dead", "unserved"):
                for stream in (True, False):
                    client.post(CHAT, json=chat_body(name, stream=stream))
            with client.stream("POST", CHAT, json=chat_body("long", stream=True)) as answer:
                next(answer.iter_raw())
            batches = [self.begin_batch("good", 4), self.begin_batch("broken", 2)]
            wait_until(lambda: all(self._has_ended(client, one) for one in batches), 60, "the batches to end")

    @staticmethod
    def _has_ended(client: httpx.Client, batch_id: str) -> bool:
        return client.get(f"/v1/batches/{batch_id}").json()["status"] in ("completed", "failed")


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("monitoring")
    settings = {
        "testing": {"lease_seconds": 2, "renew_seconds": 0.3, "sweep_seconds": 0.3},
        "storage": {"url": f"file://{folder}/store"},
        "batches": {"line_attempts": 1, "shortest_window": "5m"},
    }
    with (
        module_redis.client() as redis,
        System(
            folder / "system", redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS,
            tokens={"small": {"tokens_per_day": 5}}, settings=settings, workers=(SERVED, SERVED),
        ) as running,
    ):  # fmt: skip
        redis.config_set("maxmemory", "1gb")
        made = Site(running, module_redis, folder)
        with made.prometheus:
            yield made
        made.second.stop()


def test_a_site_that_is_well_raises_no_alert(site: Site) -> None:
    with site.system.client() as client:
        for _ in range(5):
            assert client.post(CHAT, json=chat_body("good", stream=True)).status_code == 200
    seen_until = time.monotonic() + 4  # longer than the alerts that fire soonest need
    while time.monotonic() < seen_until:
        time.sleep(0.5)
        assert site.prometheus.firing() == []


@pytest.mark.timeout(240)
def test_each_alert_fires_for_its_cause(site: Site) -> None:
    store = site.folder / "store" / "open"
    store.mkdir(parents=True, exist_ok=True)
    (store / "batch_0123456789abcdef0123456789abcdef").write_text("{}")  # nobody can carry it
    site.load()
    told = "sum(aqueduct_deadline_margin_seconds_count) == 2"  # who is killed takes two seconds of its counts along
    wait_until(lambda: site.prometheus.query(told), 30, "the batches' ends to be told")
    with site.system.client() as client, client.stream("POST", CHAT, json=chat_body("long", stream=True)) as answer:
        parts = answer.iter_raw()
        next(parts)
        for worker in site.system.workers:
            worker.kill()
        site.system.add_worker(*SERVED)  # looks into the store at its start
        assert b"job_lost" in b"".join(parts)
    site.wait_for("AqueductBatchNotCarried")
    site.second.kill()
    paused = subprocess.run(
        [*AQUEDUCT, "model", "pause", "paused", "--config", str(site.system.config_file)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert paused.returncode == 0, paused.stderr
    site.begin_batch("paused", 3, window="20m")
    with site.system.client(site.system.tokens["small"]) as client:
        client.post(CHAT, json=chat_body("good"))
    with Troubles(site.system):
        site.load()
        site.wait_for(*ALL - OF_REDIS)
        data_of_every_query(site.prometheus)


def data_of_every_query(prometheus: Prometheus) -> None:
    """Fail where a query of a board, or what an alert watches, has no data."""
    queries = [alert._replace(wrong="").expression() for alert in ALERTS]
    for file in sorted((ROOT / "deploy" / "monitoring" / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        queries += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) > 80
    without = [query for query in queries if not _numbers(prometheus, _expanded(query))]
    assert without == []


def _expanded(query: str) -> str:
    for name, value in VALUES.items():
        query = re.sub(rf"\$\{{?{name}\b\}}?", value, query)
    assert "$" not in query, query
    return query


def _numbers(prometheus: Prometheus, query: str) -> list[float]:
    return [value for _, value in prometheus.query(query) if not math.isnan(value)]


def test_every_metric_is_there_for_prometheus(site: Site) -> None:
    for metric in (*names.READ, *names.TOLD, *names.COUNTED, names.TOKENS_TOTAL):
        name = f"{metric.name}_count" if metric.type == "histogram" else metric.name
        assert site.prometheus.query(f"last_over_time({name}[5m])"), name
    text = httpx.get(f"{site.system.base_url}/metrics", timeout=10).text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_alerts_of_redis_fire_for_their_causes(site: Site) -> None:
    with site.redis.client() as redis:
        used = int(redis.info("memory")["used_memory"])
        redis.config_set("maxmemory", int(used / 0.9))
        site.wait_for("AqueductRedisNearlyFull")
        redis.config_set("maxmemory", "1gb")
    slow = time.monotonic() + 60
    while "AqueductRedisSlow" not in site.prometheus.fired() and time.monotonic() < slow:
        site.redis.freeze()
        time.sleep(0.6)
        site.redis.thaw()
        time.sleep(0.1)
    assert "AqueductRedisSlow" in site.prometheus.fired()
    site.redis.kill()
    site.wait_for("AqueductRedisAway")
