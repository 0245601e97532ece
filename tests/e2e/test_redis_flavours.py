"""Redis with TLS, with an ACL user, on a unix socket, behind Sentinel, full, loading, or unfit: what callers see."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from aqueduct.embedded_redis import find_server
from shared.broker import celery_app
from tests.conftest import MakeSystem
from tests.support.calls import Call, wait_for_content
from tests.support.models import model
from tests.support.processes import ROOT, Process, RedisServer, free_port
from tests.support.rooms import settings_of
from tests.support.startable import Startable
from tests.support.system import System
from tests.support.tls import make_authority, make_certificate
from tests.support.tls_relay import TlsRelay
from tests.support.waiting import wait_until

TOKENS = 50
MODELS: dict[str, dict[str, Any]] = {
    "short": model("tokens=4"),
    "steady": model(f"tokens={TOKENS}&token_seconds=0.1"),
}
PASSWORD = "secret-of-the-acl-user"
HOW_TO = ROOT / "docs" / "operate" / "redis.md"

StartRedis = Callable[..., RedisServer]


class TlsRedis(Startable):
    """A Redis that is reached with TLS; its URL names the authority that clients check it by.

    TLS ends in front of it: many builds of Redis have none, the one that comes as a wheel among them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.trusted = make_authority(folder)
        self.server = RedisServer(folder / "redis")
        self._pair = make_certificate(folder, self.trusted)
        self._relay: TlsRelay | None = None

    @property
    def url(self) -> str:
        """The URL with the authority."""
        return f"{self.bare_url}?ssl_ca_certs={self.trusted.certificate}"

    @property
    def bare_url(self) -> str:
        """The URL without the authority: the machine's own list must do, and does not know it."""
        assert self._relay is not None, "not started"
        return f"rediss://:{self.server.password}@127.0.0.1:{self._relay.port}/0"

    def start(self) -> TlsRedis:
        self.server.start()
        self._relay = TlsRelay(self._folder, self._pair, self.server.port).start()
        return self

    def stop(self) -> None:
        if self._relay is not None:
            self._relay.stop()
        self.server.stop()


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[TlsRedis]:
    with TlsRedis(tmp_path / "tls") as running:
        with redis.Redis.from_url(running.url) as client:
            assert client.ping()  # so that a refusal is the certificate's doing
        yield running


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[StartRedis]:
    started: list[RedisServer] = []

    def start(*settings: str) -> RedisServer:
        started.append(RedisServer(tmp_path / f"redis-{len(started)}", settings=settings))
        return started[-1].start()

    yield start
    for server in started:
        server.stop()


def assert_serves(make_system: MakeSystem, url: str) -> None:
    """A whole gateway over this Redis answers a stream and a plain request, and nobody complains."""
    system = make_system(redis_url=url, models=MODELS)
    for stream in (True, False):
        Call(system, "short", f"flavour-{stream}", stream=stream).wait(20).assert_complete(4)
    assert "Traceback" not in system.logs()
    assert not re.search(r"NOPERM|no permissions|Cannot connect", system.logs()), system.logs()
    assert_no_worker_tells_the_password(url)


def assert_no_worker_tells_the_password(url: str) -> None:
    """Ask over Celery's remote control, as Flower does for its pages."""
    control = celery_app(settings_of({"short": {}}, url)).control.inspect(timeout=3, limit=1)
    told = {name: getattr(control, name)() for name in ("stats", "conf", "report", "registered", "active_queues")}
    assert told["stats"], "no worker answers"
    password = urlsplit(url).password
    assert password
    assert password not in str(told)


def refusal_at_start(make_system: MakeSystem, url: str, command: str) -> str:
    """Start a process, which must end with an error by itself; return what it said."""
    system = make_system(start=False, redis_url=url, models=MODELS)
    system.write_config()
    with system.command(command) as process:
        assert process.wait(20) != 0
        return process.log()


def test_tls_with_an_authority_of_ones_own(make_system: MakeSystem, tls_redis: TlsRedis) -> None:
    assert_serves(make_system, tls_redis.url)


@pytest.mark.parametrize("which", ["unknown", "wrong"])
def test_a_certificate_that_cannot_be_verified_is_refused(
    tmp_path: Path, make_system: MakeSystem, tls_redis: TlsRedis, which: str
) -> None:
    password = tls_redis.server.password
    other = make_authority(tmp_path / "other", "other")
    url = tls_redis.bare_url if which == "unknown" else f"{tls_redis.bare_url}?ssl_ca_certs={other.certificate}"
    system = make_system(start=False, redis_url=url, models=MODELS)
    system.write_config()
    checked = system.command("check").start()
    assert checked.wait(30) != 0
    assert "redis" in checked.log().lower()
    assert password not in checked.log()
    said = refusal_at_start(make_system, url, "worker")
    assert "Redis does not answer" in said
    assert password not in said


def documented_acl() -> list[str]:
    """Return the rules that the how-to tells operators to set."""
    match = re.search(r"```text\nuser aqueduct (.*?)```", HOW_TO.read_text(), re.DOTALL)
    assert match, f"{HOW_TO.name} has no ACL rules"
    return match[1].replace("\\\n", " ").replace(">PASSWORD", f">{PASSWORD}").split()


def test_the_documented_acl_user_may_do_what_is_needed_and_no_more(
    make_system: MakeSystem, start_redis: StartRedis
) -> None:
    server = start_redis("user aqueduct " + " ".join(documented_acl()))
    url = f"redis://aqueduct:{PASSWORD}@127.0.0.1:{server.port}/0"
    assert_serves(make_system, url)
    with server.client() as admin:
        entries: Any = admin.acl_log()
        denied = {(one["object"], one["reason"]) for one in entries}
    # Only `check` asks for it, and only to warn. Redis 6.2 tells of no subcommands; what redis-py says there by CLIENT,
    # to introduce itself, it does not know, and goes on without.
    allowed = {"config|get"} if find_server().version >= (7, 0) else {"config", "client"}
    assert denied <= {(name, "command") for name in allowed}, denied
    with redis.Redis.from_url(url) as user:
        for command in (("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("GET", "somebody-elses")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.execute_command(*command)


def test_a_unix_socket(tmp_path: Path, make_system: MakeSystem, start_redis: StartRedis) -> None:
    path = Path("/").joinpath(tmp_path, "s")
    server = start_redis(f'unixsocket "{path}"')
    assert_serves(make_system, f"unix://:{server.password}@{path}?db=0")


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_redis_that_evicts_is_refused_at_start(
    make_system: MakeSystem, start_redis: StartRedis, command: str
) -> None:
    server = start_redis("maxmemory-policy allkeys-lru")
    said = refusal_at_start(make_system, server.url, command)
    assert "allkeys-lru" in said
    assert "noeviction" in said
    assert "Traceback" not in said


def test_a_redis_in_cluster_mode_is_refused_at_start(make_system: MakeSystem, start_redis: StartRedis) -> None:
    server = start_redis("cluster-enabled yes")
    said = refusal_at_start(make_system, server.url, "api")
    assert "cluster" in said
    assert "Traceback" not in said


def test_a_cluster_url_is_refused_at_start(make_system: MakeSystem) -> None:
    said = refusal_at_start(make_system, "redis+cluster://127.0.0.1:6379/0", "api")
    assert "Redis Cluster cannot be the broker" in said
    assert "Traceback" not in said


@pytest.mark.chaos
def test_while_redis_is_full_new_requests_are_refused_and_running_ones_end(
    make_system: MakeSystem, own_redis: RedisServer
) -> None:
    system = make_system(models=MODELS)
    running = Call(system, "steady", "runs-while-full")
    wait_for_content(running)
    with own_redis.client() as admin:
        admin.config_set("maxmemory", "1mb")
        for stream in (True, False):
            refused = Call(system, "short", f"full-{stream}", stream=stream).wait(10)
            assert refused.status == 503
            assert refused.assert_one_error()["code"] == "server_is_overloaded"
            assert refused.seconds < 1.5
        running.wait(20).assert_complete(TOKENS)
        admin.config_set("maxmemory", "0")
    Call(system, "short", "room-again").wait(10).assert_complete(4)
    assert all(worker.running for worker in system.workers)


@pytest.mark.chaos
def test_while_redis_loads_its_file_new_requests_are_refused_and_running_ones_go_on(
    tmp_path: Path, make_system: MakeSystem
) -> None:
    with LoadingRedis(tmp_path / "loading") as server:
        system = make_system(redis_url=server.url, models=MODELS)
        with server.client() as admin:
            pipeline = admin.pipeline(transaction=False)
            for number in range(40_000):
                pipeline.set(f"ballast:{number}", "x" * 200, ex=600)
            pipeline.execute()
        running = Call(system, "steady", "runs-while-loading")
        wait_for_content(running)
        server.kill()
        server.key_load_delay_microseconds = 20
        with ThreadPoolExecutor(1) as pool:  # the server must be started here: it ends with the thread that did
            asked = pool.submit(_ask_while_loading, server, system)
            server.restart()
            refused = asked.result()
        assert refused.status == 503
        assert refused.assert_one_error()["code"] == "server_is_overloaded"
        assert refused.seconds < 2.5
        running.wait(30).assert_complete(TOKENS)
        wait_until(lambda: Call(system, "short", "loaded", stream=False).wait(10).status == 200, 15, "an answer again")
        assert all(worker.running for worker in system.workers)


def _ask_while_loading(server: LoadingRedis, system: System) -> Call:
    wait_until(server.is_loading, 10, "Redis to load")
    return Call(system, "short", "while-loading", stream=False).wait(10)


class LoadingRedis(RedisServer):
    """A Redis that takes its time to read its file."""

    key_load_delay_microseconds = 0

    def _configuration(self, port: int) -> str:
        slow = ["aof-use-rdb-preamble no", f"key-load-delay {self.key_load_delay_microseconds}"]
        if find_server().version >= (7, 0):  # 6.2 answers after every 2 MB only
            slow.append("loading-process-events-interval-bytes 65536")
        return super()._configuration(port) + "\n".join(slow) + "\n"

    def is_loading(self) -> bool:
        """Whether it answers, and only that it loads."""
        try:
            with self.client() as client:
                client.get("anything")
        except redis.exceptions.BusyLoadingError:
            return True
        except redis.RedisError:
            return False
        return False


# --- Sentinel ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """A master with a replica, and the URL of the Sentinel that watches them."""

    master: RedisServer
    url: str


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Sentinel is the server's own program; it watches from the moment on when it knows the replica."""
    with RedisServer(tmp_path / "master") as master:
        follows = (f"replicaof 127.0.0.1 {master.port}", f"masterauth {master.password}")
        replica = RedisServer(tmp_path / "replica", settings=follows)
        replica.password = master.password
        port = free_port()
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(
            f"bind 127.0.0.1\nport {port}\n"
            f'dir "{tmp_path}"\nsentinel monitor main 127.0.0.1 {master.port} 1\n'
            f"sentinel auth-pass main {master.password}\nsentinel down-after-milliseconds main 1000\n"
            "sentinel failover-timeout main 5000\n"
        )
        with replica, Process([find_server().path, configuration, "--sentinel"], tmp_path / "sentinel.log"):
            with replica.client() as client:
                wait_until(lambda: dict(client.info())["master_link_status"] == "up", 20, "the replica to follow")
            with redis.Redis(port=port) as client:
                wait_until(lambda: _knows_replica(client), 30, "Sentinel to know the replica")
            yield Watched(master, f"sentinel://:{master.password}@127.0.0.1:{port}/main/0")


@pytest.mark.chaos
def test_sentinel_fails_over_and_requests_work_again(watched: Watched, make_system: MakeSystem) -> None:
    system = make_system(redis_url=watched.url, models=MODELS)
    Call(system, "short", "before").wait(20).assert_complete(4)
    pids = [worker.pid for worker in system.workers]
    watched.master.kill()
    wait_until(lambda: Call(system, "short", "after", stream=False).wait(30).status == 200, 45, "an answer again")
    Call(system, "short", "after-stream").wait(20).assert_complete(4)
    assert all(worker.running for worker in system.workers)
    assert [worker.pid for worker in system.workers] == pids


def _knows_replica(client: redis.Redis) -> bool:
    try:
        return "'num-slaves': 1" in str(client.sentinel_master("main"))
    except redis.RedisError:
        return False
