"""The HTTP client of OpenAI-compatible servers: a job in, the answer's bytes out; every failure as one of our errors.

aiohttp carries the calls because it costs a tenth of the CPU of the alternatives a call (`docs/performance.md`). Each
model has its own session, so that one backend's trouble never takes another model's connections.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from shared.errors import AqueductError, BackendTimeout, BackendUnreachable, BadBackendResponse
from shared.jobs import TakenJob, request_id
from shared.settings import BackendSettings, ModelSettings, WorkerSettings
from workers.backend_errors import backend_error

MAX_PLAIN_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
_REDIRECTS = range(300, 400)


class Answer:
    """A backend's 200 response that is being read."""

    __slots__ = ("_response", "is_stream")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.is_stream = response.content_type == "text/event-stream"

    async def body(self) -> bytes:
        """Read a plain answer whole; raises BadBackendResponse over 32 MB."""
        parts: list[bytes] = []
        size = 0
        async for part in self._response.content.iter_any():
            size += len(part)
            if size > MAX_PLAIN_BYTES:
                raise BadBackendResponse("The model's backend sent an answer that is too large.")
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the connection; a reader that waits for it fails."""
        self._response.close()

    def parts(self) -> AsyncIterator[bytes]:
        """Yield the bytes of a stream as they arrive."""
        return self._response.content.iter_any()


class Backends:
    """The servers of one model."""

    def __init__(self, name: str, model: ModelSettings, worker: WorkerSettings) -> None:
        self._model = model
        self._backends = model.backends
        self._weights = [backend.weight for backend in model.backends]
        self._heads = {id(backend): _head(name, backend) for backend in model.backends}
        self._headers = {id(backend): _headers(backend) for backend in model.backends}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, enable_cleanup_closed=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=worker.connect_timeout_seconds, sock_read=None),
            auto_decompress=True,
            skip_auto_headers=("User-Agent",),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    def choose(self) -> BackendSettings:
        """Return a backend for the next call, by weight."""
        if len(self._backends) == 1:
            return self._backends[0]
        weights = self._weights if any(self._weights) else None
        return random.choices(self._backends, weights)[0]

    @asynccontextmanager
    async def call(self, job: TakenJob, backend: BackendSettings, *, stream: bool) -> AsyncIterator[Answer]:
        """Post the job and yield the answer once its headers say 200; leaving closes the call.

        Raises BackendUnreachable, BackendTimeout, BadBackendResponse, or what `backend_error` makes of a refusal.
        """
        body = self._body(job, backend, stream=stream)
        headers = {**self._headers[id(backend)], "x-request-id": request_id(job.id)}
        headers["Accept"] = "text/event-stream" if stream else "application/json"
        try:
            response = await self._post(backend, body, headers)
            try:
                if response.status != 200:
                    raise await _refusal(response)
                yield Answer(response)
            except BaseException:
                response.close()  # not reusable: the backend must see that nobody listens
                raise
            else:
                response.release()
        except AqueductError:
            raise
        except (aiohttp.ServerTimeoutError, TimeoutError) as error:
            raise BackendTimeout(should_retry=False) from error
        except aiohttp.ClientConnectorError as error:
            raise BackendUnreachable(retry_after=2) from error
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError) as error:
            raise BackendUnreachable(
                "The model's backend closed the connection before the answer was complete.", retry_after=1
            ) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise BadBackendResponse from error

    async def _post(self, backend: BackendSettings, body: bytes, headers: dict[str, str]) -> aiohttp.ClientResponse:
        url = backend.url + "/chat/completions"
        sent_at = time.monotonic()
        try:
            return await self._session.post(url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ServerDisconnectedError:
            # Some servers close kept-alive connections without a word. Closed before any byte came back and at once:
            # nothing ran, so the call goes out again on a fresh connection, and is not counted as an attempt.
            if time.monotonic() - sent_at > 1.0:
                raise
            headers = {**headers, "Connection": "close"}
            return await self._session.post(url, data=body, headers=headers, allow_redirects=False)

    def _body(self, job: TakenJob, backend: BackendSettings, *, stream: bool) -> bytes:
        """Return the body for this backend: its own head joined with the job's ready-made rest, nothing re-encoded."""
        call = job.call
        parts = [self._heads[id(backend)]]
        if stream:
            options = orjson.dumps({**call.stream_options, "include_usage": True})
            parts.append(b',"stream":true,"stream_options":' + options)
        if call.max_tokens is not None:
            field = backend.max_tokens_field or call.max_tokens_field
            parts.append(b',"%b":%d' % (field.encode(), call.max_tokens))
        rest = job.body[1:]
        if rest != b"}":
            parts.append(b",")
        parts.append(rest)
        return b"".join(parts)


def _head(name: str, backend: BackendSettings) -> bytes:
    return b'{"model":' + json.dumps(backend.model or name, ensure_ascii=False).encode()


def _headers(backend: BackendSettings) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": "aqueduct"}
    if backend.api_key is not None:
        headers["Authorization"] = "Bearer " + backend.api_key.get_secret_value()
    return headers


async def _refusal(response: aiohttp.ClientResponse) -> AqueductError:
    if response.status in _REDIRECTS:
        return BadBackendResponse(
            "The model's backend answered with a redirect; the operator must configure its final URL."
        )
    payload: Any = None
    try:
        async with asyncio.timeout(10):
            raw = await response.content.read(MAX_ERROR_BYTES)
        payload = json.loads(raw)
    except (ValueError, TimeoutError, aiohttp.ClientError, RecursionError):
        payload = None
    return backend_error(payload, response.status, _retry_after(response.headers.get("retry-after")))


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 < seconds < 86_400 else None
