"""A client that stops reading costs bounded memory, is closed after a limit and hurts nobody else; a slow one stays."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.raw import chat_request
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

MODELS = {"endless": model("tokens=90000&batch=50"), "demo": model()}


@contextmanager
def endless_stream(system: System, backend: DemoBackend) -> Iterator[socket.socket]:
    """Ask for more than all buffers hold, over a connection of which nothing was read yet."""
    backend.clear()
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(system.address)
        reader.sendall(chat_request(system, chat_body("endless", stream=True)))
        wait_until(lambda: backend.state()["total_requests"] >= 1, 10, "the backend to be called")
        yield reader


def test_stalled_reader_is_closed_and_its_job_cancelled(make_system: MakeSystem, demo_backend: DemoBackend) -> None:
    system = make_system(models=MODELS, settings={"api": {"stalled_reader_seconds": 2}})
    with endless_stream(system, demo_backend) as stalled:
        with system.client() as client:
            assert client.post(CHAT, json=chat_body("demo")).status_code == 200
        assert system.api is not None
        api = system.api
        wait_until(lambda: "status=499" in api.log(), 15, "the gateway to let the reader go")
        wait_until(lambda: _is_closed(stalled), 10, "the connection to be closed")
    wait_until(lambda: demo_backend.state()["open_requests"] == 0, 20, "the backend's call to end")


def test_a_slow_reader_is_not_closed_while_it_reads(make_system: MakeSystem, demo_backend: DemoBackend) -> None:
    system = make_system(models=MODELS, settings={"api": {"stalled_reader_seconds": 1}})
    with endless_stream(system, demo_backend) as slow:
        api = system.api
        assert api is not None
        ends_at = time.monotonic() + 6
        while time.monotonic() < ends_at:
            assert slow.recv(1000), "the connection was closed"
            assert "status=499" not in api.log()
            time.sleep(0.1)  # 10 KB/s
        # What was written filled every buffer all the time: without any reading it is over in a moment.
        wait_until(lambda: "status=499" in api.log(), 3, "the gateway to let the reader go")


def _is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.5)
    try:
        while connection.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
