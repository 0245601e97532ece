"""The endpoint of a kind of job: a request in; its job's events out, as SSE or as one body.

The straight line: authenticate, read, validate (each refusal before anything is queued); listen; admit; relay until the
job's last event or the client's leaving, whichever is first; cancel what was not finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from api.bodies import Bodies
from api.debugging import DebugTable
from api.delivery import Delivery
from api.dispatch import Dispatcher
from api.exchange import ClientGone, Exchange, Receive, Scope, Send
from api.relay import Relay, State
from api.relay_hub import RelayHub
from api.reports import Reports
from api.retries import LINGER_SECONDS, OpenRequests, idempotency, identity
from api.standing import Standing, Waiting
from api.stored.cursor import Cursor
from api.tokens import TokenTable
from shared.errors import AqueductError, BrokerUnavailable, Draining, RateLimited, UnknownModel
from shared.holds import Hold
from shared.kinds.common.body import parse_body
from shared.kinds.kind import Kind, Request
from shared.places import Place
from shared.room.admission import Admission
from shared.settings import ApiSettings
from shared.token_settings import TokenSettings

SHORTEST_READ_TIMEOUT_SECONDS = 1.0
"""A client that says less is not believed: its comments would come every millisecond."""


BELIEVED_SECONDS = 59.9
"""The longest wait that every OpenAI SDK believes, and the time on the way."""
HELD_BACK_SECONDS = 1.2

MAX_NAME = 128
"""Of a model that there may not be, in the log."""


class _Prepared(NamedTuple):
    """What a request was found to be."""

    request: Request
    admission: Admission
    identity: bytes | None
    """What a retry of it would share; only where the client said how long it reads."""


class JobEndpoint:
    """The endpoint, as an ASGI application."""

    def __init__(
        self,
        *,
        kind: Kind,
        settings: ApiSettings,
        tokens: TokenTable,
        debugging: DebugTable,
        bodies: Bodies,
        dispatcher: Dispatcher,
        relays: RelayHub,
        standing: Standing,
        cancels: Reports,
        forgets: Reports,
        drops: Reports,
        on_stored: Callable[[], None],
    ) -> None:
        """Take what is told of jobs: that nobody listens, that they are over, that they are not to be stored.

        `on_stored` is called when one whose answer is stored may have ended.
        """
        self._kind = kind
        self._settings = settings
        self._tokens = tokens
        self._debugging = debugging
        self._bodies = bodies
        self._dispatcher = dispatcher
        self._relays = relays
        self._standing = standing
        self._cancels = cancels
        self._forgets = forgets
        self._drops = drops
        self._on_stored = on_stored
        self._open = OpenRequests()
        self.draining = False

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, *, caller: TokenSettings | None = None
    ) -> None:
        """Answer one request; `caller` is whose it is, where that is known by something else than its header."""
        exchange = Exchange(scope, receive, send)
        record = exchange.record
        record.kind = self._kind.name
        try:
            await self._answer(exchange, caller)
        except ClientGone:
            record.status = 499
        except AqueductError as error:
            record.error_code = error.code
            if record.debug is not None:
                record.debug.add(error.json())
            await exchange.fail(error)
        if record.debug is not None:
            record.debug.write(record)
        if record.attempts is not None and record.model is not None:
            record.backend = self._dispatcher.backend(record.model, record.place)

    async def _answer(self, exchange: Exchange, caller: TokenSettings | None) -> None:
        token = caller or await self._tokens.find(exchange.header(b"authorization"))
        exchange.record.is_of(token)
        if self.draining:
            raise Draining(retry_after=1)
        exchange.require_json()
        raw, place = await self._bodies.read(exchange, token.name)
        try:
            parsed = self._bodies.parse(raw, partial(self._prepare, exchange, token))
            del raw  # so that nothing holds the body once it is Redis's
            await self._serve(exchange, token, await parsed, place)
        finally:
            if place is not None:
                place.give_back()

    async def _serve(self, exchange: Exchange, token: TokenSettings, prepared: _Prepared, place: Place | None) -> None:
        """Have the job done and hand its answer on."""
        request, read_timeout = prepared.request, _read_timeout(exchange)
        is_stream = request.stream
        cursor = Cursor() if prepared.admission.sink else None
        record, admission = exchange.record, prepared.admission
        record.model, record.lane, record.stream = admission.model, admission.lane, is_stream
        if is_stream and "structured" in prepared.admission.spec.options:
            exchange.add_headers([(b"x-aqueduct-structured-output", b"unchecked")])
        older = self._open.older(exchange, prepared.identity) if prepared.identity else None
        relay = self._relays.open(older.id if older is not None else prepared.admission.id)
        open_request = (
            self._open.add(prepared.identity, exchange, relay, read_timeout)
            if prepared.identity is not None and read_timeout is not None
            else None
        )
        # From here on the client may leave at any moment.
        stop_watching = exchange.watch(relay.hang_up)
        try:
            if older is not None:
                self._relays.join(relay, older.id)
                record.joined = older.id
                waiting = None
            else:
                waiting = await self._admit(exchange, relay, prepared.admission)
            model, estimate = prepared.admission.model, prepared.admission.estimate
            del prepared, request  # the body is Redis's now
            if place is not None:
                place.give_back()
            delivery = Delivery(self._kind, self._settings, exchange, relay, cursor)
            try:
                await (delivery.stream(read_timeout, waiting) if is_stream else delivery.whole())
            finally:
                if waiting is not None:
                    self._standing.leave(waiting, delivery.queue_ms)
            if older is None and (tokens := delivery.tokens) is not None:
                self._dispatcher.learn(token, model, estimate, tokens)
        finally:
            stop_watching()
            if open_request is not None:
                self._open.remove(open_request)
            if cursor is not None:
                self._part_stored(relay)
            else:
                self._part(relay, is_keyed=exchange.header(b"idempotency-key") is not None)

    async def _admit(self, exchange: Exchange, relay: Relay, job: Admission) -> Waiting | None:
        """Have the job accepted, or join the one that its Idempotency-Key stands for; returns it if it must wait."""
        relay.asked()
        try:
            admitted = await self._dispatcher.admit(job)
        except BrokerUnavailable:
            raise  # Redis may still run it
        except AqueductError as refusal:
            relay.refused()
            if isinstance(refusal, RateLimited):
                await _until_believed(refusal)
            raise
        exchange.add_headers(admitted.headers())
        if admitted.job_id != job.id:
            self._relays.join(relay, admitted.job_id)
            exchange.record.joined = admitted.job_id
            return None
        relay.accepted()
        if admitted.before is None:
            may_wait = job.spec.stream and self._dispatcher.holds(job.model)
            return self._standing.expect(job, exchange.add_headers) if may_wait else None
        exchange.record.held = (admitted.line.held if admitted.line else "") or Hold.ROOM.value
        return self._standing.enter(job, admitted.before, admitted.line, exchange.add_headers)

    def _part(self, relay: Relay, *, is_keyed: bool) -> None:
        """Stop listening: what nobody here listens to any more is cancelled, or forgotten if it has ended."""
        self._relays.close(relay)
        if relay.may_run:
            self._abandon(relay.id, LINGER_SECONDS if is_keyed else 0)
        elif relay.state is State.COMPLETE and relay.is_over and not is_keyed and not self._relays.is_heard(relay.id):
            self._forgets.add(relay.id)  # with a key it may be asked for again

    def _part_stored(self, relay: Relay) -> None:
        """Stop listening to a job whose answer is stored: it goes on without its client."""
        self._relays.close(relay)
        if relay.state in (State.ASKED, State.LOST):  # the client was told that there is no answer
            self._drops.add(relay.id)
        elif relay.may_run:
            self._abandon(relay.id, 0)
        self._on_stored()

    def _abandon(self, job_id: str, after_seconds: float) -> None:
        """Cancel a job that nobody listens to: nothing may run for nobody."""

        def cancel_unless_heard() -> None:
            if not self._relays.is_heard(job_id):
                self._cancels.add(job_id)

        if after_seconds:
            asyncio.get_running_loop().call_later(after_seconds, cancel_unless_heard)
        else:
            cancel_unless_heard()

    def _prepare(self, exchange: Exchange, token: TokenSettings, raw: bytes) -> _Prepared:
        if self._debugging.switched:
            self._debugging.begin(exchange.record, token.name, raw)
        request = self._kind.validate(parse_body(raw))
        exchange.record.model = request.model[:MAX_NAME]  # as asked for, until it is found
        name = self._dispatcher.model_name(request.model)
        if not self._tokens.allows(token, name):
            raise UnknownModel(request.model)
        read_timeout = _read_timeout(exchange)
        admission = self._dispatcher.prepare(
            self._kind,
            request,
            token,
            job_id=exchange.record.job_id,
            read_timeout_seconds=read_timeout,
            idempotency=idempotency(exchange, token, raw),
            is_retry=exchange.header(b"x-stainless-retry-count") not in (None, b"0"),
        )
        if exchange.record.trace is not None:
            admission.spec = admission.spec.traced(exchange.record.trace.context(self._kind.name, name))
        # What has a key is found by it alone: its job lives by other rules.
        is_found = read_timeout is not None and admission.idempotency is None
        return _Prepared(request, admission, identity(token, raw) if is_found else None)


async def _until_believed(refusal: RateLimited) -> None:
    """Hold a refusal back for as long as its wait is a little more than clients believe.

    Whoever is refused just behind a burst can come again 60 to 61 s later. The OpenAI SDK for Node takes no more than
    60 s for true: it would come at once, twice, and give up.
    """
    excess = (refusal.retry_after or 0) - BELIEVED_SECONDS
    if 0 < excess <= HELD_BACK_SECONDS:
        await asyncio.sleep(excess)
        refusal.retry_after = BELIEVED_SECONDS


def _read_timeout(exchange: Exchange) -> float | None:
    """Return the client's own read timeout in seconds, which the OpenAI SDK tells in a header."""
    value = exchange.header(b"x-stainless-read-timeout")
    if value is None:
        return None
    with suppress(ValueError):
        seconds = float(value)
        if SHORTEST_READ_TIMEOUT_SECONDS <= seconds < 1e7:
            return seconds
    return None
