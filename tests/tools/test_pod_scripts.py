"""The scripts inside the image: a worker's health by its own heartbeat, and a workload that a hook scales."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared import keys
from tests.support.processes import ROOT, Process, RedisServer
from tests.support.tls import make_authority, make_certificate

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


class ApiServer:
    """Kubernetes' part of it: HTTPS with the cluster's own certificate; keeps what it is sent."""

    def __init__(self, folder: Path) -> None:
        authority = make_authority(folder)
        pair = make_certificate(folder, authority)
        self.account = folder / "account"
        self.account.mkdir()
        (self.account / "ca.crt").write_bytes(authority.certificate.read_bytes())
        (self.account / "namespace").write_text("llm")
        (self.account / "token").write_text("of-the-pod\n")
        self.status = 200
        self.heard: list[tuple[str, str, str, str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                given = self.headers["authorization"], self.headers["content-type"]
                outer.heard.append((self.command, self.path, *given, body))
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(b'{"message": "no rights"}')

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        port = str(self._server.server_address[1])
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port,
            "SERVICE_ACCOUNT_DIR": str(self.account),
        }  # fmt: skip

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


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
