"""The scripts inside the image: a worker's health by its own heartbeat, and a workload that a hook scales."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import keys
from tests.support.kubernetes_api import ApiServer
from tests.support.processes import ROOT, Process, RedisServer
from tests.support.tls import make_authority

HERE = os.uname().nodename
MODEL = "org/name"


def run(folder: Path, script: str, *words: str, **environment: str) -> tuple[int, str]:
    process = Process.python(
        ROOT / "tools" / f"{script}.py", *words, log_file=folder / "script.log", environment=environment
    ).start()
    status = process.wait(30)
    said = process.log()
    process.log_file.unlink()
    return status, said


def beat(redis: RedisServer, name: str, *, seconds_ago: float = 0) -> None:
    with redis.client() as client:
        client.delete(keys.workers(MODEL))
        client.zadd(keys.workers(MODEL), {name: (time.time() - seconds_ago) * 1000})


def test_a_worker_is_well_by_its_own_heartbeat_and_no_others(own_redis: RedisServer, tmp_path: Path) -> None:
    def health(word: str, url: str = own_redis.url) -> int:
        return run(tmp_path, "healthcheck", word, MODEL, AQUEDUCT_REDIS_URL=url)[0]

    assert health("worker") == 1
    beat(own_redis, f"{HERE}-17-0a1b2c")
    assert (health("worker"), health("alive")) == (0, 0)
    beat(own_redis, f"{HERE}-17-0a1b2c", seconds_ago=60)
    assert (health("worker"), health("alive")) == (1, 1)
    beat(own_redis, f"{HERE}-b-17-0a1b2c")
    assert (health("worker"), health("alive")) == (1, 1), "a worker of another host is taken for this one's"
    own_redis.stop()
    assert (health("worker"), health("alive")) == (1, 0), "a Redis that is away is not the worker's fault"


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path)
    yield server
    server.close()


def test_a_workload_is_scaled_with_the_pods_own_account(api_server: ApiServer, tmp_path: Path) -> None:
    assert run(tmp_path, "scale", "deployments/llama", "1", **api_server.environment) == (0, "")
    assert run(tmp_path, "scale", "statefulsets/b", "0", "other", **api_server.environment) == (0, "")
    patch = ("Bearer of-the-pod", "application/merge-patch+json")
    assert api_server.heard == [
        ("PATCH", "/apis/apps/v1/namespaces/llm/deployments/llama/scale", *patch, {"spec": {"replicas": 1}}),
        ("PATCH", "/apis/apps/v1/namespaces/other/statefulsets/b/scale", *patch, {"spec": {"replicas": 0}}),
    ]


def test_a_refusal_and_a_mistake_are_told_without_the_token(api_server: ApiServer, tmp_path: Path) -> None:
    api_server.status = 403
    status, said = run(tmp_path, "scale", "deployments/llama", "1", **api_server.environment)
    assert (status, said) == (1, 'the API server answers 403: {"message": "no rights"}\n')
    for words in (("pods/llama", "1"), ("deployments/", "1"), ("deployments/llama",), ("deployments/llama", "-1")):
        assert run(tmp_path, "scale", *words, **api_server.environment)[0] == 1
    assert len(api_server.heard) == 1
    (api_server.account / "ca.crt").write_bytes(make_authority(tmp_path / "x").certificate.read_bytes())
    status, said = run(tmp_path, "scale", "deployments/llama", "1", **api_server.environment)
    assert status == 1 and "CERTIFICATE_VERIFY_FAILED" in said and "of-the-pod" not in said
    assert len(api_server.heard) == 1, "the token was sent to a stranger"
