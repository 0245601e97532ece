"""Hosts of one machine: network namespaces with an address each on one bridge, and links between them that can be cut.

`with network.inside("api"):` everything that the calling thread opens or starts is on that host: sockets, threads and
child processes. The bridge is in a namespace of its own, so that nothing of it is on the machine itself.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.startable import Startable

_NAMED: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000
_NOBODY: Final = "02:00:00:00:00:fe"
"""A link address that no host has."""
_libc = ctypes.CDLL(None, use_errno=True)


class NotPermitted(Exception):
    """This user may make no network namespaces, or the system has none."""


class Network(Startable):
    """Hosts by name, `10.77.0.1` and on."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(hosts, 1)}
        self._prefix = f"aq-{os.getpid()}-"
        self._made: list[str] = []

    def start(self) -> Network:
        """Make all of them; raises NotPermitted."""
        _clear_away_the_dead()
        try:
            self._namespace("hub")
        except subprocess.CalledProcessError as error:
            raise NotPermitted(error.stderr) from None
        self._ip("hub", "link", "add", "bridge", "type", "bridge")
        self._ip("hub", "link", "set", "bridge", "up")
        for name, address in self.addresses.items():
            self._namespace(name)
            self._ip("hub", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", self._prefix + name)
            self._ip("hub", "link", "set", name, "master", "bridge", "up")
            self._ip(name, "address", "add", f"{address}/24", "dev", "eth0")
            self._ip(name, "link", "set", "eth0", "up")
            self._ip(name, "link", "set", "lo", "up")
        return self

    def stop(self) -> None:
        """Take all away; safe to call twice. What still runs inside loses its network."""
        while self._made:
            _run("netns", "delete", self._prefix + self._made.pop())

    @contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """Put the calling thread, and what it starts meanwhile, on a host."""
        with Path("/proc/thread-self/ns/net").open("rb") as home, (_NAMED / (self._prefix + host)).open("rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    @contextmanager
    def cut(self, one: str, other: str) -> Iterator[None]:
        """Have nothing pass between two hosts meanwhile, silently, as behind a switch that has failed."""
        pairs = ((one, other), (other, one))
        for host, peer in pairs:
            neighbour = (self.addresses[peer], "lladdr", _NOBODY, "nud", "permanent", "dev", "eth0")
            self._ip(host, "neighbour", "replace", *neighbour)
        try:
            yield
        finally:
            for host, peer in pairs:
                self._ip(host, "neighbour", "delete", self.addresses[peer], "dev", "eth0")

    def _namespace(self, name: str) -> None:
        _run("netns", "add", self._prefix + name)
        self._made.append(name)

    def _ip(self, host: str, *words: str) -> None:
        _run("-netns", self._prefix + host, *words)


def listeners(pid: int) -> list[int]:
    """Return the ports on which anything listens in the namespace of a process."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                found.append(int(local.rpartition(":")[2], 16))
    return found


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _run(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)


def _clear_away_the_dead() -> None:
    """Delete what test runs that were killed have left."""
    for path in _NAMED.glob("aq-*-*") if _NAMED.is_dir() else ():
        found = re.fullmatch(r"aq-(\d+)-\w+(-\d)?", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            subprocess.run(["ip", "netns", "delete", path.name], check=False, capture_output=True, timeout=30)
