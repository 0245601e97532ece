"""A Redis URL in, a socket out that is signed in to a master; all that is redis-py's, its private parts too, is here.

redis-py makes the connection (authentication, TLS, unix sockets, Sentinel, protocol). Names are looked up and Sentinels
asked each time, so that a failover is followed by connecting again.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from shared.redis_url import parse_sentinel_url, sentinel_master, with_certificate_check

CONNECT_SECONDS: Final = 2.0
SENTINEL_SECONDS: Final = 1.0
"""For each Sentinel: one that is silent must not use up the time in which the next would have answered."""


class NotServing(Exception):
    """A server was reached that cannot be worked with; the message says why, fit to be logged."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A socket that is ours, and which server process is behind it."""

    writer: asyncio.StreamWriter
    run_id: str


class Connector:
    """Makes connections for one link."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seconds = 2 * CONNECT_SECONDS
        self._sentinel: Sentinel | None = None
        self._pool: aioredis.ConnectionPool | None = None
        """Only a factory of connections."""

    async def connect(self) -> Connected:
        """Connect and sign in. Raises whatever redis-py, the socket or the loop raise, and NotServing."""
        if self._pool is None:
            self._pool = self._make_pool()
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._seconds):
                await connection.connect()
                server, replication = await _info(connection, "server"), await _info(connection, "replication")
            if replication.get("role") == "slave" and replication.get("slave_read_only") == "1":
                raise NotServing("it is a read-only replica")
            return Connected(detach(connection), server.get("run_id", ""))
        except BaseException:
            with contextlib.suppress(Exception):  # uvloop may refuse to close what is closed
                connection._close()
            raise

    async def close(self) -> None:
        """Close what was used to find servers."""
        with contextlib.suppress(Exception):  # nothing that ends here is of use any more
            if self._sentinel is not None:
                await self._sentinel.aclose()
            if self._pool is not None:
                await self._pool.disconnect()

    def _make_pool(self) -> aioredis.ConnectionPool:
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
        }
        if not self._url.startswith("unix://"):
            options["socket_keepalive"] = True
        if not self._url.startswith("sentinel://"):
            return aioredis.ConnectionPool.from_url(with_certificate_check(self._url), **options)
        self._seconds += SENTINEL_SECONDS * len(parse_sentinel_url(self._url).hosts)
        self._sentinel, master = sentinel_master(Sentinel, self._url, options, sentinel_seconds=SENTINEL_SECONDS)
        pool: aioredis.ConnectionPool = master.connection_pool
        return pool


async def _info(connection: aioredis.Connection, section: str) -> dict[str, str]:
    await connection.send_command("INFO", section)
    reply = await connection.read_response()
    text = reply.decode() if isinstance(reply, bytes) else str(reply)
    return {name: value for name, _, value in (line.partition(":") for line in text.splitlines())}


def detach(connection: aioredis.Connection) -> asyncio.StreamWriter:
    """Take the socket out of redis-py's hands, which must neither read nor close it any more."""
    reader, writer = connection._reader, connection._writer
    if reader is None or writer is None:
        raise NotServing("redis-py closed the connection it had just made")
    # The end of the socket was told to redis-py then, and would not be told again.
    if writer.transport.is_closing() or reader.at_eof():
        raise NotServing("it closed the connection at once")
    connection._reader = connection._writer = None
    return writer
