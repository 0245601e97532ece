"""What the chart renders, run as it says: each pod's command with its own variables and its own view of the file.

Only places differ: the file and the scripts are where this test has them, and Redis and backends are given by address.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import httpx
import pytest

from shared.tokens import hash_token
from tests.helm.charting import NAMESPACE, RELEASE, Object, Rendered, merged, release, settings_file
from tests.helm.switches import BASE, LARGE
from tests.support.chat import CHAT, chat_body
from tests.support.kubernetes_api import ApiServer
from tests.support.processes import ROOT, Process, RedisServer, free_port
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.full("helm"), pytest.mark.timeout(300)]
TOKEN: Final = "sk-of-a-team"
OF_THE_IMAGE: Final = "/usr/local/lib/aqueduct/"
ACCEPTED: Final = {"authorization": f"Bearer {TOKEN}"}


class Cluster:
    """The pods of one release as processes of this machine; secrets stay as they were made at first."""

    def __init__(self, folder: Path, values: dict[str, Any], environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = environment
        self.url = f"http://127.0.0.1:{values['api']['port']}"
        self.kept: dict[str, dict[str, str]] = {}
        self.processes: dict[str, Process] = {}
        self.render(values)

    def render(self, values: dict[str, Any]) -> None:
        """Take the objects of these values, and write the file anew."""
        self.found: Rendered = release(values)
        for name, secret in self.found.of("Secret").items():
            if "data" in secret and name not in self.kept:
                pod = {"spec": {"containers": [{"envFrom": [{"secretRef": {"name": name}}]}]}}
                self.kept[name] = self.found.environment(pod, {})
        self.file = settings_file(self.folder, self.found)
        text = self.file.read_text()
        self.file.write_text(
            text.replace("- python\n", f"- {sys.executable}\n").replace(OF_THE_IMAGE, f"{ROOT}/tools/")
        )

    def run(self, name: str, command: list[str] | None = None) -> Process:
        """Run a pod's container, or a command inside of it."""
        pod = self.found.pods()[name]
        (container,) = pod["spec"]["containers"]
        environment = self.found.environment(pod, self.kept)
        environment |= {"AQUEDUCT_CONFIG": str(self.file), "AQUEDUCT_DATA_DIR": str(self.folder / name / "data")}
        words = command or container.get("command") or ["aqueduct", *container["args"]]
        words = [word.replace(OF_THE_IMAGE, f"{ROOT}/tools/") for word in words]
        program = {"python": [sys.executable], "aqueduct": [sys.executable, "-m", "aqueduct"]}[words[0]]
        log_file = self.folder / name / ("probe.log" if command else "pod.log")
        log_file.unlink(missing_ok=True)
        return Process(
            [*program, *words[1:]], log_file, environment={"NO_PROXY": "*", **self._environment, **environment}
        ).start()

    def finished(self, name: str, command: list[str] | None = None) -> tuple[int, str]:
        """Run one to its end."""
        process = self.run(name, command)
        return process.wait(90), process.log()

    def probe(self, name: str, which: str) -> bool:
        """Do as the kubelet does."""
        (container,) = self.found.pods()[name]["spec"]["containers"]
        probe = container[which]
        if "exec" in probe:
            return self.finished(name, probe["exec"]["command"])[0] == 0
        port = container["ports"][0]["containerPort"]
        try:
            return httpx.get(f"http://127.0.0.1:{port}{probe['httpGet']['path']}", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def deployments(self) -> list[str]:
        """Return the names of all pods that stay."""
        return [name for name in self.found.pods() if name.startswith("Deployment/")]

    def stop(self) -> None:
        """End all of them."""
        for process in self.processes.values():
            process.stop(40)


@contextmanager
def cluster(
    folder: Path, values: dict[str, Any], environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Cluster]:
    folder.mkdir(exist_ok=True)
    made = Cluster(folder, values, environment)
    try:
        made.processes = {name: made.run(name) for name in made.deployments()}
        for name in made.processes:
            wait_until(lambda name=name: made.probe(name, "startupProbe"), 60, f"{name} to start")  # type: ignore[misc]
        yield made
    finally:
        made.stop()


def values_for(redis: RedisServer, backend: DemoBackend) -> dict[str, Any]:
    model = {"settings": {"backends": [{"url": backend.url, "model": "demo?tokens=3"}]}}
    return merged(BASE, {
        "models": {
            "small": {"settings": {"backends": [{"url": backend.url, "model": "demo", "api_key": "${SMALL_KEY}"}]}},
            LARGE: {**model, "autoscaling": {"enabled": True}},
        },
        "secrets": {"common": {"values": {"TEAM_A_TOKEN_SHA256": hash_token(TOKEN)}}},
        "redis": {"enabled": False, "external": {"url": redis.url}},
        "api": {"host": "127.0.0.1", "port": free_port()},
        "flower": {"port": free_port()},
        "monitoring": {"serviceMonitor": {"enabled": True}},
    })  # fmt: skip


def test_the_pods_run_serve_scale_and_reload(own_redis: RedisServer, demo_backend: DemoBackend, tmp_path: Path) -> None:
    values = values_for(own_redis, demo_backend)
    with cluster(tmp_path, values) as site:
        for name in site.processes:
            assert site.probe(name, "readinessProbe"), name
            assert site.probe(name, "livenessProbe"), name
        for model in ("small", "fast", LARGE):
            answer = httpx.post(f"{site.url}{CHAT}", json=chat_body(model), headers=ACCEPTED, timeout=30)
            assert answer.status_code == 200, answer.text
        _assert_that_keda_and_prometheus_are_answered(site)
        for test in ("ready", "check"):
            status, said = site.finished(f"Pod/{RELEASE}-aqueduct-test-{test}", _at(site, f"test-{test}"))
            assert status == 0, said
            assert "FAIL" not in said
        changed = merged(values, {"models": {"small": {"settings": {"concurrency": 3}}}})
        site.render(changed)
        status, said = site.finished(f"Job/{RELEASE}-aqueduct-reload")
        assert (status, said.count("changed small")) == (0, 3), said  # the API and both workers
        shown = _viewed(site, "/admin/v1/models/small").json()
        assert shown["concurrency"] == 3
        # Redis goes: nobody is ended for it, and the API takes no requests meanwhile.
        own_redis.stop()
        worker = next(name for name in site.processes if name.endswith("worker-small"))
        assert site.probe(worker, "livenessProbe")
        assert not site.probe(worker, "readinessProbe")
        wait_until(lambda: not site.probe(f"Deployment/{RELEASE}-aqueduct-api", "readinessProbe"), 30, "no readiness")
        assert site.probe(f"Deployment/{RELEASE}-aqueduct-api", "livenessProbe")
        own_redis.restart()
        wait_until(lambda: site.probe(worker, "readinessProbe"), 60, "the worker to be there again")


def test_an_idle_backend_is_stopped_and_started_by_its_workers(own_redis: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    backend = DemoBackend(tmp_path, port)
    api_server = ApiServer(tmp_path)
    values = merged(BASE, {
        "models": {LARGE: {
            "settings": {"backends": [{"url": f"http://127.0.0.1:{port}/v1", "model": "demo?tokens=3"}]},
            "wake": {"deployment": "large", "idleSeconds": 4},
            "autoscaling": {"enabled": True, "minReplicas": 0},
        }},
        "secrets": {"common": {"values": {"TEAM_A_TOKEN_SHA256": hash_token(TOKEN)}}},
        "redis": {"enabled": False, "external": {"url": own_redis.url}},
        "api": {"host": "127.0.0.1", "port": free_port()},
        "flower": {"enabled": False},
    })  # fmt: skip
    scale = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/large/scale"

    def replicas() -> list[int]:
        assert {path for _, path, *_ in api_server.heard} <= {scale}
        return [body["spec"]["replicas"] for *_, body in api_server.heard]

    try:
        with cluster(tmp_path / "site", values, api_server.environment) as site, ThreadPoolExecutor(1) as pool:
            wait_until(lambda: replicas() == [0], 60, "it to be stopped, as nobody asks for it")
            ask = partial(httpx.post, f"{site.url}{CHAT}", json=chat_body(LARGE), headers=ACCEPTED, timeout=120)
            answer = pool.submit(ask)
            wait_until(lambda: replicas() == [0, 1], 60, "it to be started")
            backend.start()
            assert answer.result().status_code == 200
    finally:
        backend.stop()
        api_server.close()


def _at(site: Cluster, name: str) -> list[str] | None:
    """Return a test pod's command with the Service's address as it is here; None where it names none."""
    (container,) = site.found.pods()[f"Pod/{RELEASE}-aqueduct-{name}"]["spec"]["containers"]
    service = site.url.replace("127.0.0.1", f"{RELEASE}-aqueduct")
    given = shlex.join(container.get("command", ()))
    return shlex.split(given.replace(service, site.url)) if given else None


def _viewed(site: Cluster, path: str) -> httpx.Response:
    token = site.kept[f"{RELEASE}-aqueduct-viewer"]["token"]
    # As it comes by a Service: not from the machine itself.
    headers = {"authorization": f"Bearer {token}", "x-forwarded-for": "203.0.113.7"}
    return httpx.get(f"{site.url}{path}", headers=headers, timeout=30)


def _assert_that_keda_and_prometheus_are_answered(site: Cluster) -> None:
    (scaled,) = site.found.of("ScaledObject").values()
    (trigger,) = scaled["spec"]["triggers"]
    service = site.url.replace("127.0.0.1", f"{RELEASE}-aqueduct-watch.{NAMESPACE}.svc")
    url = trigger["metadata"]["url"]
    assert url.startswith(service)
    told = _viewed(site, url.removeprefix(service))
    assert told.status_code == 200, told.text
    assert (told.json()["model"], told.json()[trigger["metadata"]["valueLocation"]]) == (LARGE, 0)
    _assert_that_a_viewer_alone_may(site, url.removeprefix(service))
    (monitor,) = site.found.of("ServiceMonitor").values()
    path = monitor["spec"]["endpoints"][0]["path"]
    assert f'aqueduct_workers{{model="{LARGE}"}} 1.0' in _viewed(site, path).text
    _assert_that_a_viewer_alone_may(site, path)
    api = site.found.pods()[f"Deployment/{RELEASE}-aqueduct-api"]
    assert "sk-small" not in json.dumps(_variables(site, api))


def _assert_that_a_viewer_alone_may(site: Cluster, path: str) -> None:
    elsewhere = {"x-forwarded-for": "203.0.113.7"}
    assert httpx.get(f"{site.url}{path}", headers=elsewhere).status_code == 401
    assert httpx.get(f"{site.url}{path}", headers={**ACCEPTED, **elsewhere}).status_code == 403


def _variables(site: Cluster, pod: Object) -> dict[str, str]:
    return site.found.environment(pod, site.kept)
