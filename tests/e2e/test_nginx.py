"""Behind a real nginx, with the configuration that `docs/how-to/behind-nginx.md` gives, and its 60 s idle limit."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import ROOT, Process, RedisServer, free_port
from tests.support.startable import Startable
from tests.support.system import DemoBackend, System
from tests.support.tls import make_authority, make_certificate
from tests.support.waiting import wait_until

pytestmark = pytest.mark.full("nginx")

HOW_TO = ROOT / "docs" / "how-to" / "behind-nginx.md"
IDLE_SECONDS = 3
MODELS: dict[str, dict[str, Any]] = {
    "paced": model("tokens=20&token_seconds=0.3"),
    "silent": model(f"tokens=3&first_token_seconds={IDLE_SECONDS * 2.5}"),
    "a-minute": model("tokens=3&first_token_seconds=70", timeout_seconds=120),
    "long": model("tokens=2000&token_seconds=0.05", timeout_seconds=120),
}


class Nginx(Startable):
    """nginx over TLS in front of a gateway; `location` holds what the documentation says about `location /`."""

    def __init__(self, folder: Path, upstream: str, location: str) -> None:
        folder.mkdir(parents=True)
        authority = make_authority(folder)
        pair = make_certificate(folder, authority)
        self.context = ssl.create_default_context(cafile=str(authority.certificate))
        self.port = free_port()
        self.access_log = folder / "access.log"
        (folder / "nginx.conf").write_text(
            f"""
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log {self.access_log};
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream aqueduct {{ server {upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{self.port} ssl;
        ssl_certificate {pair.certificate};
        ssl_certificate_key {pair.key};
        client_max_body_size 48m;
        location / {{ {location} }}
    }}
}}
"""
        )
        self._process = Process(["nginx", "-p", folder, "-c", folder / "nginx.conf"], folder / "nginx.log")

    def start(self) -> Nginx:
        self._process.start()

        def listens() -> bool:
            assert self._process.running, self._process.log()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_until(listens, 10, "nginx to listen")
        return self

    def client(self, token: str, **options: Any) -> httpx.Client:
        """Return a client that trusts this nginx and sends the token."""
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}", verify=self.context, timeout=150,
            headers={"authorization": f"Bearer {token}"}, **options,
        )  # fmt: skip

    def stop(self) -> None:
        self._process.stop()


def documented_location() -> str:
    """Return the directives that the how-to has inside `location /`, which a reader copies."""
    match = re.search(r"location / \{(.*?)\n    \}", HOW_TO.read_text(), re.DOTALL)
    assert match, f"{HOW_TO.name} shows no location"
    return "\n".join(line.partition("#")[0] for line in match[1].splitlines())


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, backend: DemoBackend
) -> Iterator[System]:
    with System(
        tmp_path_factory.mktemp("system"), redis_url=module_redis.url, backend_url=backend.url, models=MODELS,
        settings={"api": {"trusted_proxies": ["127.0.0.1"], "keep_alive_seconds": 1, "hold_headers_seconds": 1}},
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, served: System) -> Iterator[Nginx]:
    """As documented, but with an idle limit that a test can wait for."""
    location = re.sub(r"(proxy_read_timeout) \S+;", rf"\1 {IDLE_SECONDS}s;", documented_location())
    assert f"{IDLE_SECONDS}s;" in location
    with Nginx(tmp_path_factory.mktemp("nginx") / "n", served.base_url.removeprefix("http://"), location) as running:
        yield running


def test_each_chunk_arrives_at_once(nginx: Nginx, served: System) -> None:
    began, arrivals, text = time.monotonic(), [], ""
    with (
        nginx.client(served.token) as client,
        client.stream("POST", CHAT, json=chat_body("paced", stream=True)) as answer,
    ):
        assert answer.status_code == 200
        for part in answer.iter_text():
            if '"content":"' in part:
                arrivals.append(time.monotonic() - began)
            text += part
    assert text.endswith("data: [DONE]\n\n")
    assert len(arrivals) >= 19  # the last ones may share a packet
    late = [at - arrivals[0] - number * 0.3 for number, at in enumerate(arrivals)]
    assert max(late) < 0.2, late


def test_a_stream_that_is_silent_for_longer_than_the_idle_limit_survives(nginx: Nginx, served: System) -> None:
    with nginx.client(served.token) as client:
        answer = client.post(CHAT, json=chat_body("silent", stream=True))
    assert answer.status_code == 200
    assert answer.text.count(": keep-alive\n\n") >= IDLE_SECONDS
    assert answer.text.endswith("data: [DONE]\n\n")


def test_without_comments_the_same_silence_is_cut(nginx: Nginx, served: System) -> None:
    """The counter-proof: a plain request is silent, and nginx ends it."""
    with nginx.client(served.token) as client:
        answer = client.post(CHAT, json=chat_body("silent"))
    assert answer.status_code == 504
    assert "nginx" in answer.text


@pytest.mark.timeout(180)
def test_nginxs_own_limit_of_a_minute_is_survived(tmp_path: Path, served: System) -> None:
    """Debian's nginx with nothing but `proxy_pass`: buffering on, 60 s, and the gateway's defaults of 15 and 10 s."""
    upstream = served.base_url.removeprefix("http://")
    with (
        Nginx(tmp_path / "n", upstream, "proxy_pass http://aqueduct;") as running,
        running.client(served.token) as client,
    ):
        began = time.monotonic()
        answer = client.post(CHAT, json=chat_body("a-minute", stream=True))
    assert time.monotonic() - began > 65
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_client_that_leaves_is_noticed_through_nginx(nginx: Nginx, served: System, backend: DemoBackend) -> None:
    with (
        nginx.client(served.token) as client,
        client.stream("POST", CHAT, json=chat_body("long", "leaves", stream=True)) as answer,
    ):
        next(answer.iter_text())
        left_at = time.time()
    wait_until(lambda: any(one["closed_by_client"] for one in backend.seen("leaves")), 5, "the call to close")
    (record,) = backend.seen("leaves")
    assert record["closed_at"] - left_at < 2


def test_errors_pass_unchanged(nginx: Nginx, served: System) -> None:
    with nginx.client("wrong") as client:
        answer = client.post(CHAT, json=chat_body("paced", stream=True))
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["x-request-id"].startswith("req_")


# --- X-Forwarded-* -------------------------------------------------------------------------------------------------


def test_the_clients_address_is_believed_only_from_trusted_proxies(
    tmp_path: Path, served: System, backend: DemoBackend
) -> None:
    distrusting = System(
        tmp_path / "distrusting", redis_url=served.redis_url, backend_url=backend.url, models=MODELS, workers=(),
        settings={"log_format": "json", "api": {"trusted_proxies": ["192.0.2.1"]}},
    )  # fmt: skip
    trusting = System(
        tmp_path / "trusting", redis_url=served.redis_url, backend_url=backend.url, models=MODELS, workers=(),
        settings={"log_format": "json", "api": {"trusted_proxies": ["127.0.0.1"]}},
    )  # fmt: skip
    for system, expected in ((distrusting, "127.0.0.1"), (trusting, "203.0.113.7")):
        with system, system.client() as client:
            assert client.get("/v1/models", headers={"x-forwarded-for": "203.0.113.7"}).status_code == 200
            assert _logged_client(system) == expected


def _logged_client(system: System) -> str:
    """Return the client's address in the line about the model list, once it is there."""

    def found() -> str | None:
        assert system.api is not None
        lines = [json.loads(line) for line in system.api.log().splitlines() if line.startswith("{")]
        return next((str(one["client"]) for one in lines if "/v1/models" in one.get("message", "")), None)

    address = wait_until(found, 5, "the request's line")
    assert address is not None
    return address
