"""Children of `aqueduct up` write their log themselves, under their name; what they say otherwise is passed on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aqueduct.own_log import variable
from aqueduct.supervisor import USAGE_ERROR, Child
from tests.aqueduct.test_up import Up
from tests.support.asynchronous import asynchronous
from tests.support.processes import ROOT, free_port
from tests.support.waiting import wait_until

CHILD = """
import logging, os, subprocess, sys
print("before the log is set up\\x1b[2J", flush=True)
from aqueduct.own_log import take
from shared.logging import configure_logging, write_line
take(os.environ)
configure_logging("text", "info")
log = logging.getLogger("aqueduct.test")
write_line(log, logging.INFO, {"status": 200}, "GET /")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("unexpected")
os.write(2, b"from C\\n")
look = "import os; print('AQUEDUCT_UP_LOG' in os.environ, os.path.exists('/dev/fd/' + os.sys.argv[1]), flush=True)"
subprocess.run([sys.executable, "-c", look, sys.argv[1]], close_fds=False)
print("and the last words", file=sys.stderr)
sys.exit(2)
"""


@asynchronous
async def test_a_childs_log_goes_where_it_is_told_and_the_rest_through_the_supervisor(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    with (tmp_path / "log").open("wb") as log:
        fd = os.dup(log.fileno())
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variable(fd, "worker-1")}
        child = Child(
            "worker-1",
            [sys.executable, "-c", CHILD, str(fd)],
            environment,
            lambda *told: said.append(told),
            pass_fds=[fd],
        )
        status = await child.run()
        os.close(fd)
    assert status == USAGE_ERROR
    assert said == [
        ("worker-1", text)
        for text in ("before the log is set up\x1b[2J", "from C", "False False", "and the last words")
    ]
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(line.startswith("worker-1 | ") for line in lines)
    assert lines[0].endswith("Z INFO aqueduct.test GET / status=200")
    assert lines[1].endswith("Z ERROR aqueduct.test unexpected")
    assert lines[-1] == "worker-1 |   ZeroDivisionError: division by zero"


def test_a_reader_that_has_gone_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    script = "from aqueduct.own_log import say; say('up', 'ending'); say('up', 'ended'); print('went on')"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=writing, check=False)
    os.close(writing)
    assert run.stdout == b"went on\n"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    started = Up(tmp_path, "--no-flower")
    started.wait_ready()
    yield started
    started.process.signal(signal.SIGCONT)
    started.process.stop(20)


def test_requests_are_logged_without_up(up: Up) -> None:
    """It is stopped meanwhile."""
    wait_until(lambda: "GET /v1/models" in up.log, 10, "its own last request")
    up.process.signal(signal.SIGSTOP)
    ids = [httpx.get(f"http://127.0.0.1:{up.port}/v1/models", timeout=10).headers["x-request-id"] for _ in range(5)]
    wait_until(lambda: all(one in up.log for one in ids), 10, "the lines")
    lines = [line for line in up.log.splitlines() if "status=401" in line]
    assert len(lines) == 5
    assert all(
        line.startswith("api      | 20") and "INFO aqueduct.api.requests GET /v1/models" in line for line in lines
    )


def test_a_terminal_that_closes_leaves_an_answer_its_grace(tmp_path: Path) -> None:
    """Neither the processes' own lines nor those of their log can be written any more."""
    port, (ours, theirs) = free_port(), os.openpty()
    options = ("--data-dir", str(tmp_path), "--port", str(port), "--no-flower")
    process = subprocess.Popen(
        [sys.executable, "-m", "aqueduct", "up", *options], cwd=ROOT, start_new_session=True,
        preexec_fn=lambda: os.login_tty(theirs),  # noqa: PLW1509 - only system calls
    )  # fmt: skip
    try:
        os.close(theirs)
        seen = b""
        while b"Ctrl-C ends it" not in seen:
            seen += os.read(ours, 65536)
        headers = {"authorization": f"Bearer {json.loads((tmp_path / 'up.json').read_text())['token']}"}
        body = {"model": "demo-slow", "stream": True, "messages": [{"role": "user", "content": "word " * 40}]}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            os.close(ours)
            rest = b"".join(chunks)
        assert rest.endswith(b"data: [DONE]\n\n"), rest[-500:]
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
