"""`GET /chat/completions/{id}/events`: a stored stream read on, while it runs or after its end, from any process.

A stream is followed by joining its job as one owner more; one that Redis does not hold any more is read from the file
store. What stands behind `data:` is what the first reader got, byte for byte; at last comes `[DONE]` or its one error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final
from urllib.parse import parse_qs

from api.delivery import SSE_HEADERS, SSE_TYPE, Delivery
from api.exchange import ClientGone, Exchange, Receive, Scope, Send
from api.relay_hub import RelayHub
from api.reports import Reports
from api.store_errors import store_error
from api.stored import keys
from api.stored.cursor import NOTHING, Cursor
from api.stored.desk import StoredDesk, not_found
from api.stored.record import StoredRecord
from api.tokens import TokenTable
from shared.errors import AqueductError, Draining, InvalidRequest
from shared.files import tenant_folder
from shared.kinds.chat import CHAT
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.admission import broker_error
from shared.room.stored import Heard
from shared.settings import ApiSettings
from shared.store import StoreError
from shared.token_settings import TokenSettings

MAX_DIGITS: Final = 12


class ResumeEndpoint:
    """The endpoint, as an ASGI application."""

    def __init__(
        self,
        *,
        settings: ApiSettings,
        tokens: TokenTable,
        relays: RelayHub,
        cancels: Reports,
        find_desk: Callable[[], StoredDesk],
    ) -> None:
        """Take what returns the stored completions, or raises NotFound where there is no store."""
        self._settings = settings
        self._tokens = tokens
        self._relays = relays
        self._cancels = cancels
        self._find_desk = find_desk
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        try:
            await self._answer(exchange)
        except ClientGone:
            exchange.record.status = 499
        except StoreError as error:
            await self._fail(exchange, store_error(error))
        except AqueductError as error:
            await self._fail(exchange, error)

    async def _fail(self, exchange: Exchange, error: AqueductError) -> None:
        exchange.record.error_code = error.code
        if exchange.started:
            await exchange.write(CHAT.error_event(error), more=False)
        else:
            await exchange.fail(error)

    async def _answer(self, exchange: Exchange) -> None:
        token = await self._tokens.find(exchange.header(b"authorization"))
        if self.draining:
            raise Draining(retry_after=1)
        desk, after = self._find_desk(), _after(exchange)
        completion_id: str = exchange.scope["path_params"]["completion_id"]
        job_id = keys.job_id(completion_id)
        if job_id is None:
            raise not_found(completion_id)
        if await self._follow(exchange, desk, token, completion_id, job_id, after):
            return
        record = await desk.completions.get(tenant_folder(token.name), completion_id)
        if record is None:
            raise not_found(completion_id)
        _require_stream(completion_id, is_stream=record.is_stream)
        _follows(exchange, record.trace)
        await self._show(exchange, desk, token, record, after)

    async def _follow(
        self, exchange: Exchange, desk: StoredDesk, token: TokenSettings, completion_id: str, job_id: str, after: int
    ) -> bool:
        """Hand on what Redis has of a stream, and what comes; False where it has nothing."""
        # Open before it is asked for: else a reader who leaves meanwhile would take this process out of the job.
        relay = self._relays.open(job_id)
        stop_watching = exchange.watch(relay.hang_up)
        heard = None
        try:
            heard = await self._hear(desk, token, job_id)
            if heard is None:
                return False
            _require_stream(completion_id, is_stream=heard.spec.stream)
            _follows(exchange, heard.spec.trace)
            self._relays.join(relay, job_id)
            delivery = Delivery(CHAT, self._settings, exchange, relay, Cursor(after))
            await exchange.start(200, SSE_TYPE, SSE_HEADERS)  # from here on a failure is the last event
            await delivery.stream(None, None)
            return True
        finally:
            stop_watching()
            self._relays.close(relay)
            if heard is not None and heard.state != "ended" and not self._relays.is_heard(job_id):
                self._cancels.add(job_id)  # it goes on, without this process

    @staticmethod
    async def _hear(desk: StoredDesk, token: TokenSettings, job_id: str) -> Heard | None:
        try:
            return await desk.jobs.hear(job_id, token.name)
        except (RedisUnavailable, RedisRefused) as error:
            raise broker_error(error) from error

    async def _show(
        self, exchange: Exchange, desk: StoredDesk, token: TokenSettings, record: StoredRecord, after: int
    ) -> None:
        """Send what the store has of a stream that has ended."""
        cursor = Cursor(after)
        await exchange.start(200, SSE_TYPE, SSE_HEADERS)
        try:
            async for block in _whole_events(desk.completions.events(tenant_folder(token.name), record.id)):
                if out := cursor.numbered(block):
                    await exchange.write(out)
        except KeyError:  # deleted meanwhile
            raise not_found(record.id) from None
        failure = record.failure()
        await exchange.write(b"" if failure is None else CHAT.error_event(failure), more=False)


async def _whole_events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a stream's bytes in blocks of whole events."""
    rest = b""
    async for part in parts:
        rest += part
        end = rest.rfind(b"\n\n") + 2
        if end > 1:
            yield rest[:end]
            rest = rest[end:]


def _after(exchange: Exchange) -> int:
    """Return the number of the last event that the reader has; raises InvalidRequest."""
    given = parse_qs(exchange.scope["query_string"].decode("latin-1"), keep_blank_values=True).get("after")
    header = exchange.header(b"last-event-id")
    if given is None and not header:
        return NOTHING
    name = "Last-Event-ID" if given is None else "after"
    text = given[-1] if given is not None else (header or b"").decode("latin-1")
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        message = f"Invalid '{name}': send the number of an `id:` line of the stream, or leave it out to begin anew."
        raise InvalidRequest(message, param=name, code="invalid_value")
    return int(text)


def _follows(exchange: Exchange, first: str | None) -> None:
    if exchange.record.trace is not None and first is not None:
        exchange.record.trace.follows(first)


def _require_stream(completion_id: str, *, is_stream: bool) -> None:
    if not is_stream:
        message = f"This completion was not made as a stream. Retrieve it with GET /chat/completions/{completion_id}."
        raise InvalidRequest(message, param="completion_id", code="not_a_stream")
