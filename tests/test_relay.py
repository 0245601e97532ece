"""The tests' TCP relay: each of its switches does to real connections what its name says."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from tests.support.processes import RedisServer, free_port
from tests.support.relay import Relay
from tests.support.waiting import wait_until

MEGABYTE = 1 << 20


@pytest.fixture
def relay(own_redis: RedisServer) -> Iterator[Relay]:
    with Relay(own_redis.port) as relay:
        yield relay


@contextmanager
def client_of(relay: Relay, server: RedisServer, seconds: float = 5) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(relay.through(server.url), socket_timeout=seconds, retry=None) as client:
        yield client


def test_it_carries_both_ways_and_whole(relay: Relay, own_redis: RedisServer) -> None:
    body = bytes(range(256)) * 20_000
    with client_of(relay, own_redis) as client:
        client.set("body", body, ex=60)
        assert client.get("body") == body
    assert relay.carried_bytes > 2 * len(body)
    wait_until(lambda: relay.open_connections == 0, 5, "the closed connection to be let go")


def test_a_narrow_line_takes_its_time(relay: Relay, own_redis: RedisServer) -> None:
    with client_of(relay, own_redis, seconds=20) as client:
        client.ping()
        relay.bytes_per_second = 4 * MEGABYTE
        began = time.monotonic()
        client.set("body", b"x" * 4 * MEGABYTE, ex=60)
        assert 0.9 < time.monotonic() - began < 3


def test_a_long_line_delays_but_stays_wide(relay: Relay, own_redis: RedisServer) -> None:
    with client_of(relay, own_redis, seconds=20) as client:
        client.ping()
        relay.latency_seconds = 0.1
        began = time.monotonic()
        client.ping()
        assert time.monotonic() - began >= 0.2
        began = time.monotonic()
        client.set("body", b"x" * MEGABYTE, ex=60)
        assert time.monotonic() - began < 2  # 32 chunks one after another would take more


def test_a_stalled_line_stays_open(relay: Relay, own_redis: RedisServer) -> None:
    with client_of(relay, own_redis, seconds=0.2) as client:
        mine = client.client_id()
        relay.stall()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        relay.resume()
        with own_redis.client() as direct:
            assert mine > 0 and direct.ping()
        assert wait_until(client.ping, 5, "an answer")


@pytest.mark.parametrize("reset", [True, False])
def test_a_cut_is_noticed_at_once(relay: Relay, own_redis: RedisServer, reset: bool) -> None:
    with socket.create_connection(("127.0.0.1", relay.port), timeout=5) as end:
        end.sendall(b"PING\r\n")
        assert end.recv(100).startswith(b"-NOAUTH")
        assert relay.cut(reset=reset) == 1
        if reset:
            with pytest.raises(ConnectionResetError):
                end.recv(100)
        else:
            assert end.recv(100) == b""


def test_a_refusing_relay_lets_nobody_in(relay: Relay, own_redis: RedisServer) -> None:
    relay.refuses = True
    with client_of(relay, own_redis) as client, pytest.raises(redis.ConnectionError):
        client.ping()


def test_resets_in_the_handshake_come_at_many_places(relay: Relay) -> None:
    relay.handshake_resets = 1.0
    endings = {_ending(relay.port) for _ in range(60)}
    assert {how for how, _ in endings} == {"closed", "reset"}
    assert len(endings) > 10


def _ending(port: int) -> tuple[str, int]:
    heard = 0
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as end:
            end.sendall(b"PING\r\n" * 200)
            while data := end.recv(100):
                heard += len(data)
    except ConnectionError:
        return "reset", heard
    return "closed", heard


def test_another_target_gets_the_next_connections(relay: Relay, own_redis: RedisServer) -> None:
    with client_of(relay, own_redis) as client:
        client.ping()
        relay.retarget(free_port())
        with pytest.raises(redis.ConnectionError):
            client.ping()
        relay.retarget(own_redis.port)
        assert client.ping()
