"""The HTTP edge as clients in use meet it: what they send beside plain HTTP/1.1 is understood, or harmless."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence

import httpx
import pytest

from tests.support.chat import CHAT, chat_body
from tests.support.raw import connect, read_response, read_until_closed
from tests.support.system import DemoBackend, System


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[httpx.Client]:
    with system.client() as opened:
        yield opened


# --- offers to upgrade -----------------------------------------------------------------------------------------------

H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
)
"""What the JDK's HttpClient sends with each first request on a cleartext connection."""
OFFERS = {
    "h2c": H2C,
    "websocket": b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "several": b"UPGRADE: h2c\r\nconnection: UPGRADE\r\nUpgrade: h2c, websocket\r\n",
    "none": b"",
}
HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
"""A request where a body is expected: it must never be answered."""


def post(system: System, body: bytes, extra: bytes = b"", *, version: bytes = b"1.1", chunked: bool = False) -> bytes:
    """Return a completion request with these headers in front of the usual ones."""
    if chunked:
        half = len(body) // 2
        framing = b"Transfer-Encoding: chunked\r\n"
        sent = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:])) + b"0\r\n\r\n"
    else:
        framing, sent = b"Content-Length: %d\r\n" % len(body), body
    head = b"POST %b HTTP/%b\r\n%bHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n%b\r\n"
    return head % (CHAT.encode(), version, extra, system.token.encode(), framing) + sent


def chat(model: str, prompt: str, *, stream: bool = False) -> bytes:
    return json.dumps(chat_body(model, prompt, stream=stream)).encode()


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def send_in_parts(connection: socket.socket, parts: Sequence[bytes]) -> None:
    """Send each part as a segment of its own; nothing may be said before the last."""
    for part in parts[:-1]:
        connection.sendall(part)
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    connection.settimeout(10)
    connection.sendall(parts[-1])


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_to_upgrade_is_ignored_and_the_body_read(
    system: System, demo_backend: DemoBackend, offer: str, chunked: bool
) -> None:
    prompt = f"offer {offer} {chunked}"
    with connect(system) as connection:
        for _ in range(2):  # the connection goes on as any other
            connection.sendall(post(system, chat("short", prompt), OFFERS[offer], chunked=chunked))
            assert read_response(connection).startswith(b"HTTP/1.1 200 OK")
    assert len(demo_backend.seen(prompt)) == 2


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
@pytest.mark.parametrize(
    "cut",
    [b"pgrade: h2c", b"2c\r\n", b"\r\n\r\n", b"\n\r\n", b"hort", b"}"],
    ids=["in the name", "in the value", "before the last lines", "between the last lines", "in the body", "at the end"],
)
def test_an_offer_to_upgrade_may_come_in_any_segments(system: System, cut: bytes, chunked: bool) -> None:
    request = post(system, chat("short", "in segments"), H2C, chunked=chunked)
    at = request.index(cut)
    behind_head = request.index(b"\r\n\r\n") + 4
    with connect(system) as connection:
        send_in_parts(connection, [request[:at], *([request[at:behind_head]] if at < behind_head else []),
                                   request[max(at, behind_head) :]])  # fmt: skip
        assert read_response(connection).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
@pytest.mark.parametrize("offer", OFFERS)
def test_the_body_behind_an_offer_is_never_a_request(system: System, offer: str, chunked: bool) -> None:
    request = post(system, HIDDEN, OFFERS[offer], chunked=False)
    if chunked:
        request = request.replace(b"Content-Length: %d" % len(HIDDEN), b"Transfer-Encoding: chunked")
        request = request[: -len(HIDDEN)] + b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    with connect(system) as connection:
        at = request.index(HIDDEN)
        send_in_parts(connection, [request[:at], request[at:] + b"GET /end HTTP/1.1\r\nConnection: close\r\n\r\n"])
        answers = read_until_closed(connection, 5)
    assert statuses(answers) == [400, 404], answers
    assert b"alive" not in answers


def test_requests_in_a_row_behind_an_offer_are_each_answered(system: System) -> None:
    offers = [post(system, chat("short", "in a row"), offer) for offer in OFFERS.values()]
    with connect(system) as connection:
        connection.sendall(b"".join(offers) + HIDDEN.replace(b"Host", H2C + b"Connection: close\r\nHost"))
        answers = read_until_closed(connection, 10)
    assert statuses(answers) == [200] * (len(offers) + 1)


def test_an_offer_beside_close_or_from_http_1_0_has_its_body_read(system: System) -> None:
    for extra, version in ((H2C.replace(b"Upgrade,", b"close, Upgrade,"), b"1.1"), (H2C, b"1.0")):
        with connect(system) as connection:
            connection.sendall(post(system, chat("short", "offer and close"), extra, version=version))
            answer = read_until_closed(connection, 5)
        assert statuses(answer) == [200], answer


def test_connect_is_405_and_nothing_behind_it_is_read(system: System) -> None:
    with connect(system) as connection:
        connection.sendall(b"CONNECT backend:443 HTTP/1.1\r\nHost: backend:443\r\n\r\n" + HIDDEN)
        answer = read_until_closed(connection, 5)
    assert statuses(answer) == [405]
    assert b"no proxy" in answer


JDK_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\n%b"
    b"Host: 127.0.0.1:8000\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n%b"
    b"Upgrade: h2c\r\nUser-Agent: Java-http-client/17.0.15\r\nAuthorization: Bearer %b\r\n"
    b"Content-Type: application/json\r\n\r\n"
)
"""The bytes of the JDK 17 client's first request as they were recorded; its body comes in a segment of its own."""


@pytest.mark.parametrize("publisher", ["ofString", "ofInputStream"])
def test_the_jdk_client_replayed(system: System, publisher: str) -> None:
    body = chat("short", "replayed")
    length, chunked = b"Content-Length: %d\r\n" % len(body), b"Transfer-encoding: chunked\r\n"
    framing = (length, b"") if publisher == "ofString" else (b"", chunked)
    sent = body if publisher == "ofString" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with connect(system) as connection:
        send_in_parts(connection, [JDK_HEAD % (*framing, system.token.encode()), sent])
        assert read_response(connection).startswith(b"HTTP/1.1 200 OK")


# --- HTTP/1.0 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["short", "slow-start", "huge", "errors-mid-stream"])
def test_a_stream_to_http_1_0_has_no_chunk_sizes_and_ends_with_the_connection(system: System, model: str) -> None:
    with connect(system) as connection:
        connection.sendall(post(system, chat(model, "in 1.0", stream=True), version=b"1.0"))
        head, _, body = read_until_closed(connection, 15).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    *events, last, rest = body.split(b"\n\n")
    assert rest == b""
    assert all(event.startswith((b"data: ", b": ", b"event: ")) for event in [*events, last]), body[:500]
    assert b"\r" not in body
    assert last == b"data: [DONE]" or model == "errors-mid-stream"


@pytest.mark.parametrize("keep", [b"", b"Connection: keep-alive\r\n"], ids=["", "keep-alive"])
def test_a_plain_answer_to_http_1_0_is_counted_and_the_last(system: System, keep: bytes) -> None:
    with connect(system) as connection:
        connection.sendall(post(system, chat("short", "in 1.0"), keep, version=b"1.0"))
        head, _, body = read_until_closed(connection, 5).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head.lower()
    assert b"transfer-encoding" not in head.lower()
    assert json.loads(body)["choices"][0]["message"]["content"] == "0 1 2 "


def test_http_1_0_is_never_told_to_continue(system: System) -> None:
    with connect(system) as connection:
        connection.sendall(post(system, chat("short", "in 1.0"), b"Expect: 100-continue\r\n", version=b"1.0"))
        assert statuses(read_until_closed(connection, 5)) == [200]


# --- Expect ----------------------------------------------------------------------------------------------------------


def test_a_client_that_asks_first_hears_a_refusal_without_sending_its_body(system: System) -> None:
    request = post(system, chat("short", "never sent"), b"Expect: 100-continue\r\n")
    head = request[: request.index(b"\r\n\r\n") + 4].replace(system.token.encode(), b"sk-wrong")
    with connect(system) as connection:
        connection.sendall(head)
        assert statuses(read_until_closed(connection, 5)) == [401]


@pytest.mark.parametrize("word", [b"100-continue", b"100-Continue"])
def test_a_client_that_asks_first_is_told_to_go_on(system: System, word: bytes) -> None:
    request = post(system, chat("short", "sent late"), H2C + b"Expect: %b\r\n" % word)
    behind_head = request.index(b"\r\n\r\n") + 4
    with connect(system) as connection:
        connection.sendall(request[:behind_head])
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(request[behind_head:])
        assert read_response(connection).startswith(b"HTTP/1.1 200 OK")


# --- methods ---------------------------------------------------------------------------------------------------------

READ = ["/", "/v1", "/healthz", "/readyz", "/models", "/v1/models", "/v1/models/short", "/openapi.json", "/docs"]


@pytest.mark.parametrize("path", READ)
def test_head_is_answered_as_get_without_its_body(client: httpx.Client, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert (whole.status_code, head.status_code) == (200, 200)
    assert head.content == b""
    for name in ("content-length", "content-type"):
        assert head.headers[name] == whole.headers[name]


def test_head_leaves_its_connection_usable(system: System) -> None:
    with connect(system) as connection:
        connection.sendall(HIDDEN.replace(b"GET", b"HEAD") + HIDDEN.replace(b"Host", b"Connection: close\r\nHost"))
        answers = read_until_closed(connection, 5)
    assert statuses(answers) == [200, 200]
    assert answers.count(b"alive") == 1


def test_head_asks_for_a_token_where_get_does(system: System) -> None:
    assert httpx.head(f"{system.base_url}/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/embeddings", {"POST", "OPTIONS"}),
        (CHAT, {"GET", "HEAD", "POST", "OPTIONS"}),
        *[(path, {"GET", "HEAD", "OPTIONS"}) for path in ("/v1/models", "/", "/healthz")],
    ],
)
def test_options_tells_the_methods_without_a_token(system: System, path: str, methods: set[str]) -> None:
    answer = httpx.options(system.base_url + path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert set(answer.headers["allow"].split(", ")) == methods
    wrong = httpx.delete(system.base_url + path)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, answer.headers["allow"])


def test_options_of_the_whole_server_and_of_nothing(system: System) -> None:
    assert httpx.options(f"{system.base_url}/nowhere").status_code == 404
    with connect(system) as connection:
        connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert statuses(read_until_closed(connection, 5)) == [204]


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["//v1/chat/completions", "/v1//chat/completions/", "//chat//completions//", CHAT + "/"]
)
def test_slashes_too_many_do_not_matter(client: httpx.Client, path: str) -> None:
    url = str(client.base_url).rstrip("/") + path
    answer = client.post(url, json=chat_body("short", "slashes"))
    assert answer.json()["choices"][0]["message"]["content"] == "0 1 2 "


@pytest.mark.parametrize("path", ["//v1/models", "/v1/models/", "/models//", "/v1//models/short/", "//healthz", "//"])
def test_slashes_too_many_do_not_matter_to_get(client: httpx.Client, path: str) -> None:
    assert client.get(str(client.base_url).rstrip("/") + path).status_code == 200


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v1/v1/chat/completions", CHAT),
        ("/v1/v1/models/short", "/v1/models/short"),
        ("/v1/v1", "/v1"),
        (f"{CHAT}/chat/completions", CHAT),
        ("/api/v1/embeddings", "/v1/embeddings"),
        ("/v1/healthz", "/healthz"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_wrong_base_url_is_told_the_right_path(client: httpx.Client, method: str, path: str, right: str) -> None:
    answer = client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "unknown_url")
    assert f"Did you mean {right}?" in error["message"]


def test_a_path_like_no_other_gets_no_suggestion(client: httpx.Client) -> None:
    assert "Did you mean" not in client.post("/v1/responses").json()["error"]["message"]


# --- the first page --------------------------------------------------------------------------------------------------

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/"])
def test_a_browser_is_led_on_and_asks_nobody_else(system: System, path: str) -> None:
    answer = httpx.get(system.base_url + path, headers=BROWSER)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for word in ("/docs", "/v1/models", "Authorization: Bearer"):
        assert word in answer.text
    assert "//" not in answer.text  # no address of anybody else
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    links = re.findall(r'href="(/[^"]*)"', answer.text)
    with httpx.Client(base_url=system.base_url, headers=BROWSER, follow_redirects=True) as browser:
        led_to = [browser.get(link) for link in links]  # the status page leads to its login
    assert [page.status_code for page in led_to] == [200] * len(links)
    assert all(str(page.url).startswith(system.base_url) for page in led_to)


def test_a_program_is_led_on_in_json(system: System) -> None:
    answer = httpx.get(system.base_url + "/").json()
    assert (answer["base_url"], answer["models"], answer["docs"]) == ("/v1", "/v1/models", "/docs")
    assert "Authorization: Bearer" in answer["authentication"]


# --- programs --------------------------------------------------------------------------------------------------------


def curl(system: System, *arguments: str, content: bytes = b"") -> str:
    """Run curl with a token against a path of the gateway; returns what it printed."""
    headers = ("-H", f"Authorization: Bearer {system.token}", "-H", "Content-Type: application/json")
    command = ["curl", "-sS", "--noproxy", "*", "--max-time", "20", *headers, *arguments]
    done = subprocess.run(command, input=content, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.full("curl")
@pytest.mark.parametrize("option", ["--http1.0", "--http1.1", "--http2"])
def test_curl_is_answered_whatever_version_it_asks_for(system: System, option: str) -> None:
    url = system.base_url + CHAT
    plain = curl(system, option, "--data-binary", "@-", url, content=chat("short", "curl"))
    assert json.loads(plain)["choices"][0]["message"]["content"] == "0 1 2 "
    stream = curl(system, option, "-N", "--data-binary", "@-", url, content=chat("short", "curl", stream=True))
    assert stream.startswith("data: {")
    assert stream.endswith("}\n\ndata: [DONE]\n\n")
    large = curl(system, option, "--data-binary", "@-", url, content=chat("echo", "x" * 2_000_000))  # it asks first
    assert json.loads(large)["choices"][0]["message"]["content"].startswith("x" * 2_000_000)


@pytest.mark.full("curl")
def test_curl_is_told_the_head_alone(system: System) -> None:
    assert curl(system, "-I", f"{system.base_url}/healthz").startswith("HTTP/1.1 200 OK")
