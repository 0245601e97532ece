"""What the chart tells the Prometheus operator, taken by a real Prometheus: all pods are one target."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
import yaml

from tests.helm.charting import NAMESPACE, RELEASE, merged, release
from tests.helm.switches import BASE, MADE, SWITCHES
from tests.support.models import model
from tests.support.processes import Process, RedisServer, free_port
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.full("helm", "prometheus"), pytest.mark.timeout(300)]


def test_every_pod_tells_the_whole_and_is_counted_once(
    own_redis: RedisServer, demo_backend: DemoBackend, tmp_path: Path
) -> None:
    (monitor,) = release(merged(merged(BASE, MADE), SWITCHES["monitor"]["on"])).of("ServiceMonitor").values()
    (endpoint,) = monitor["spec"]["endpoints"]
    with System(
        tmp_path / "system", redis_url=own_redis.url, backend_url=demo_backend.url, models={"m": model(concurrency=7)},
        tokens={"look": {"role": "viewer"}},
    ) as system:  # fmt: skip
        second = system.command("api", "--port", str(free_port()), name="second").start()
        port = free_port()
        file = tmp_path / "prometheus.yaml"
        file.write_text(yaml.safe_dump(_scraping(system, endpoint, [system.address[1], int(second.command[5])])))
        prometheus = Process(
            ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address=127.0.0.1:{port}"], tmp_path / "prometheus.log",
        ).start()  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/api/v1"
            wait_until(lambda: _slots(url) == ["7"], 40, "the slots of the one model to be counted once")
            targets = httpx.get(f"{url}/targets").json()["data"]["activeTargets"]
            assert len({target["discoveredLabels"]["pod"] for target in targets}) == 1 == len(targets), targets
            assert re.fullmatch(".*aqueduct.*", targets[0]["labels"]["job"])  # as AqueductScrapeFails looks for it
        finally:
            prometheus.stop()
            second.stop()


def _slots(url: str) -> list[str]:
    try:
        answer = httpx.get(f"{url}/query", params={"query": "sum(aqueduct_slots)"}, timeout=5)
    except httpx.TransportError:
        return []
    found = answer.json().get("data", {}).get("result", [])
    return [row["value"][1] for row in found]


def _scraping(system: System, endpoint: dict[str, object], ports: list[int]) -> dict[str, object]:
    """Return what the operator makes of the endpoint: its own labels for each pod, then the endpoint's relabelings."""
    service = f"{RELEASE}-aqueduct-watch.{NAMESPACE}.svc:8000"
    relabelings = yaml.safe_load(yaml.safe_dump(endpoint["relabelings"]).replace(service, system.base_url[7:]))
    names = {"targetLabel": "target_label", "sourceLabels": "source_labels"}
    pods = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"pod": f"api-{port}", "container": "api", "endpoint": "http",
                                                      "namespace": NAMESPACE, "service": "watch"}}
        for port in ports
    ]  # fmt: skip
    return {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{
            "job_name": "the-service-by-another-name",
            "metrics_path": endpoint["path"],
            "authorization": {"credentials": system.tokens["look"]},
            "static_configs": pods,
            "relabel_configs": [{names.get(key, key): value for key, value in rule.items()} for rule in relabelings],
        }],
    }  # fmt: skip
