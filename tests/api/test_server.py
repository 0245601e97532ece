"""The process around the API: its limit of open files, and a drain that nothing outlives."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

from api.connection import MAX_REFUSED
from api.server import RESERVED_FILES, with_fitting_connections
from shared.settings import ApiSettings
from tests.conftest import MakeSystem
from tests.support.chat import chat_body
from tests.support.models import model
from tests.support.raw import chat_request, connect, read_until_closed
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until


def test_the_limit_of_open_files_is_raised_to_what_the_system_allows() -> None:
    code = (
        "import resource\nfrom api.server import raise_file_limit\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "files = raise_file_limit()\n"
        "print(files > 64, resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))"
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard == resource.RLIM_INFINITY or hard > 64
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_connections_never_take_the_files_that_the_process_itself_needs() -> None:
    settings = ApiSettings(max_connections=1000)
    assert with_fitting_connections(settings, 100_000) is settings
    fitting = with_fitting_connections(settings, 256).max_connections
    assert fitting == 256 - RESERVED_FILES - MAX_REFUSED


def test_a_body_that_is_whole_only_after_the_grace_is_refused_too(
    make_system: MakeSystem, demo_backend: DemoBackend
) -> None:
    system = make_system(
        models={"thinks": model("answer_seconds=20", timeout_seconds=60)}, settings={"api": {"drain_seconds": 1}}
    )
    assert system.api is not None
    api = system.api
    request = chat_request(system, chat_body("thinks", "early"))
    with connect(system) as early, connect(system) as late:
        early.sendall(request)
        late.sendall(request[:-5])
        wait_until(lambda: demo_backend.seen("early"), 10, "the first to run")
        api.signal(signal.SIGTERM)
        refused = read_until_closed(early, 5)  # the grace is over
        late.sendall(request[-5:])
        refused_late = read_until_closed(late, 5)
    for answer in (refused, refused_late):
        assert answer.startswith(b"HTTP/1.1 503 "), answer
        assert b'"code":"draining"' in answer
    assert api.wait(10) == 0
