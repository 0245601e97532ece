"""Retried requests: which older request a new one joins, so that a retry never doubles the load.

The OpenAI SDKs post the same body again after a time-out, with nothing to join the two but a count. So a retry joins an
older request of the same token and body only while that one's connection is still open in this process, and only when
its own client must have timed out: it was sent nothing at all for the read timeout that came with it (equal bodies are
often independent samples). The older one is not cut; it ends with its connection. Anything more needs an
`Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from api.exchange import Exchange
from api.relay import Relay
from shared.errors import InvalidRequest
from shared.room.admission import Idempotency
from shared.token_settings import TokenSettings

MAX_KEY_LENGTH = 255
TIMED_OUT_SHARE = 0.9
"""How much of its client's read timeout an open request must have lasted before a retry may join it."""
LINGER_SECONDS = 15.0
"""A job with an Idempotency-Key outlives its client by this, so that a retry finds it."""


def idempotency(exchange: Exchange, token: TokenSettings, raw: bytes) -> Idempotency | None:
    """Return what the `Idempotency-Key` header stands for, or None without one; raises InvalidRequest."""
    key = exchange.header(b"idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isascii():
        raise InvalidRequest(
            f"Send an Idempotency-Key of 1 to {MAX_KEY_LENGTH} ASCII characters.", code="invalid_value"
        )
    name = hashlib.sha256(token.name.encode() + b"\n" + key).hexdigest()
    return Idempotency(name, hashlib.sha256(raw).hexdigest())


def identity(token: TokenSettings, raw: bytes) -> bytes:
    """Return what two requests share that may be one: the token and the body, by SHA-256."""
    return hashlib.sha256(token.name.encode() + b"\n" + raw).digest()


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request whose connection is open."""

    key: bytes
    exchange: Exchange
    relay: Relay
    read_timeout_seconds: float
    opened_at: float

    @property
    def must_have_timed_out(self) -> bool:
        """Whether its client cannot be waiting any more: it has heard nothing for its own read timeout."""
        age_seconds = asyncio.get_running_loop().time() - self.opened_at
        return not self.exchange.started and age_seconds >= TIMED_OUT_SHARE * self.read_timeout_seconds


class OpenRequests:
    """The open requests whose clients said how long they read, by identity."""

    def __init__(self) -> None:
        self._open: dict[bytes, list[OpenRequest]] = {}

    def older(self, exchange: Exchange, key: bytes) -> Relay | None:
        """Return the relay of an open request that this one is a retry of."""
        if exchange.header(b"x-stainless-retry-count") in (None, b"0"):
            return None
        if exchange.header(b"idempotency-key") is not None:
            return None
        for one in self._open.get(key, ()):
            if one.relay.is_under_way and one.must_have_timed_out:
                return one.relay
        return None

    def add(self, key: bytes, exchange: Exchange, relay: Relay, read_timeout_seconds: float) -> OpenRequest:
        """Remember an open request; returns it, to be removed."""
        opened_at = asyncio.get_running_loop().time()
        one = OpenRequest(key, exchange, relay, read_timeout_seconds, opened_at)
        self._open.setdefault(key, []).append(one)
        return one

    def remove(self, one: OpenRequest) -> None:
        """Forget a request whose connection closes."""
        left = [other for other in self._open.get(one.key, ()) if other is not one]
        if left:
            self._open[one.key] = left
        else:
            self._open.pop(one.key, None)
