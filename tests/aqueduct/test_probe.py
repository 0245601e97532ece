"""`aqueduct check --probe`: what real servers of many habits refuse, and the switch that each finding names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aqueduct.test_check import Backend, run, serving, write
from tests.support.processes import RedisServer

Answer = tuple[int, Any]


def chat(text: str = "1", tokens: int | None = 1, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + (tokens or 0)}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "llama",
        "choices": [choice],
        "usage": usage,
        **more,
    }


def refuses(*names: str, status: int = 422, words: str = "Extra inputs are not permitted: {}") -> Callable[..., Any]:
    def answer(body: dict[str, Any]) -> Answer | None:
        found = [name for name in names if name in body]
        return (status, {"error": {"message": words.format(found[0])}}) if found else None

    return answer


def ignores(name: str) -> Callable[..., Any]:
    return lambda body: (200, chat(tokens=60)) if name in body and not body.get("stream") else None


def blind(*names: str) -> Callable[..., Any]:
    """Refuse without saying what."""
    return refuses(*names, status=400, words="Bad request")


HABITS: dict[str, Callable[[dict[str, Any]], Answer | None]] = {
    "good": lambda body: None,
    "no-max-tokens": refuses("max_tokens"),
    "no-completion-tokens": refuses("max_completion_tokens", status=400),
    "ignores": ignores("max_completion_tokens"),
    "no-options": refuses("stream_options"),
    "no-streams": lambda body: (422, {"detail": "stream is not supported"}) if body.get("stream") else None,
    "always-streams": lambda body: (200, "stream"),
    "never-streams": lambda body: (200, chat()),
    "no-usage": lambda body: (200, "stream without usage") if body.get("stream") else None,
    "strict": refuses("user", "store", "seed"),
    "blind": blind("service_tier", "logprobs"),
    "extra": refuses("top_k", status=400),
    "odd": lambda body: None if body.get("stream") else (200, chat(created="x", object="", id="")),
    "broken": lambda body: None if body.get("stream") else (200, {"choices": []}),
    "away": lambda body: (404, {"error": {"message": "The model `llama` does not exist", "code": "model_not_found"}}),
    "busy": lambda body: (429, {"error": {"message": "slow down"}}),
    "locked": lambda body: (403, {}),
}


class Server(Backend):
    """A server whose habit is the first part of its path."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        habit, _, path = self.path[1:].partition("/")
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if path == "v1/embeddings" and habit == "vectors":
            return self.answer(200, {"data": [{"embedding": [0.5]}]})
        if path != "v1/chat/completions" or habit == "vectors":
            return self.answer(404, {"detail": "Not Found"})
        status, answer = HABITS[habit](body) or (200, "stream" if body.get("stream") else chat())
        return self.answer(status, answer)

    def answer(self, status: int, answer: Any) -> None:
        raw = json.dumps(answer)
        if isinstance(answer, str):
            chunk: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": "1"}, "finish_reason": "length"}]}
            usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
            last = "" if "without" in answer else f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
            raw = f"data: {json.dumps(chunk)}\n\n{last}data: [DONE]\n\n"
        self.send_response(status)
        self.send_header("content-type", "text/event-stream" if isinstance(answer, str) else "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw.encode())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Server) as address:
        yield f"http://{address}"


@pytest.fixture
def probed(
    own_redis: RedisServer, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    def probe(habit: str, settings: str = "", path: str = "/v1") -> list[str]:
        """Return what `--probe` finds, behind the line that the look-up gives; the backend's name cut off."""
        run(write(tmp_path, own_redis.url, f"{{url: {server}/{habit}{path}{settings}}}"), "--probe")
        lines = [line.split(" of llama: ") for line in capsys.readouterr().out.splitlines() if " of llama: " in line]
        return [f"{name.split()[0]} {told}" for name, told in lines[1:]]

    return probe


@pytest.mark.parametrize(
    ("habit", "settings", "found"),
    [
        ("good", "", ["ok probed: answers chat, whole and streamed, with the usual parameters"]),
        ("no-max-tokens", "", ["FAIL refuses max_tokens (422). Fix: set max_tokens_field: max_completion_tokens"]),
        (
            "no-completion-tokens",
            "",
            ["warn refuses max_completion_tokens (400). Fix: set max_tokens_field: max_tokens"],
        ),
        (
            "ignores",
            "",
            [
                "warn ignores max_completion_tokens: 60 tokens where 1 was asked for. "
                "Fix: set max_tokens_field: max_tokens"
            ],
        ),
        ("no-options", "", ["FAIL refuses stream_options (422). Fix: set stream_options: never"]),
        ("no-streams", "", ["FAIL refuses to stream (422): stream is not supported. Fix: see its own log"]),
        ("always-streams", "", ["warn streams though it is not asked to. Fix: set fold_streams: true"]),
        ("never-streams", "", ["warn never streams: it answers whole. Fix: nothing: its answer becomes one chunk"]),
        (
            "never-streams",
            ", fold_streams: true",
            ["warn never streams: it answers whole. Fix: set fold_streams: false"],
        ),
        ("no-usage", "", ["warn tells no usage in streams. Fix: nothing: what they cost is estimated"]),
        ("strict", "", ["warn refuses user, store, seed (422). Fix: set parameters: {removed: [user, store, seed]}"]),
        (
            "blind",
            "",
            ["warn refuses logprobs, service_tier (400). Fix: set parameters: {removed: [logprobs, service_tier]}"],
        ),
        (
            "extra",
            ", parameters: {defaults: {top_k: 1, min_p: 0}}",
            [
                "FAIL refuses what parameters or by_lane add (400): Extra inputs are not permitted: top_k. "
                "Fix: take out top_k"
            ],
        ),
        ("odd", "", ["ok its answers are mended by the gateway: no id, no object, created is no whole number"]),
        (
            "broken",
            "",
            [
                "FAIL its answer cannot be used: The model's backend sent an answer without choices. "
                "Fix: see its own log"
            ],
        ),
        ("away", "", ["FAIL does not know the model 'llama' (404). Fix: set `model:` to one that it lists: 'llama'"]),
        ("busy", "", ["warn answered 429: over its rate limit. Fix: probe it again later"]),
        (
            "locked",
            ", api_key: sk-canary",
            [
                "FAIL answered 403: it refuses the key. Fix: mend api_key, or the header in headers that it wants a "
                "key in (api-key: ${NAME})"
            ],
        ),
        ("vectors", "", ["ok probed: answers embeddings, and no chat"]),
    ],
)
def test_each_habit_is_one_line_with_its_switch(
    probed: Callable[..., list[str]], habit: str, settings: str, found: list[str]
) -> None:
    assert probed(habit, settings) == found


@pytest.mark.parametrize(
    ("habit", "settings"),
    [
        ("no-max-tokens", ", max_tokens_field: max_completion_tokens"),
        ("no-completion-tokens", ", max_tokens_field: max_tokens"),
        ("ignores", ", max_tokens_field: max_tokens"),
        ("no-options", ", stream_options: never"),
        ("always-streams", ", fold_streams: true"),
        ("strict", ", parameters: {removed: [seed, user, store]}"),
    ],
)
def test_the_switch_that_is_named_is_the_one_that_helps(
    probed: Callable[..., list[str]], habit: str, settings: str
) -> None:
    assert [line.split()[0] for line in probed(habit, settings)] == ["ok"]


def test_a_url_without_its_v1_is_told(probed: Callable[..., list[str]], server: str) -> None:
    (line,) = probed("good", path="")
    assert line == f"FAIL answered 404 to /chat/completions. Fix: set url: {server}/good/v1"


def test_nothing_is_asked_that_costs_unless_told_to(
    own_redis: RedisServer, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write(tmp_path, own_redis.url, f"{{url: {server}/broken/v1}}")) == 0
    assert "probed" not in capsys.readouterr().out
