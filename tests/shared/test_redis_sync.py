"""The commands' Redis client: each form of URL reaches the server it names, checked and in time."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from aqueduct.embedded_redis import find_server
from shared.redis_sync import connect
from tests.support.processes import Process, RedisServer, free_port
from tests.support.waiting import wait_until


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_unix_socket_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    options: list[str | Path] = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", tmp_path]
    with Process([find_server().path, *options], tmp_path / "redis.log"):
        wait_until(path.exists, 10, "the socket")
        with connect(f"unix://{path}?db=2") as client:
            assert client.ping()
            assert client.client_info()["db"] == 2


def test_sentinel_names_the_master(redis_server: RedisServer, tmp_path: Path) -> None:
    with redis_server.client() as direct:
        settings = direct.connection_pool.connection_kwargs
        run_id = direct.info("server")["run_id"]
    port, password = free_port(), settings.get("password")
    lines = [f"port {port}", "bind 127.0.0.1", f"sentinel monitor mymaster 127.0.0.1 {settings['port']} 1"]
    lines += [f"sentinel auth-pass mymaster {password}"] if password else []
    (tmp_path / "sentinel.conf").write_text("\n".join(lines) + "\n")
    command: list[str | Path] = [find_server().path, tmp_path / "sentinel.conf", "--sentinel"]
    with Process(command, tmp_path / "sentinel.log"):
        wait_until(lambda: listens(port), 10, "the sentinel to listen")
        user = f":{password}@" if password else ""
        with connect(f"sentinel://{user}127.0.0.1:{port}/mymaster/0") as client:
            assert client.info("server")["run_id"] == run_id


@pytest.mark.parametrize(("query", "asked"), [("", "required"), ("?ssl_cert_reqs=CERT_NONE", "none")])
def test_certificates_are_checked_unless_the_url_says_otherwise(query: str, asked: str) -> None:
    with connect(f"rediss://127.0.0.1:1/0{query}") as client:
        assert client.connection_pool.connection_kwargs["ssl_cert_reqs"] == asked


def test_an_unusable_url_is_refused_without_its_password() -> None:
    with pytest.raises(ValueError, match="no cluster transport") as caught:
        connect("redis+cluster://:canary@h")
    assert "canary" not in str(caught.value)
