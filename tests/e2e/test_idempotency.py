"""A retried request joins the job it repeats: by its Idempotency-Key, or while its older connection is still open."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from api.retries import LINGER_SECONDS
from tests.support.calls import DONE, Call, wait_for_content
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

TOKENS = 20
PACED_TOKENS, PACE_SECONDS = 16, 0.3
MODELS = {
    "steady": model(f"tokens={TOKENS}&token_seconds=0.05&answer_seconds=1"),
    "long": model("tokens=2000&token_seconds=0.05&answer_seconds=100", timeout_seconds=120),
    "slow": model("tokens=4&first_token_seconds=3&answer_seconds=3"),
    "late": model("tokens=4&first_token_seconds=4&answer_seconds=4", timeout_seconds=60),
    "paced": model(f"tokens={PACED_TOKENS}&token_seconds={PACE_SECONDS}", timeout_seconds=60),
    "fails": model("status=500", max_attempts=1),
}


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, backend: DemoBackend
) -> Iterator[tuple[System, System]]:
    """Two API processes over one Redis; the second has no worker of its own."""
    given: dict[str, Any] = {"redis_url": module_redis.url, "backend_url": backend.url, "models": MODELS}
    first = System(tmp_path_factory.mktemp("system"), tokens={"other": {}}, **given)
    second = System(tmp_path_factory.mktemp("second"), tokens={"other": {}}, workers=(), **given)
    second.tokens = first.tokens
    with first, second:
        yield first, second


class Post(Call):
    """A call by a token's name, whose further keyword arguments are headers."""

    def __init__(
        self, system: System, model_name: str, prompt: str, *, stream: bool, tenant: str = "test", **headers: str
    ) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(system, model_name, prompt, stream=stream, token=system.tokens[tenant], headers=named)

    def content(self) -> str:
        """Return the answer's text, which must be whole."""
        assert self.status == 200, self.text
        assert not self.stream or self.text.endswith(DONE), self.text[-200:]
        assert not self.errors()
        return super().content()


def numbers(count: int) -> str:
    return " ".join(map(str, range(count)))


# --- Idempotency-Key -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("across", [False, True], ids=["one-process", "two-processes"])
def test_requests_with_one_key_are_one_call(
    pair: tuple[System, System], backend: DemoBackend, stream: bool, across: bool
) -> None:
    first, second = pair[0], pair[1] if across else pair[0]
    prompt = f"together-{stream}-{across}"
    posts = [Post(first, "steady", prompt, stream=stream, idempotency_key=prompt)]
    wait_until(lambda: backend.seen(prompt), 10, "the backend to be called")
    posts.append(Post(second, "steady", prompt, stream=stream, idempotency_key=prompt))
    texts = [post.wait().content().strip() for post in posts]
    assert texts == [numbers(TOKENS)] * 2
    assert len(backend.seen(prompt)) == 1
    ids = {json.loads(post.text.removeprefix("data: ").partition("\n\n")[0])["id"] for post in posts}
    assert len(ids) == 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_finished_answer_is_told_again(pair: tuple[System, System], backend: DemoBackend, stream: bool) -> None:
    prompt = f"again-{stream}"
    first = Post(pair[0], "steady", prompt, stream=stream, idempotency_key=prompt).wait()
    again = Post(pair[1], "steady", prompt, stream=stream, idempotency_key=prompt).wait()
    assert again.content() == first.content()
    assert len(backend.seen(prompt)) == 1


def test_a_failure_is_not_told_again_but_tried_again(pair: tuple[System, System], backend: DemoBackend) -> None:
    posts = [Post(pair[0], "fails", "failed", stream=False, idempotency_key="failed").wait() for _ in range(2)]
    assert [post.status for post in posts] == [500, 500]
    assert len(backend.seen("failed")) == 2


def test_a_key_with_another_body_is_refused(pair: tuple[System, System], backend: DemoBackend) -> None:
    Post(pair[0], "steady", "one-body", stream=False, idempotency_key="two-bodies").wait()
    other = Post(pair[0], "steady", "other-body", stream=False, idempotency_key="two-bodies").wait()
    assert other.status == 422
    assert json.loads(other.text)["error"]["code"] == "idempotency_key_reused"
    assert not backend.seen("other-body")


def test_a_key_is_each_tokens_own(pair: tuple[System, System], backend: DemoBackend) -> None:
    posts = [
        Post(pair[0], "steady", "shared-key", stream=False, tenant=token, idempotency_key="shared-key").wait()
        for token in ("test", "other")
    ]
    assert [post.status for post in posts] == [200, 200]
    assert len(backend.seen("shared-key")) == 2


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_unusable_key_is_refused(pair: tuple[System, System], key: str) -> None:
    assert Post(pair[0], "steady", "unusable", stream=False, idempotency_key=key).wait().status == 400


def test_a_job_with_a_key_outlives_its_client_for_a_while(pair: tuple[System, System], backend: DemoBackend) -> None:
    kept = Post(pair[0], "steady", "kept", stream=True, idempotency_key="kept")
    wait_for_content(kept)
    dropped = Post(pair[0], "long", "dropped", stream=True, idempotency_key="dropped")
    moved = Post(pair[0], "long", "moved", stream=True, idempotency_key="moved")
    wait_for_content(dropped, moved)
    for post in (kept, dropped, moved):
        post.leave()
    left_at = time.monotonic()
    follower = Post(pair[1], "long", "moved", stream=True, idempotency_key="moved")
    again = Post(pair[0], "steady", "kept", stream=True, idempotency_key="kept").wait()
    assert again.content().strip() == numbers(TOKENS)
    assert len(backend.seen("kept")) == 1
    wait_until(lambda: backend.seen("dropped")[0]["closed_by_client"], LINGER_SECONDS + 5, "the job to be cancelled")
    assert time.monotonic() - left_at > LINGER_SECONDS - 1
    assert not backend.seen("moved")[0]["closed_by_client"]  # whoever joined it is heard
    length = len(follower.text)
    wait_until(lambda: len(follower.text) > length, 5, "the joined stream to go on")
    follower.leave()


# --- one key, two processes ----------------------------------------------------------------------------------------


class Ticking(Post):
    """A stream that notes when its text grew."""

    def longest_pause(self) -> float:
        """Return the longest that it brought nothing, from its first word until it ended or was left."""
        return max((after - before for before, after in itertools.pairwise(self.heard_at)), default=0.0)


@pytest.mark.parametrize("leaver", [0, 1], ids=["the-first-leaves", "the-second-leaves"])
def test_one_of_two_processes_clients_leaves_and_the_other_hears_all_of_it_live(
    pair: tuple[System, System], backend: DemoBackend, leaver: int
) -> None:
    prompt = f"leaves-{leaver}"
    posts = [Ticking(pair[0], "paced", prompt, stream=True, idempotency_key=prompt)]
    wait_for_content(*posts)
    posts.append(Ticking(pair[1], "paced", prompt, stream=True, idempotency_key=prompt))
    wait_for_content(*posts)
    posts[leaver].leave()
    stays = posts[1 - leaver].wait(30)
    assert stays.content().strip() == numbers(PACED_TOKENS)
    assert stays.longest_pause() < PACE_SECONDS + 0.7
    (seen,) = backend.seen(prompt)
    assert not seen["closed_by_client"]


def test_a_job_that_clients_of_two_processes_have_left_is_cancelled_after_the_linger(
    pair: tuple[System, System], backend: DemoBackend
) -> None:
    posts = [Post(one, "long", "both-leave", stream=True, idempotency_key="both-leave") for one in pair]
    wait_for_content(*posts)
    for post in posts:
        post.leave()
    left_at = time.monotonic()
    wait_until(lambda: backend.seen("both-leave")[0]["closed_by_client"], LINGER_SECONDS + 5, "the job to be cancelled")
    assert time.monotonic() - left_at > LINGER_SECONDS - 1
    assert len(backend.seen("both-leave")) == 1


# --- retries without a key -----------------------------------------------------------------------------------------


READ_TIMEOUT_SECONDS = 2


def older_and_newer(
    system: System,
    backend: DemoBackend,
    prompt: str,
    *,
    stream: bool,
    count: str = "1",
    tenant: str = "test",
    older_timeout: float = READ_TIMEOUT_SECONDS,
) -> list[Post]:
    """Send a request, and the same again once a client that reads for two seconds must have given it up."""
    older = Post(
        system, "late", prompt, stream=stream, x_stainless_retry_count="0", x_stainless_read_timeout=str(older_timeout)
    )
    wait_until(lambda: backend.seen(prompt), 10, "the backend to be called")
    wait_past_the_read_timeout(older)
    newer = Post(
        system, "late", prompt, stream=stream, tenant=tenant, x_stainless_retry_count=count,
        x_stainless_read_timeout=str(READ_TIMEOUT_SECONDS),
    )  # fmt: skip
    return [older, newer]


def wait_past_the_read_timeout(older: Post) -> None:
    wait_until(lambda: time.monotonic() - older.began_at > READ_TIMEOUT_SECONDS, 10, "the read timeout to pass")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_retry_joins_what_was_sent_nothing_and_does_not_cut_it(
    pair: tuple[System, System], backend: DemoBackend, stream: bool
) -> None:
    prompt = f"joined-{stream}"
    posts = older_and_newer(pair[0], backend, prompt, stream=stream)
    assert [post.wait().content().strip() for post in posts] == [numbers(4)] * 2
    # A stream's client hears comments within its own read timeout, so it has not timed out.
    assert len(backend.seen(prompt)) == (2 if stream else 1)


def test_a_retry_that_leaves_takes_nothing_from_the_request_that_it_joined(
    pair: tuple[System, System], backend: DemoBackend
) -> None:
    older = Post(pair[0], "late", "left-again", stream=False, x_stainless_read_timeout=str(READ_TIMEOUT_SECONDS))
    wait_until(lambda: backend.seen("left-again"), 10, "the backend to be called")
    wait_past_the_read_timeout(older)
    body = json.dumps(chat_body("late", "left-again"), separators=(",", ":")).encode()  # the same to the byte
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {pair[0].token}\r\n"
        "Content-Type: application/json\r\n"
        f"x-stainless-retry-count: 1\r\nx-stainless-read-timeout: 2\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(pair[0].address, timeout=10) as connection:
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
    assert older.wait().content().strip() == numbers(4)
    (seen,) = backend.seen("left-again")
    assert not seen["closed_by_client"]


@pytest.mark.parametrize(("count", "token"), [("0", "test"), ("1", "other")], ids=["not-a-retry", "another-token"])
def test_only_a_retry_of_the_same_token_joins(
    pair: tuple[System, System], backend: DemoBackend, count: str, token: str
) -> None:
    prompt = f"independent-{count}-{token}"
    posts = older_and_newer(pair[0], backend, prompt, stream=False, count=count, tenant=token)
    assert [post.wait().status for post in posts] == [200, 200]
    assert len(backend.seen(prompt)) == 2


def test_a_retry_leaves_a_request_alone_that_cannot_have_timed_out(
    pair: tuple[System, System], backend: DemoBackend
) -> None:
    """Equal bodies are often independent samples, of which one was refused and comes again, and the other reads on."""
    posts = older_and_newer(pair[0], backend, "sample", stream=False, older_timeout=600)
    assert [post.wait().status for post in posts] == [200, 200]
    assert len(backend.seen("sample")) == 2


def test_a_retry_after_the_end_runs_anew(pair: tuple[System, System], backend: DemoBackend) -> None:
    for count in ("0", "1"):
        Post(pair[0], "steady", "ended", stream=False, x_stainless_retry_count=count).wait().content()
    assert len(backend.seen("ended")) == 2


def test_the_sdks_retry_behind_a_proxy_that_keeps_the_connection_is_one_call(
    pair: tuple[System, System], backend: DemoBackend
) -> None:
    """The proxy does not tell the gateway that its client left, as many do."""
    with LingeringProxy(pair[0].address) as proxy:
        client = openai.OpenAI(base_url=proxy.url, api_key=pair[0].token, timeout=2, max_retries=2)
        with client:
            answer = client.chat.completions.create(model="slow", messages=[{"role": "user", "content": "behind"}])
    assert (answer.choices[0].message.content or "").strip() == numbers(4)
    assert proxy.posts >= 2
    assert len(backend.seen("behind")) == 1


class LingeringProxy:
    """A real TCP proxy: what its client sends goes on, and a client that leaves leaves the upstream connection open."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self.posts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._open: list[socket.socket] = []

    def __enter__(self) -> LingeringProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(self._target)
                self._open += [client, upstream]
                threading.Thread(target=self._pump, args=(client, upstream, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(upstream, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.posts += is_request and data.startswith(b"POST ")
                sink.sendall(data)
