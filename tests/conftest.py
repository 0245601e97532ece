"""Fixtures of all tests: a Redis, a demo backend and a running system; and what a run may not do (leave keys, skip)."""

from __future__ import annotations

import importlib.util
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.keys import keys_without_lifetime
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System

MakeSystem = Callable[..., System]
PACKAGES = {"helm": "helm_python"}
"""What `full` may name that is no program: which package of the developers' tools it is."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the `full` tests too; then a skipped test fails the run")


def pytest_configure() -> None:
    """A run in the background of a script ignores Ctrl-C, and so would every program that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs more than Python, by its name and with what it needs."""
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason="takes long: `make test-full` runs it"))
        mark = item.get_closest_marker("full")
        if mark is None:
            continue
        if not mark.args:
            raise pytest.UsageError(f'{item.nodeid}: the mark names the programs it needs: full("nginx")')
        if not config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason=f"needs {' and '.join(mark.args)}: `make test-full` runs it"))
        elif missing := [name for name in mark.args if not _is_there(name)]:
            item.add_marker(pytest.mark.skip(reason=f"not on the PATH: {' and '.join(missing)}"))


def _is_there(name: str) -> bool:
    if name in PACKAGES:
        return importlib.util.find_spec(PACKAGES[name]) is not None
    return shutil.which(name) is not None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--full") and reporter is not None and reporter.stats.get("skipped") and not exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the run: for tests that harm none. Tests that kill it use `own_redis`."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for one module, whose tests may empty it, or look for what their own requests left there."""
    with RedisServer(tmp_path_factory.mktemp("module-redis")) as server:
        yield server


@pytest.fixture
def rooms(module_redis: RedisServer) -> Iterator[redis.Redis]:
    """A client of `module_redis`, to see what waits and runs in the rooms there."""
    with module_redis.client() as client:
        yield client


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, to kill, freeze and empty."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def demo_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBackend]:
    """One demo backend for the run. Its record is shared: look for your own prompts in it."""
    with DemoBackend(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBackend]:
    """A demo backend for one module: its record and its counters hold nothing of other modules' tests."""
    with DemoBackend(tmp_path_factory.mktemp("backend")) as running:
        yield running


@pytest.fixture(scope="session")
def system(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    """The gateway with the models of `tests/support/models.py`: for tests that harm no process."""
    folder = tmp_path_factory.mktemp("system")
    with System(folder, redis_url=redis_server.url, backend_url=demo_backend.url) as running:
        yield running


@pytest.fixture
def make_system(tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend) -> Iterator[MakeSystem]:
    """Make systems of the test's own (`System`'s arguments), over `own_redis`; they are stopped after the test."""
    made: list[System] = []

    def make(*, start: bool = True, **arguments: Any) -> System:
        given = {"redis_url": own_redis.url, "backend_url": demo_backend.url, **arguments}
        made.append(System(tmp_path / f"system-{len(made)}", **given))
        return made[-1].start() if start else made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def no_keys_left(redis_server: RedisServer) -> Iterator[None]:
    """Fail the test when it leaves keys without a lifetime in the shared Redis that were not there before."""
    with redis_server.client() as client:
        before = set(keys_without_lifetime(client))
        yield
        left = set(keys_without_lifetime(client)) - before
    assert not left, f"keys without a lifetime were left: {sorted(left)}"
