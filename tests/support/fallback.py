"""A Redis that falls back by a moment, two ways: a replica that lags and is promoted, and a file that lost its end."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.processes import RedisServer
from tests.support.relay import Relay
from tests.support.startable import Startable
from tests.support.waiting import wait_until


class Failover(Startable):
    """A master that clients reach through `front`, and a replica of it whose own link can be made to lag."""

    def __init__(self, folder: Path) -> None:
        self.master = RedisServer(folder / "first")
        self._folder = folder
        self._made = 0

    def start(self) -> Failover:
        """Start both, the replica in step."""
        self.master.start()
        self.front = Relay(self.master.port).start()
        self.add_replica()
        return self

    @property
    def url(self) -> str:
        """For the clients: it leads to whatever server is the master."""
        return self.front.through(self.master.url)

    def add_replica(self) -> None:
        """Start a replica of the present master, and wait until it has all that the master has."""
        self._made += 1
        self._link = Relay(self.master.port).start()
        self.replica = RedisServer(
            self._folder / f"replica-{self._made}",
            password=self.master.password,
            settings=(f"replicaof 127.0.0.1 {self._link.port}", f"masterauth {self.master.password}"),
        ).start()
        wait_until(self._is_in_step, 30, "the replica to be in step")

    def _is_in_step(self) -> bool:
        with self.replica.client() as client:
            found: dict[str, object] = client.info("replication")
        return found.get("master_link_status") == "up" and not found.get("master_sync_in_progress")

    def fall_back(self, lag_seconds: float) -> None:
        """Let the replica miss so much, then kill the master and lead the clients to the replica instead.

        What happened in between never happened, as far as the new master knows.
        """
        self._link.stall()
        time.sleep(lag_seconds)
        self.master.kill()
        self._link.stop()
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        self.master = self.replica
        self.front.retarget(self.master.port)

    def stop(self) -> None:
        """End all; safe to call twice, and before `start`."""
        for name in ("front", "_link", "replica"):
            if hasattr(self, name):
                getattr(self, name).stop()
        self.master.stop()


def lose_the_last(server: RedisServer, seconds: float) -> None:
    """Kill a Redis, cut what it has written in the last `seconds` from its append-only file, and start it again.

    So it goes when the machine dies: with `appendfsync everysec` the file's end had not reached the disk.
    """
    file = _written_file(server)
    size = file.stat().st_size
    time.sleep(seconds)
    server.kill()
    with file.open("r+b") as opened:
        opened.truncate(size)
    server.restart()


def _written_file(server: RedisServer) -> Path:
    """Return the part of the append-only file that grows."""
    return max(server.folder.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))
