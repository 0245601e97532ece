"""The HTTP client of OpenAI-compatible servers: a job in, the answer's bytes out; every failure as one of our errors.

aiohttp carries the calls because it costs a tenth of the CPU of the alternatives a call (`docs/performance.md`). Each
model has its own session, so that one backend's trouble never takes another model's connections.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from yarl import URL

from shared.errors import AqueductError, BackendTimeout, BackendUnreachable, BadBackendResponse
from shared.jobs import TakenJob, request_id
from shared.settings import BackendSettings, ModelSettings, WorkerSettings
from workers.backend_errors import backend_error
from workers.health import BackendHealth

MAX_PLAIN_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
_REDIRECTS = range(300, 400)


class Answer:
    """A backend's 200 response that is being read."""

    __slots__ = ("_response", "is_stream")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.is_stream = response.content_type == "text/event-stream"

    async def body(self, on_part: Callable[[], None]) -> bytes:
        """Read a plain answer whole, telling of each part; raises BadBackendResponse over 32 MB."""
        parts: list[bytes] = []
        size = 0
        async for part in self._response.content.iter_any():
            size += len(part)
            if size > MAX_PLAIN_BYTES:
                raise BadBackendResponse("The model's backend sent an answer that is too large.")
            parts.append(part)
            on_part()
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
        self.health = BackendHealth(model.backends)
        self._heads = [_head(name, backend) for backend in model.backends]
        self._headers = [_headers(backend) for backend in model.backends]
        # Parsed once: a URL given as text is parsed for every call.
        self._urls = [URL(f"{backend.url}/chat/completions", encoded=True) for backend in model.backends]
        self._endings: set[asyncio.Future[None]] = set()
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

    def folds(self, place: int) -> bool:
        """Whether plain requests to this backend are streamed and folded."""
        return self._backends[place].fold_streams

    @asynccontextmanager
    async def call(self, job: TakenJob, place: int, *, stream: bool, headers_seconds: float) -> AsyncIterator[Answer]:
        """Post the job to one of the backends and yield the answer once its headers say 200; leaving closes the call.

        The headers must come within `headers_seconds`. Raises BackendUnreachable, BackendTimeout, BadBackendResponse,
        or what `backend_error` makes of a refusal.
        """
        failed: bool | None = None
        response: aiohttp.ClientResponse | None = None
        generation = self.health.began(place)
        try:
            async with asyncio.timeout(headers_seconds):
                response = await self._post(job, place, stream=stream)
            if response.status != 200:
                raise await _refusal(response)
            yield Answer(response)
            failed = False
        except Exception as error:
            told = _translated(error)
            failed = told.status >= 500 or told.status == 429 if isinstance(told, AqueductError) else None
            if told is error:
                raise
            raise told from error
        finally:
            self.health.ended(place, generation, failed=failed)
            if response is not None:
                self._let_go(response, is_complete=failed is False)

    def _let_go(self, response: aiohttp.ClientResponse, *, is_complete: bool) -> None:
        """Give the connection back, or close it so that the backend sees that nobody listens."""
        if not is_complete:
            response.close()
        elif response.content.is_eof():
            response.release()
        else:
            # Its last event is here, the end of the body a moment behind: wait for that, to use the connection again.
            task = asyncio.ensure_future(_read_end(response))
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)

    async def _post(self, job: TakenJob, place: int, *, stream: bool) -> aiohttp.ClientResponse:
        url, body = self._urls[place], self._body(job, place, stream=stream)
        headers = {**self._headers[place], "x-request-id": request_id(job.id)}
        headers["Accept"] = "text/event-stream" if stream else "application/json"
        sent_at = time.monotonic()
        try:
            return await self._session.post(url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ServerDisconnectedError:
            # Some servers close kept-alive connections without a word. Closed before any byte came back and at once:
            # nothing ran, so the call goes out again on a fresh connection, and is not counted as an attempt.
            if time.monotonic() - sent_at > 1.0:
                raise
            headers["Connection"] = "close"
            return await self._session.post(url, data=body, headers=headers, allow_redirects=False)

    def _body(self, job: TakenJob, place: int, *, stream: bool) -> bytes:
        """Return the body for this backend: its own head joined with the job's ready-made rest, nothing re-encoded."""
        call = job.call
        parts = [self._heads[place]]
        if stream:
            options = orjson.dumps({**call.stream_options, "include_usage": True})
            parts.append(b',"stream":true,"stream_options":' + options)
        if call.max_tokens is not None:
            field = self._backends[place].max_tokens_field or call.max_tokens_field
            parts.append(b',"%b":%d' % (field.encode(), call.max_tokens))
        rest = (job.body or b"{}")[1:]
        if rest != b"}":
            parts.append(b",")
        parts.append(rest)
        return b"".join(parts)


def _translated(error: Exception) -> Exception:
    """Return what to raise for a failure of a call: one of our errors, or the failure itself when it is not HTTP's."""
    if isinstance(error, AqueductError):
        return error
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return BackendUnreachable()
    if isinstance(error, TimeoutError):
        return BackendTimeout(should_retry=False)
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError)):
        return BackendUnreachable("The model's backend closed the connection before the answer was complete.")
    if isinstance(error, (aiohttp.ClientError, ValueError)):
        return BadBackendResponse()
    return error


async def _read_end(response: aiohttp.ClientResponse) -> None:
    """Read what follows an answer's end, which should be nothing, and give the connection back."""
    try:
        async with asyncio.timeout(1):
            await response.content.read(1024)
            response.release() if response.content.is_eof() else response.close()
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()


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
