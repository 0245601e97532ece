"""The outermost layer over applications that fail: an unforeseen exception is an OpenAI error with an id, too."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from api.envelope import Envelope, install_error_handlers
from api.exchange import Receive, Scope, Send


async def _fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a secret of the inside")


async def _fails_late(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": False})
    raise RuntimeError("a secret of the inside")


def _post(path: str) -> httpx.Response:
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/framework")
    async def fails() -> None:
        raise RuntimeError("a secret of the inside")

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(Envelope(app, direct={"/direct": _fails, "/late": _fails_late}))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.post(path)

    return asyncio.run(post())


@pytest.mark.parametrize("path", ["/framework", "/direct"])
def test_unforeseen_exception_is_an_envelope_with_a_request_id(path: str) -> None:
    answer = _post(path)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in answer.text
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]
    assert answer.headers["x-request-id"].startswith("req_")


def test_exception_after_the_first_byte_changes_nothing_that_was_sent() -> None:
    answer = _post("/late")
    assert (answer.status_code, answer.text) == (200, "begun")
