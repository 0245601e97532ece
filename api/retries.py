"""Retried requests: which older request a new one joins, so that a retry never doubles the load.

The OpenAI SDKs post the same body again after a time-out, with nothing to join the two but a count. So a retry takes
over an older request of the same token and body only while that one's connection is still open in this process (equal
bodies are often independent samples); anything more needs an `Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import hashlib

from api.exchange import Exchange
from api.relay import Relay
from shared.errors import InvalidRequest
from shared.room import Idempotency
from shared.settings import TokenSettings

MAX_KEY_LENGTH = 255
TIMED_OUT_SHARE = 0.9
"""How much of the client's read timeout an open request must have lasted before its retry may take it over."""
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


class OpenRequests:
    """The requests whose connections are open, by token and body."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], Relay] = {}

    def older(
        self, exchange: Exchange, token: TokenSettings, raw: bytes, read_timeout_seconds: float | None
    ) -> Relay | None:
        """Return the relay of an open request that this one is a retry of.

        Only a request whose client must have timed out is taken over: a retry after a 429 has live equals beside it.
        """
        if exchange.header(b"x-stainless-retry-count") in (None, b"0") or read_timeout_seconds is None:
            return None
        if exchange.header(b"idempotency-key") is not None:
            return None
        relay = self._open.get((token.name, hash(raw)))
        if relay is None or relay.ended or relay.client_gone or not relay.admitted:
            return None
        age_seconds = asyncio.get_running_loop().time() - relay.opened_at
        return relay if age_seconds >= TIMED_OUT_SHARE * read_timeout_seconds else None

    def add(self, token: TokenSettings, raw: bytes, relay: Relay) -> tuple[str, int]:
        """Remember an open request; returns the key to forget it by."""
        key = (token.name, hash(raw))
        self._open[key] = relay
        return key

    def remove(self, key: tuple[str, int], relay: Relay) -> None:
        """Forget a request whose connection closes."""
        if self._open.get(key) is relay:
            del self._open[key]
