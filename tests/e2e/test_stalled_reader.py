"""A client that stops reading costs bounded memory, is closed after a limit, and hurts nobody else."""

from __future__ import annotations

import socket

from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.raw import chat_request
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until


def test_stalled_reader_is_closed_and_its_job_cancelled(make_system: MakeSystem, demo_backend: DemoBackend) -> None:
    models = {"endless": model("tokens=90000&batch=50"), "demo": model()}
    system = make_system(models=models, settings={"api": {"stalled_reader_seconds": 2}})
    demo_backend.clear()
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(system.address)
        stalled.sendall(chat_request(system, chat_body("endless", stream=True)))
        wait_until(lambda: demo_backend.state()["total_requests"] >= 1, 10, "the backend to be called")
        with system.client() as client:
            assert client.post(CHAT, json=chat_body("demo")).status_code == 200
        assert system.api is not None
        api = system.api
        wait_until(lambda: "status=499" in api.log(), 15, "the gateway to let the reader go")
        wait_until(lambda: _is_closed(stalled), 10, "the connection to be closed")
    wait_until(lambda: demo_backend.state()["open_requests"] == 0, 20, "the backend's call to end")


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
