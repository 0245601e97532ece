"""What a backend is asked: the client's own `stream`, and `stream_options` as far as the backend knows them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.backend_settings import BackendSettings
from shared.jobs import TakenJob
from shared.kinds import KINDS
from tests.kinds.models import model_of
from tests.support.rooms import a_spec

ASKS: dict[str, dict[str, Any]] = {
    "chat.completions": {"messages": [{"role": "user", "content": "x"}]},
    "completions": {"prompt": "x"},
}


def asked(kind: str, *, as_stream: bool, backend: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    """Return what a backend is sent for a request with these parameters."""
    made = KINDS[kind]
    request = made.validate({"model": "m", **ASKS[kind], **parameters})
    accepted = made.accept(request, model_of())
    spec = a_spec(kind=kind, stream=request.stream, options=accepted.options)
    job = TakenJob(id="j", model="m", attempt=b"1.x", spec=spec, body=accepted.body, queue_ms=0)
    settings = BackendSettings.model_validate({"url": "http://127.0.0.1:1/v1", **(backend or {})})
    body: dict[str, Any] = orjson.loads(made.request(job, "m", settings, as_stream))
    return body


@pytest.mark.parametrize("kind", ASKS)
def test_a_stream_of_false_reaches_the_backend_only_if_the_client_said_it(kind: str) -> None:
    assert asked(kind, as_stream=False, stream=False)["stream"] is False
    assert "stream" not in asked(kind, as_stream=False)
    assert "stream" not in asked(kind, as_stream=False, stream=None)
    assert asked(kind, as_stream=True, stream=False)["stream"] is True  # a backend whose streams are folded


USAGE = {"include_usage": True}


@pytest.mark.parametrize("kind", ASKS)
@pytest.mark.parametrize(
    ("policy", "given", "sent"),
    [
        ("always", None, USAGE),
        ("always", {"include_usage": False, "x": 1}, {**USAGE, "x": 1}),
        ("asked", None, None),
        ("asked", {"include_usage": False}, None),
        ("asked", {"include_usage": None}, None),
        ("asked", {"x": 1}, {"x": 1}),
        ("asked", USAGE, USAGE),
        ("never", None, None),
        ("never", {**USAGE, "x": 1}, None),
    ],
)
def test_stream_options_are_sent_always_as_asked_or_never(
    kind: str, policy: str, given: dict[str, Any] | None, sent: dict[str, Any] | None
) -> None:
    more = {} if given is None else {"stream_options": given}
    body = asked(kind, as_stream=True, backend={"stream_options": policy}, stream=True, **more)
    assert body["stream"] is True
    assert body.get("stream_options") == sent


def test_a_backend_asked_for_usage_only_by_clients_is_folded_without() -> None:
    body = asked("chat.completions", as_stream=True, backend={"stream_options": "asked", "fold_streams": True})
    assert "stream_options" not in body
