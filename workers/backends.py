"""The servers of a model: a job in, the answer's bytes out; every failure as one of our errors.

Each model has its own connections, so that one backend's trouble never takes another model's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

from shared.backend_settings import BackendSettings
from shared.errors import AqueductError, BackendTimeout, BackendUnreachable, BadBackendResponse
from shared.jobs import TakenJob, request_id
from shared.kinds import Kind
from shared.kinds.common.backend_errors import backend_error, without_secrets
from shared.kinds.common.secrets import Secrets, secrets_of
from shared.settings import ModelSettings, WorkerSettings
from workers.capacity.meter import Meter, MeteredTransport
from workers.health import BackendHealth
from workers.mapped_headers import MappedHeaders
from workers.transport.base import ConnectFailed, ConnectionLost, InvalidAnswer, LargeBody, Response, Transport
from workers.transport.choice import open_transport

MAX_ERROR_BYTES = 64 * 1024
ERROR_SECONDS = 10.0
FOLDED_SHARE = 8
"""How much longer than a whole answer a stream may be that becomes one: most of a chunk is no text."""
_REDIRECTS = range(300, 400)


class Answer:
    """A backend's 2xx response that is being read."""

    __slots__ = ("_max_bytes", "_response", "_size", "is_stream")

    def __init__(self, response: Response, max_bytes: int) -> None:
        self._response = response
        self._max_bytes = max_bytes
        self._size = 0
        media_type = response.headers.get(b"content-type", b"").partition(b";")[0]
        self.is_stream = media_type.strip().lower() == b"text/event-stream"

    @property
    def is_complete(self) -> bool:
        """Whether all of it is here."""
        return self._response.is_complete

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Return the bytes that have come, waiting for some; empty at the end."""
        return self._response.read()

    def follow(self, take: Callable[[bytes], bool]) -> Coroutine[Any, Any, bool]:
        """Hand the bytes to `take` as they come: True once `take` has said False, False at the end."""
        return self._response.follow(take)

    async def body(self, on_part: Callable[[], None]) -> bytes:
        """Read a plain answer whole, telling of each part; raises BadBackendResponse for one that is too long."""
        parts: list[bytes] = []
        while part := await self.read():
            self._count(part, self._max_bytes)
            parts.append(part)
            on_part()
        return b"".join(parts)

    def count_folded(self, part: bytes) -> None:
        """Count a part of a stream that becomes a whole answer; raises BadBackendResponse when they are too many."""
        self._count(part, FOLDED_SHARE * self._max_bytes)

    def _count(self, part: bytes, limit: int) -> None:
        self._size += len(part)
        if self._size > limit:
            raise BadBackendResponse(
                f"The model's backend sent an answer of more than {limit} bytes, which the operator may "
                "allow it to (worker.max_answer_bytes). Ask for less at once.",
                should_retry=False,
            )

    def close(self) -> None:
        """Close the connection; a reader that waits for it fails."""
        self._response.close()


@dataclass(slots=True)
class BackendCall:
    """A call of one backend, as a context manager: entering gives the answer once its head says 2xx.

    Leaving closes the call; after a whole answer its connection is used again. Raises BackendUnreachable,
    BackendTimeout, BadBackendResponse, or what `backend_error` makes of a refusal, also for what the reading meets.
    """

    transport: Transport
    path: bytes
    headers: bytes
    body: bytes | LargeBody
    health: BackendHealth
    place: int
    """The backend's, in its model's list."""
    head_seconds: float
    """Limit to the answer's head."""
    max_answer_bytes: int
    """Limit to a whole answer."""
    secrets: Secrets
    """What the backend may say and nobody may see."""
    _generation: int = 0
    _response: Response | None = None

    async def __aenter__(self) -> Answer:
        self._generation = self.health.began(self.place)
        try:
            async with asyncio.timeout(self.head_seconds):
                response = self._response = await self.transport.post(self.path, self.headers, self.body)
            if not 200 <= response.status < 300:
                raise await _refusal(response, self.secrets)
            if response.headers.get(b"content-encoding", b"identity") != b"identity":
                raise BadBackendResponse("The model's backend compressed its answer though it was asked not to.")
        except BaseException as error:
            self._end(error)
            raise
        return Answer(response, self.max_answer_bytes)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Tell the backend's health how it went and let go of the answer; raises what the error means for a job."""
        if isinstance(self.body, LargeBody):
            self.body.sent()  # or given up
        told = _translated(error)
        if isinstance(told, AqueductError):
            told = without_secrets(told, self.secrets)
        failed = False if told is None else None
        if isinstance(told, AqueductError):
            failed = told.status >= 500 or told.status == 429
        self.health.ended(self.place, self._generation, failed=failed)
        if self._response is not None and told is None:
            self._response.release()
        elif self._response is not None:
            self._response.close()  # so that the backend sees that nobody listens
        if told is not None and told is not error:
            raise told from error


class Backends:
    """The servers of one model. Made on the event loop; `close` it. A run is in `with` them, so that they stay open."""

    def __init__(self, name: str, model: ModelSettings, worker: WorkerSettings) -> None:
        self._backends = model.backends
        self.health = BackendHealth(model.backends)
        self._name = name
        self._runs = 0
        self._is_retired = False
        self._max_answer_bytes = worker.max_answer_bytes
        self._secrets = secrets_of(model.backends)
        self._mapped = [MappedHeaders(backend) or None for backend in model.backends]
        self._transports: list[Transport] = [
            open_transport(backend, backend_headers(backend), connect_timeout_seconds=worker.connect_timeout_seconds)
            for backend in model.backends
        ]
        self.meters: dict[int, Meter] = {}
        """Of the backends whose `concurrency` is found by measuring."""
        for place, auto in enumerate(model.autos):
            if auto is not None:
                self.health.allow(place, auto.first)
                self.meters[place] = Meter()
                self._transports[place] = MeteredTransport(self._transports[place], self.meters[place])

    def __enter__(self) -> Backends:
        self._runs += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._runs -= 1
        if self._is_retired and not self._runs:
            self.close()

    def retire(self) -> None:
        """Close once the last run that has them has ended: others have taken their place."""
        self._is_retired = True
        if not self._runs:
            self.close()

    def close(self) -> None:
        """Close every connection."""
        for transport in self._transports:
            transport.close()

    def folds(self, place: int) -> bool:
        """Whether plain requests to this backend are streamed and folded."""
        return self._backends[place].fold_streams

    def call(
        self,
        kind: Kind,
        job: TakenJob,
        place: int,
        *,
        stream: bool,
        head_seconds: float,
        on_sent: Callable[[], None] | None = None,
        more_headers: bytes | None = None,
    ) -> BackendCall:
        """Return the call of a job to one of the backends; the answer's head must come within `head_seconds`.

        With `on_sent` the job's body is taken from it, and let go of when the backend has it: then this is called.
        """
        headers = b"accept: %b\r\nx-request-id: %b\r\n" % (
            b"text/event-stream" if stream else b"application/json",
            request_id(job.id).encode(),
        )
        mapped = self._mapped[place]
        if mapped is not None:
            headers += mapped.lines(job.spec)
        if more_headers is not None:
            headers += more_headers
        body = kind.request(job, self._name, self._backends[place], stream)
        if on_sent is not None:
            job.body = None
        return BackendCall(
            transport=self._transports[place],
            path=kind.path.encode(),
            headers=headers,
            body=body if on_sent is None else LargeBody(body, on_sent),
            health=self.health,
            place=place,
            head_seconds=head_seconds,
            max_answer_bytes=self._max_answer_bytes,
            secrets=self._secrets,
        )


def _translated(error: BaseException | None) -> BaseException | None:
    """Return what to raise for a failure of a call: one of our errors, or the failure itself when it is not HTTP's."""
    if isinstance(error, ConnectFailed):
        return BackendUnreachable()
    if isinstance(error, ConnectionLost):
        return BackendUnreachable("The model's backend closed the connection before the answer was complete.")
    if isinstance(error, TimeoutError):
        return BackendTimeout(should_retry=False)
    if isinstance(error, InvalidAnswer):
        return BadBackendResponse()
    return error


def backend_headers(backend: BackendSettings) -> dict[str, str]:
    """Return the headers of every call of a backend, its key among them."""
    headers = {"content-type": "application/json", "user-agent": "aqueduct"}
    if backend.api_key is not None:
        headers["authorization"] = "Bearer " + backend.api_key.get_secret_value()
    return headers | {name: value.get_secret_value() for name, value in (backend.headers or {}).items()}


async def _refusal(response: Response, secrets: Secrets) -> AqueductError:
    """Return what to raise for an answer that is no 2xx."""
    if response.status in _REDIRECTS:
        return BadBackendResponse(
            "The model's backend answered with a redirect; the operator must configure its final URL."
        )
    raw = b""
    try:
        async with asyncio.timeout(ERROR_SECONDS):
            while len(raw) < MAX_ERROR_BYTES and (part := await response.read()):
                raw += part
    except (TimeoutError, ConnectionLost, InvalidAnswer):
        raw = b""
    if response.status >= 500 and not raw.lstrip().startswith((b"{", b"[", b'"')):
        raw = b""  # "Internal Server Error" and the like, often a proxy's: our own words say more
    return backend_error(raw[:MAX_ERROR_BYTES], response.status, _retry_after(response), secrets)


def _retry_after(response: Response) -> float | None:
    """Return the seconds that a backend asks to wait: in milliseconds as OpenAI does, else in seconds or as a date."""
    milliseconds = _number(response.headers.get(b"retry-after-ms", b""))
    value = response.headers.get(b"retry-after", b"")
    seconds = _number(value) if milliseconds is None else milliseconds / 1000
    if seconds is None:
        try:
            date = parsedate_to_datetime(value.decode("latin-1"))
        except ValueError:
            return None
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
    return seconds if 0 < seconds < 86_400 else None


def _number(value: bytes) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
