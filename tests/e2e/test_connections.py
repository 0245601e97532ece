"""Each connection ends: what is silent, slow, endless or no HTTP; and what is merely unusual is answered."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import psutil
import pytest

from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.raw import (
    chat_request,
    chunked_request,
    connect,
    read_response,
    read_until_closed,
    send_until_refused,
)
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

HEADER_SECONDS = 1.5
IDLE_SECONDS = 3.0
BODY_SECONDS = 1.0
BODY_RATE = 20_000
STALLED_SECONDS = 2.0
MIB = 1024 * 1024
FLOOD_BYTES = 128 * MIB
TAKEN_BYTES = 48 * MIB
"""What may be gone of a flood: 4 MiB are thrown away, and the system's own buffers may hold ten times that."""
MODELS = {
    "short": model("tokens=3"),
    "slow": model("tokens=6&token_seconds=0.2"),
    "thinks": model("tokens=3&first_token_seconds=1&answer_seconds=1"),
    "ponders": model("tokens=3&answer_seconds=4"),
    "endless": model("tokens=3000&token_seconds=0.05"),
    "falls-silent": model("tokens=8&stall_after=2"),
    "huge": model("huge=30000000"),
}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, backend: DemoBackend
) -> Iterator[System]:
    limits = {
        "header_timeout_seconds": HEADER_SECONDS,
        "idle_timeout_seconds": IDLE_SECONDS,
        "body_timeout_seconds": BODY_SECONDS,
        "body_bytes_per_second": BODY_RATE,
        "stalled_reader_seconds": STALLED_SECONDS,
    }
    folder = tmp_path_factory.mktemp("system")
    with System(
        folder, redis_url=module_redis.url, backend_url=backend.url, models=MODELS,
        settings={"api": limits, "storage": {"url": (folder / "store").as_uri()}},
    ) as running:  # fmt: skip
        yield running


def api_process(system: System) -> psutil.Process:
    assert system.api is not None
    return psutil.Process(system.api.pid)


def head_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[0].lower()


def error_code(answer: bytes) -> str:
    code: str = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
    return code


# --- what never ends -------------------------------------------------------------------------------------------------

WHOLE_BODY = b"2\r\n{}\r\n0\r\n"


@pytest.mark.parametrize("place", ["target", "name", "value", "trailer name", "trailer value", "chunk extension"])
def test_what_never_ends_is_431_and_closed(served: System, place: str) -> None:
    start = {
        "target": b"GET /",
        "name": b"GET /healthz HTTP/1.1\r\nX-",
        "value": b"GET /healthz HTTP/1.1\r\nX-A: ",
        "trailer name": chunked_request(served, WHOLE_BODY + b"X-"),
        "trailer value": chunked_request(served, WHOLE_BODY + b"X-A: "),
        "chunk extension": chunked_request(served, b"2;x="),
    }[place]
    with connect(served) as connection:
        connection.sendall(start)
        took = send_until_refused(connection, b"a" * 65536, FLOOD_BYTES)
        answer = read_until_closed(connection, 3)
    assert took < TAKEN_BYTES
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in head_of(answer)
    assert error_code(answer) == "headers_too_large"


def test_endless_headers_cost_neither_time_nor_memory(served: System) -> None:
    process = api_process(served)
    before, cpu_before = process.memory_info().rss, sum(process.cpu_times()[:2])
    for _ in range(4):
        with connect(served) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX-A: ")
            send_until_refused(connection, b"a" * 65536, 64 * MIB)
    assert process.memory_info().rss - before < 20 * MIB
    assert sum(process.cpu_times()[:2]) - cpu_before < 2  # unbounded, this costs more than ten


@pytest.mark.parametrize(("count", "status"), [(1500, b"200"), (3000, b"431")])
def test_the_shortest_headers_count_as_what_they_become(served: System, count: int, status: bytes) -> None:
    with connect(served) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + b"A:b\r\n" * count + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 " + status)


def test_requests_that_are_lined_up_are_answered_in_their_order(served: System) -> None:
    with connect(served) as connection:
        connection.sendall(chat_request(served, chat_body("short")) + b"GET /healthz HTTP/1.1\r\n\r\n" * 32)
        connection.shutdown(socket.SHUT_WR)
        answer = read_until_closed(connection)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 33
    assert answer.index(b'"chat.completion"') < answer.index(b'"status"')


@pytest.mark.parametrize("stream", [True, False])
def test_past_a_line_of_requests_the_present_answer_is_whole_and_the_last(served: System, stream: bool) -> None:
    with connect(served) as connection:
        connection.sendall(chat_request(served, chat_body("slow", stream=stream)))
        if stream:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 1000)
        answer = read_until_closed(connection)
    assert b"data: [DONE]" in answer if stream else b'"chat.completion"' in answer
    assert answer.count(b"HTTP/1.1 ") == (0 if stream else 1)


def test_requests_without_end_are_not_read_faster_than_they_are_answered(served: System) -> None:
    process = api_process(served)
    piece = b"GET /healthz HTTP/1.1\r\n\r\n" * 2000
    with connect(served) as connection:
        took = send_until_refused(connection, piece, 64 * MIB)  # once, for what a process takes at the first time
    before = process.memory_info().rss
    with connect(served) as connection:
        took = max(took, send_until_refused(connection, piece, 64 * MIB))
    assert took < TAKEN_BYTES
    assert process.memory_info().rss - before < 5 * MIB  # unbounded, this comes to a gigabyte


# --- what is silent or slow ------------------------------------------------------------------------------------------


def test_a_connection_that_says_nothing_is_closed(served: System) -> None:
    with connect(served) as connection:
        assert read_until_closed(connection, HEADER_SECONDS + 2) == b""


@pytest.mark.parametrize("drop", [b"a", b"X-A: b\r\n"], ids=["bytes of a header", "headers"])
def test_a_head_that_drips_is_closed(served: System, drop: bytes) -> None:
    with connect(served) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert drips_until_closed(connection, drop, HEADER_SECONDS + 3) == b""


def drips_until_closed(connection: socket.socket, drop: bytes, within_seconds: float) -> bytes:
    """Send a drop each 0.2 s until the other side takes no more of them; return what it said until then."""
    received = b""
    connection.settimeout(0.2)
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            connection.sendall(drop)
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return received
        received += part
        if not part:  # it says nothing more, and may still listen
            time.sleep(0.2)
    raise AssertionError(f"still open after {within_seconds:g} s; received {received!r}")


def test_a_head_that_begins_behind_an_answer_has_its_time_too(served: System) -> None:
    with connect(served) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HT")
        answers = read_until_closed(connection, HEADER_SECONDS + 2)
    assert answers.count(b"HTTP/1.1 200 OK") == 1


def test_a_kept_connection_is_closed_when_idle_but_not_between_requests(served: System) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    began_at = time.monotonic()
    with connect(served) as connection:
        while time.monotonic() < began_at + HEADER_SECONDS + IDLE_SECONDS:  # past the first timer, and an idle time
            connection.sendall(request)
            assert read_response(connection).startswith(b"HTTP/1.1 200 OK")
            connection.settimeout(IDLE_SECONDS / 4)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        assert read_until_closed(connection, IDLE_SECONDS + 2) == b""


def test_an_answer_may_take_longer_than_its_request_may(served: System) -> None:
    with connect(served) as connection:
        for name in ("short", "ponders"):
            connection.sendall(chat_request(served, chat_body(name)))
            assert read_response(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_drips_is_refused_though_it_never_pauses(served: System) -> None:
    with connect(served) as connection:
        whole = chat_request(served, chat_body("short"))
        connection.sendall(whole[:-60])
        began_at = time.monotonic()
        answer = drips_until_closed(connection, b" ", 10)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert error_code(answer) == "request_timeout"
    assert time.monotonic() - began_at < BODY_SECONDS + 4


def file_head(system: System) -> bytes:
    """Return an upload's head and the beginning of its form."""
    return (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {system.token}\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    ).encode()


def test_a_file_that_drips_is_refused_and_leaves_nothing(served: System) -> None:
    with connect(served) as connection:
        connection.sendall(file_head(served))
        began_at = time.monotonic()
        answer = drips_until_closed(connection, b"y", 10)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert error_code(answer) == "request_timeout"
    assert time.monotonic() - began_at < BODY_SECONDS + 4
    assert not [path for path in (served.folder / "store").rglob("*") if path.is_file() and path.stat().st_size]


def test_a_file_that_is_slow_but_steady_is_kept(served: System) -> None:
    start = file_head(served)
    end = b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b--\r\n'
    piece = b"y" * ((100_000 - len(start.partition(b"\r\n\r\n")[2]) - len(end)) // 10)
    rest = 100_000 - len(start.partition(b"\r\n\r\n")[2]) - len(end) - 10 * len(piece)
    with connect(served) as connection:
        connection.sendall(start + b"y" * rest)
        for _ in range(10):
            time.sleep(len(piece) / BODY_RATE / 2)
            connection.sendall(piece)
        connection.sendall(end)
        assert read_response(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_is_slow_but_steady_is_served(served: System) -> None:
    content = json.dumps(chat_body("short", "x" * 100_000)).encode()
    pieces = [content[at : at + 10_000] for at in range(0, len(content), 10_000)]
    with connect(served) as connection:
        connection.sendall(chunked_request(served, b""))
        began_at = time.monotonic()
        for number, piece in enumerate(pieces):
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.settimeout(max(0.01, began_at + 0.2 * (number + 1) - time.monotonic()))  # 50 KB a second
            with pytest.raises(TimeoutError):
                connection.recv(1)
        assert time.monotonic() - began_at > 2 * BODY_SECONDS
        connection.settimeout(10)
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED = {
    "401": (b"", b"1000000000"),
    "413": (b"Authorization: Bearer @\r\nContent-Type: application/json\r\n", b"1000000000"),
    "404": (b"", b"1000000000"),
}


def refused_head(system: System, status: str) -> bytes:
    headers, length = REFUSED[status]
    path = b"/nowhere" if status == "404" else CHAT.encode()
    start = b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %b\r\n\r\n" % (path, headers, length)
    return start.replace(b"@", system.token.encode())


@pytest.mark.parametrize("status", REFUSED)
def test_the_body_of_a_refused_request_is_not_read_on(served: System, status: str) -> None:
    with connect(served) as connection:
        connection.sendall(refused_head(served, status))
        took = send_until_refused(connection, b"a" * 65536, FLOOD_BYTES)
        answer = read_until_closed(connection, 3)
    assert took < TAKEN_BYTES
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"connection: close" in head_of(answer)


@pytest.mark.parametrize("status", REFUSED)
def test_a_refused_request_that_drips_on_is_closed(served: System, status: str) -> None:
    with connect(served) as connection:
        connection.sendall(refused_head(served, status))
        began_at = time.monotonic()
        answer = drips_until_closed(connection, b"a", 5)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert time.monotonic() - began_at < 3


@pytest.mark.parametrize("status", REFUSED)
def test_a_refused_request_that_is_sent_on_steadily_may_end_before_it_reads(served: System, status: str) -> None:
    with connect(served) as connection:
        connection.sendall(refused_head(served, status))
        ends_at = time.monotonic() + 3
        while time.monotonic() < ends_at:
            connection.sendall(b"a" * 10_000)  # a reset would fail this
            time.sleep(0.1)  # a client that is slow but steady is what this test is about
        connection.shutdown(socket.SHUT_WR)
        assert read_until_closed(connection, 3).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_refused_request_that_was_whole_keeps_its_connection(served: System) -> None:
    with connect(served) as connection:
        for _ in range(2):
            connection.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" % CHAT.encode())
            answer = read_response(connection)
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"connection: close" not in head_of(answer)


# --- trailers --------------------------------------------------------------------------------------------------------


def test_a_trailer_is_no_header(served: System) -> None:
    content = json.dumps(chat_body("short")).encode()
    body = b"%x\r\n%b\r\n0\r\nAuthorization: Bearer %b\r\n\r\n" % (len(content), content, served.token.encode())
    request = chunked_request(served, body).replace(f"Authorization: Bearer {served.token}\r\n".encode(), b"", 1)
    with connect(served) as connection:
        connection.sendall(request)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_trailers_count_as_headers_do(served: System) -> None:
    with connect(served) as connection:
        connection.sendall(chunked_request(served, WHOLE_BODY))
        send_until_refused(connection, b"X-A: " + b"b" * 100 + b"\r\n", MIB)
        assert read_until_closed(connection, 3).startswith(b"HTTP/1.1 431 ")


# --- what is no HTTP -------------------------------------------------------------------------------------------------


def test_garbage_behind_a_stream_that_has_begun_only_ends_it(served: System, backend: DemoBackend) -> None:
    with connect(served) as connection:
        connection.sendall(chat_request(served, chat_body("endless", "garbage behind", stream=True)))
        received = b""
        while b"data: " not in received:
            received += connection.recv(65536)
        connection.sendall(b"\x00\x01 no HTTP\r\n\r\n")
        received += read_until_closed(connection, 3)
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"invalid_http" not in received
    wait_until(lambda: all(one["closed_at"] for one in backend.seen("garbage behind")), 5, "the job to be cancelled")


def test_garbage_behind_a_request_leaves_it_its_answer_which_is_the_last(served: System) -> None:
    with connect(served) as connection:
        connection.sendall(chat_request(served, chat_body("thinks")) + b"\x00\x01 no HTTP\r\n\r\n")
        answer = read_until_closed(connection, 10)
    assert answer.startswith(b"HTTP/1.1 200 OK"), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in head_of(answer)


# --- clients that shut their sending side ----------------------------------------------------------------------------


def without_probes(answer: bytes) -> bytes:
    return answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("model_name", ["thinks", "slow"])
def test_a_client_that_shuts_its_sending_side_gets_its_answer(served: System, model_name: str, stream: bool) -> None:
    with connect(served) as connection:
        connection.sendall(chat_request(served, chat_body(model_name, stream=stream)))
        connection.shutdown(socket.SHUT_WR)
        answer = without_probes(read_until_closed(connection, 10))
    assert answer.startswith(b"HTTP/1.1 200 OK"), answer
    assert stream or b"connection: close" in head_of(answer)  # a stream's head may have left before the end came
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") if stream else b'"finish_reason":"stop"' in answer


def test_a_client_that_shuts_its_sending_side_gets_each_of_its_answers(served: System) -> None:
    requests = [chat_request(served, chat_body(name)) for name in ("thinks", "short", "thinks")]
    with connect(served) as connection:
        connection.sendall(b"".join(requests) + b"GET /unfinished HT")
        connection.shutdown(socket.SHUT_WR)
        answers = without_probes(read_until_closed(connection, 10))
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 ") == 3


def test_a_client_that_shuts_its_sending_side_and_then_leaves_is_noticed(served: System, backend: DemoBackend) -> None:
    with connect(served) as connection:
        connection.sendall(chat_request(served, chat_body("endless", "half and gone", stream=False)))
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: backend.seen("half and gone"), 5, "the backend to be called")
        assert connection.recv(65536)  # what is unread at the end would be told at once
    wait_until(lambda: backend.seen("half and gone")[0]["closed_by_client"], 12, "the call to be given up")


def http_1_0(request: bytes) -> bytes:
    return request.replace(b"HTTP/1.1", b"HTTP/1.0", 1)


@pytest.mark.parametrize(("model_name", "stream"), [("short", False), ("short", True), ("slow", True)])
def test_an_http_1_0_client_that_shuts_its_sending_side_gets_an_answer_that_begins_soon(
    served: System, model_name: str, stream: bool
) -> None:
    with connect(served) as connection:
        connection.sendall(http_1_0(chat_request(served, chat_body(model_name, stream=stream))))
        connection.shutdown(socket.SHUT_WR)
        answer = read_until_closed(connection, 10)
    assert answer.split(b"\r\n")[0].endswith(b" 200 OK"), answer
    assert answer.endswith(b"data: [DONE]\n\n") if stream else b'"finish_reason":"stop"' in answer
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("model_name", ["endless", "falls-silent"])
def test_an_http_1_0_client_that_leaves_is_noticed(
    served: System, backend: DemoBackend, model_name: str, stream: bool
) -> None:
    prompt = f"left {model_name} {stream}"
    with connect(served) as connection:
        connection.sendall(http_1_0(chat_request(served, chat_body(model_name, prompt, stream=stream))))
        wait_until(lambda: backend.seen(prompt), 5, "the backend to be called")
        received = b""
        while stream and b"data: " not in received:
            received += connection.recv(65536)
    wait_until(lambda: backend.seen(prompt)[0]["closed_by_client"], 10, "the call to be given up")


# --- readers that do not read ----------------------------------------------------------------------------------------


def reader_of(system: System, request: bytes) -> socket.socket:
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(system.address)
    reader.sendall(request)
    return reader


def connections_of(system: System) -> int:
    return sum(one.status == "ESTABLISHED" for one in api_process(system).net_connections("tcp"))


@pytest.mark.parametrize("kind", ["an answer", "answers in a row"])
def test_a_plain_answer_that_nobody_takes_is_cut(served: System, kind: str) -> None:
    request = chat_request(served, chat_body("huge")) if kind == "an answer" else (
        b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400
    )  # fmt: skip
    with reader_of(served, request) as reader:
        port = reader.getsockname()[1]

        def is_held() -> bool:
            return any(one.raddr[1:2] == (port,) for one in api_process(served).net_connections("tcp"))

        wait_until(is_held, 5, "the connection to be taken")
        wait_until(lambda: not is_held(), STALLED_SECONDS * 3 + 5, "the reader to be cut")


def test_a_plain_answer_that_is_taken_slowly_is_given_whole(served: System) -> None:
    with reader_of(served, chat_request(served, chat_body("huge"))) as reader:
        received = len(reader.recv(1000))
        ends_at = time.monotonic() + STALLED_SECONDS * 2 + 1
        while time.monotonic() < ends_at:
            received += len(reader.recv(20_000))
            time.sleep(0.05)  # a slow reader is what this test is about
        reader.settimeout(10)
        while received < 30_000_000:
            part = reader.recv(1 << 20)
            assert part, f"cut after {received} bytes"
            received += len(part)


# --- many of them ----------------------------------------------------------------------------------------------------


def test_past_the_limit_of_connections_is_503_and_room_comes_back(make_system: MakeSystem) -> None:
    system = make_system(models={"short": model()}, settings={"api": {"max_connections": 20}})
    with ExitStack() as held:
        for _ in range(20):
            held.enter_context(connect(system))

        def refused() -> bytes:
            with connect(system) as further:
                return read_until_closed(further, 5)

        answer = wait_until(refused, 5, "a refusal")
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n"), answer
        assert error_code(answer) == "too_many_connections"
        assert {b"connection: close", b"retry-after: 1"} <= set(head_of(answer).split(b"\r\n"))
    wait_until(lambda: answers(system), 5, "room for a connection")


def answers(system: System) -> bool:
    with httpx.Client(base_url=system.base_url) as client:
        return client.get("/healthz").status_code == 200


def test_five_hundred_idle_and_half_sent_connections_disturb_nobody(served: System) -> None:
    with ExitStack() as held, served.client(timeout=10) as client:
        for number in range(500):
            connection = held.enter_context(connect(served))
            if number % 2:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nX-A: b")
        began_at = time.monotonic()
        for _ in range(30):
            assert client.post(CHAT, json=chat_body("short")).status_code == 200
        assert time.monotonic() - began_at < 10
    wait_until(lambda: connections_of(served) < 100, HEADER_SECONDS + 10, "all of them to be gone")


# --- what has always worked ------------------------------------------------------------------------------------------


def test_http_1_0_is_answered_and_closed(served: System) -> None:
    request = chat_request(served, chat_body("short")).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    with connect(served) as connection:
        connection.sendall(request)
        answer = read_until_closed(connection, 5)
    assert b" 200 OK" in answer.split(b"\r\n")[0]
    assert b"connection: close" in head_of(answer)


def test_requests_in_a_row_are_answered_in_order_on_one_connection(served: System) -> None:
    requests = [chat_request(served, chat_body("thinks", stream=True)), b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n"]
    requests.append(b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    with connect(served) as connection:
        connection.sendall(b"".join(requests))
        answers = read_until_closed(connection, 10)
    statuses = [line.split()[1] for line in answers.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert statuses == [b"200", b"200", b"404"]
    assert answers.index(b"[DONE]") < answers.rindex(b" 200 OK")


def test_a_client_that_asks_before_it_sends_its_body_is_told_to(served: System) -> None:
    head, _, content = chat_request(served, chat_body("short")).partition(b"\r\n\r\n")
    with connect(served) as connection:
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(content)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_request_that_offers_an_upgrade_is_answered_as_any_other(served: System) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with connect(served) as connection:
        for _ in range(2):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
            assert read_response(connection).startswith(b"HTTP/1.1 200 OK")
