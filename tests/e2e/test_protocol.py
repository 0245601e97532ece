"""Two versions of the wire on one Redis: whoever comes second is refused at the start, by name, in one line."""

from __future__ import annotations

import time

import pytest

from shared.protocol import OLD_OWNER, OLD_OWNERS, OLD_WORKERS, PROTOCOL
from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import Process, RedisServer, free_port
from tests.support.system import System
from tests.support.waiting import wait_until

OTHER = PROTOCOL + 1
OTHER_VERSION = f"""
import sys
import shared.protocol
shared.protocol.PROTOCOL = {OTHER}
from aqueduct.cli import main
sys.exit(main())
"""
"""The command as it will be once the wire has changed; the number is set before anything can have read it."""


@pytest.fixture
def quiet(make_system: MakeSystem) -> System:
    """A system of which nothing runs yet."""
    system = make_system(start=False, models={"demo": model("tokens=2")})
    system.write_config()
    return system


def of_other_version(system: System, *words: str) -> Process:
    words = ("-c", OTHER_VERSION, *words, "--config", str(system.config_file))
    return Process.python(*words, log_file=system.folder / "other.log", environment={"NO_PROXY": "*"})


def words_of(role: str) -> tuple[str, ...]:
    return ("api", "--port", str(free_port())) if role == "api" else ("worker",)


def assert_refused(process: Process, theirs: int, *names: str) -> None:
    """Check that it ends in one line that says who is there, and what to do."""
    assert process.wait(30) == 1, process.log()
    (line,) = process.log().splitlines()
    assert line.startswith("error: "), line
    assert f"protocol {theirs} (" in line, line
    assert all(name in line for name in names), line
    assert "Stop them first" in line, line
    assert "redis_url" in line, line


def names_in(server: RedisServer, protocol: int) -> list[str]:
    """Return the processes that this Redis knows, those apart that have only looked whether they may start."""
    with server.client() as client:
        known = [word.decode().split(" ", 1) for word in client.zrange("aq:processes", 0, -1)]
    return [name for theirs, name in known if theirs == str(protocol) and not name.startswith("starting-")]


@pytest.mark.parametrize("role", ["api", "worker"])
def test_another_version_is_refused_beside_this_one_which_goes_on(
    quiet: System, own_redis: RedisServer, role: str
) -> None:
    quiet.start()
    names = names_in(own_redis, PROTOCOL)
    assert len(names) == 2
    with of_other_version(quiet, *words_of(role)) as other:
        assert_refused(other, PROTOCOL, *names)
    with quiet.client() as client:
        assert client.post(CHAT, json=chat_body("demo")).status_code == 200


@pytest.mark.parametrize("role", ["api", "worker"])
def test_this_version_is_refused_beside_another_one(quiet: System, own_redis: RedisServer, role: str) -> None:
    with of_other_version(quiet, *words_of("worker" if role == "api" else "api")) as other:
        wait_until(lambda: names_in(own_redis, OTHER) or not other.running, 20, "the other version to start")
        names = names_in(own_redis, OTHER)
        assert names, other.log()
        command, *words = words_of(role)
        with quiet.command(command, *words) as refused:
            assert_refused(refused, OTHER, *names)
        assert other.running, other.log()


@pytest.mark.parametrize("role", ["api", "worker"])
@pytest.mark.parametrize("trace", ["api", "worker"])
def test_this_version_is_refused_beside_the_first_one_which_had_no_number(
    quiet: System, own_redis: RedisServer, role: str, trace: str
) -> None:
    with own_redis.client() as client:
        if trace == "api":
            client.sadd(OLD_OWNERS, "host-77-old")
            client.set(OLD_OWNER + "host-77-old", "1", px=20_000)
        else:
            client.zadd(OLD_WORKERS + "demo", {"host-77-old": time.time() * 1000})
        command, *words = words_of(role)
        with quiet.command(command, *words) as refused:
            assert_refused(refused, 1, "host-77-old")
        # What it left behind once it has ended is no living process.
        client.delete(OLD_OWNER + "host-77-old")
        client.zadd(OLD_WORKERS + "demo", {"host-77-old": (time.time() - 60) * 1000})
    quiet.start()
    with quiet.client() as http:
        assert http.post(CHAT, json=chat_body("demo")).status_code == 200
