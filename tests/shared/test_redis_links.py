"""Links to Redis over a bad network: whatever happens to a connection, another one is made, on either event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
import redis.asyncio as aioredis

from aqueduct.embedded_redis import find_server
from shared.redis import RedisClient, RedisRefused, RedisUnavailable, Subscriber
from shared.redis.connector import NotServing, detach
from shared.redis.link import Link
from tests.support.asynchronous import asynchronous, on_each_loop
from tests.support.peers import open_server
from tests.support.processes import Process, RedisServer, free_port
from tests.support.relay import Relay
from tests.support.tls import make_authority, make_certificate
from tests.support.waiting import wait_until_async

STORM_SECONDS = 4.0
LINKS = 5
"""Of each kind: the more handshakes, the surer that one of them is hit where it hurts."""


@pytest.fixture
def relay(own_redis: RedisServer) -> Iterator[Relay]:
    with Relay(own_redis.port) as relay:
        yield relay


@asynccontextmanager
async def opened(*links: Link) -> AsyncIterator[None]:
    try:
        await asyncio.gather(*(link.open() for link in links))
        yield
    finally:
        await asyncio.gather(*(link.close() for link in links))


async def answers(client: RedisClient, *command: str) -> bool:
    try:
        await client.call(*(command or ("PING",)))
    except (RedisUnavailable, RedisRefused):
        return False
    return True


@on_each_loop
async def test_no_link_dies_of_resets_in_its_handshake(own_redis: RedisServer, relay: Relay) -> None:
    url = relay.through(own_redis.url)
    heard: list[bytes] = []
    clients = [RedisClient(url, f"client {number}") for number in range(LINKS)]
    subscribers = [Subscriber(url, ["news"], heard.append, name=f"events {number}") for number in range(LINKS)]
    async with opened(*clients, *subscribers):
        relay.handshake_resets = 0.9
        ends_at = asyncio.get_running_loop().time() + STORM_SECONDS
        accepted = relay.accepted
        while asyncio.get_running_loop().time() < ends_at:
            await asyncio.to_thread(relay.cut)
            await asyncio.sleep(0.05)
        assert relay.accepted - accepted > LINKS * 4, "the storm hit too few handshakes to tell anything"
        relay.handshake_resets = 0.0
        for client in clients:
            await wait_until_async(lambda client=client: answers(client), 5, "an answer")  # type: ignore[misc]
        for subscriber in subscribers:
            async with asyncio.timeout(5):
                await subscriber.subscribed.wait()
        assert await clients[0].call("PUBLISH", "news", "calm") == LINKS
        await wait_until_async(lambda: heard == [b"calm"] * LINKS, 5, "the news")


GREETING = b"+OK\r\n" * 2
"""What a server says to redis-py, which tells its own name and version first."""
NOTHING_KNOWN = b"$-1\r\n" * 2
"""To both questions about the server."""


@on_each_loop
async def test_an_error_that_nobody_foresaw_is_logged_and_another_try_made(caplog: pytest.LogCaptureFixture) -> None:
    async with open_server() as server:
        client = RedisClient(f"redis://{server.address}/0")
        opening = asyncio.create_task(client.open(5.0))
        await (await server.accept()).send(GREETING + b"$2\r\n\xff\xff\r\n" * 2)  # no text at all
        peer = await server.accept()
        await peer.send(GREETING + NOTHING_KNOWN)
        await opening
        pong = client.call("PING")
        await peer.send(b"+PONG\r\n")
        assert await pong == b"PONG"
        await client.close()
    assert "UnicodeDecodeError" in caplog.text and "Traceback" in caplog.text


@asynchronous
async def test_a_callback_that_fails_is_logged_and_hurts_no_other(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    called = asyncio.Event()

    async def fail() -> None:
        raise ValueError("the callback's own")

    async def note() -> None:
        called.set()

    client = RedisClient(own_redis.url)
    client.on_connected += [fail, note]
    async with opened(client), asyncio.timeout(5):
        await called.wait()
        assert await answers(client)
    assert "the callback's own" in caplog.text


@on_each_loop
async def test_a_tls_socket_is_taken_over_and_its_certificate_checked(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    pair = make_certificate(tmp_path, authority)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    async with open_server(tls) as server:
        trusting = RedisClient(f"rediss://{server.address}/0?ssl_ca_certs={authority.certificate}")
        opening = asyncio.create_task(trusting.open(5.0))
        peer = await server.accept()
        await peer.send(GREETING + NOTHING_KNOWN)
        await opening
        pong = trusting.call("PING")
        await peer.send(b"+PONG\r\n")
        assert await pong == b"PONG"
        await trusting.close()
        accepted = server.accepted
        wary = RedisClient(f"rediss://{server.address}/0")
        with pytest.raises(RedisUnavailable):
            await wary.open(0.5)
        assert server.accepted == accepted
        careless = RedisClient(f"rediss://{server.address}/0?ssl_cert_reqs=CERT_NONE")
        opening = asyncio.create_task(careless.open(5.0))
        await (await server.accept()).send(GREETING + NOTHING_KNOWN)
        await opening
        await careless.close()


@on_each_loop
async def test_a_server_that_leaves_right_after_the_greeting_is_not_taken_for_connected() -> None:
    async with open_server() as server:
        client = RedisClient(f"redis://{server.address}/0")
        opening = asyncio.create_task(client.open(2.0))
        for _ in range(3):  # polite ends: the socket stays half open unless somebody looks
            peer = await server.accept()
            await peer.send(GREETING + NOTHING_KNOWN)
            peer.close()
        with pytest.raises(RedisUnavailable):
            await opening
        assert not client.connected.is_set()


@asynchronous
async def test_who_stops_waiting_for_a_connection_leaves_nothing_behind() -> None:
    client = RedisClient(f"redis://127.0.0.1:{free_port()}/0", "given up")
    opening = asyncio.create_task(client.open())
    await wait_until_async(lambda: any(task.get_name() == "redis given up" for task in asyncio.all_tasks()))
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- a failover that leaves the connections open ---------------------------------------------------------------------


@asynchronous
async def test_a_demoted_server_is_left_and_the_new_master_found_under_the_same_name(
    own_redis: RedisServer, relay: Relay, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "new", settings=()) as new:
        with new.client() as admin:
            admin.config_set("requirepass", own_redis.password)
        client = RedisClient(relay.through(own_redis.url))
        async with opened(client):
            old_run_id = client.run_id
            with own_redis.client() as admin:
                admin.execute_command("REPLICAOF", "127.0.0.1", new.port)
            with pytest.raises(RedisRefused, match="READONLY"):
                await client.call("SET", "key", 1, "EX", 60)
            await wait_until_async(lambda: not client.connected.is_set(), 5, "the replica to be left")
            relay.retarget(new.port, cut=False)  # as DNS does, some time after the demotion
            await wait_until_async(lambda: answers(client, "SET", "key", "1", "EX", "60"), 10, "a write")
            assert client.run_id not in ("", old_run_id)


@asynchronous
async def test_a_subscriber_can_be_sent_to_the_server_that_took_over(
    own_redis: RedisServer, relay: Relay, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "new") as new:
        with new.client() as admin:
            admin.config_set("requirepass", own_redis.password)
        heard: list[bytes] = []
        subscriber = Subscriber(relay.through(own_redis.url), ["news"], heard.append)
        async with opened(subscriber):
            old_run_id = subscriber.run_id
            relay.retarget(new.port, cut=False)
            subscriber.reconnect()
            await wait_until_async(
                lambda: subscriber.subscribed.is_set() and subscriber.run_id != old_run_id, 5, "the new server"
            )
            with redis.Redis(port=new.port, password=own_redis.password) as client:
                assert client.publish("news", "moved") == 1
            await wait_until_async(lambda: heard == [b"moved"], 5, "the news")


@asynchronous
async def test_a_replica_is_not_connected_to(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with own_redis.client() as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
    client = RedisClient(own_redis.url)
    with pytest.raises(RedisUnavailable):
        await client.open(0.5)
    assert "read-only replica" in caplog.text


@pytest.mark.parametrize(
    ("message", "by_replica"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True),
        ("ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write", True),
        ("LOADING Redis is loading the dataset in memory", False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("ERR unknown command", False),
    ],
)
def test_only_a_replicas_refusal_means_that_the_master_is_elsewhere(message: str, by_replica: bool) -> None:
    assert RedisRefused(message).by_replica is by_replica


@asynchronous
async def test_a_refusal_that_goes_away_keeps_the_connection(own_redis: RedisServer) -> None:
    client = RedisClient(own_redis.url)
    async with opened(client):
        connection = await client.call("CLIENT", "ID")
        with own_redis.client() as admin:
            admin.config_set("maxmemory", 1)
            with pytest.raises(RedisRefused, match="OOM"):
                await client.call("SET", "key", 1)
            admin.config_set("maxmemory", 0)
        assert await client.call("CLIENT", "ID") == connection


@asynchronous
async def test_a_sentinel_that_is_away_does_not_hide_the_next(own_redis: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {own_redis.port} 1\n"
        f"sentinel auth-pass main {own_redis.password}\n"
    )
    async with open_server() as silent:
        away = f"127.0.0.1:{free_port()},{silent.address}"
        with Process([find_server().path, configuration, "--sentinel"], tmp_path / "sentinel.log"):
            client = RedisClient(f"sentinel://:{own_redis.password}@{away},127.0.0.1:{port}/main/0")
            async with opened(client):
                assert await answers(client)


# --- redis-py's private parts ----------------------------------------------------------------------------------------


@on_each_loop
async def test_a_socket_taken_from_redis_py_is_ours_alone(own_redis: RedisServer) -> None:
    """Fails when the attributes move that `shared/redis/connector.py` leans on; redis-py's minor version is pinned."""
    connection = aioredis.ConnectionPool.from_url(own_redis.url, protocol=2).make_connection()  # type: ignore[no-untyped-call]
    await connection.connect()
    assert isinstance(connection._reader, asyncio.StreamReader)
    assert isinstance(connection._writer, asyncio.StreamWriter)
    writer = detach(connection)
    assert not connection.is_connected
    connection._close()
    await connection.disconnect()
    del connection
    gc.collect()
    assert not writer.transport.is_closing()
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Listener(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            heard.set_result(data)

    writer.transport.set_protocol(Listener())
    writer.transport.write(b"PING\r\n")
    async with asyncio.timeout(5):
        assert await heard == b"+PONG\r\n"
    writer.transport.abort()


@asynchronous
async def test_a_connection_that_redis_py_closed_is_refused(own_redis: RedisServer) -> None:
    connection = aioredis.ConnectionPool.from_url(own_redis.url, protocol=2).make_connection()  # type: ignore[no-untyped-call]
    await connection.connect()
    connection._close()
    assert connection._writer is None
    with pytest.raises(NotServing):
        detach(connection)


def test_the_log_of_the_links_names_no_password(caplog: pytest.LogCaptureFixture, own_redis: RedisServer) -> None:
    async def refused() -> None:
        client = RedisClient(own_redis.url.replace(own_redis.password, "canary-of-the-password"))
        with pytest.raises(RedisUnavailable):
            await client.open(0.5)

    with caplog.at_level(logging.DEBUG, "aqueduct"):
        asyncio.run(refused())
    assert "cannot connect" in caplog.text
    assert "canary-of-the-password" not in caplog.text
