"""Who is logged in: a random id in a cookie, and in Redis, under the id's hash, the hash of the token that it is for.

Neither the cookie nor Redis holds anything that a request could be sent with. The session lives for twelve hours; it
ends before that with its token, with the token's role, or when its owner logs out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from typing import Final

from shared import keys
from shared.redis import RedisClient

LIFE_SECONDS: Final = 12 * 3600
MAX_NOTICE: Final = 2000
_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass
class Session:
    """One of them. Every method raises RedisUnavailable or RedisRefused."""

    client: RedisClient
    id: str
    token_hash: str
    notice: str = ""

    @property
    def csrf(self) -> str:
        """What a form of this session holds: nobody can make it who does not know the id."""
        return hmac.new(self.id.encode(), b"csrf", hashlib.sha256).hexdigest()

    def is_csrf(self, given: object) -> bool:
        """Whether a form's token is that of this session."""
        return isinstance(given, str) and hmac.compare_digest(given.encode(), self.csrf.encode())

    async def say(self, notice: str) -> None:
        """Keep what the next page shows, if the session still is."""
        value = _written(self.token_hash, notice[:MAX_NOTICE])
        await self.client.call("SET", _key(self.id), value, "XX", "KEEPTTL")

    async def end(self) -> None:
        """Log out."""
        await self.client.call("DEL", _key(self.id))


async def begin(client: RedisClient, token_hash: str) -> Session:
    """Return a new session. Raises RedisUnavailable or RedisRefused."""
    session_id = secrets.token_urlsafe(32)
    await client.call("SET", _key(session_id), _written(token_hash, ""), "EX", LIFE_SECONDS)
    return Session(client, session_id, token_hash)


async def find(client: RedisClient, session_id: str) -> Session | None:
    """Return the session of a cookie; raises RedisUnavailable or RedisRefused."""
    if not _ID.fullmatch(session_id):
        return None
    value = await client.call("GET", _key(session_id))
    if value is None:
        return None
    try:
        told = json.loads(value)
        return Session(client, session_id, str(told["token"]), str(told.get("notice", "")))
    except (ValueError, KeyError, TypeError, AttributeError):  # another version's
        return None


def _key(session_id: str) -> str:
    return keys.session(hashlib.sha256(session_id.encode()).hexdigest())


def _written(token_hash: str, notice: str) -> str:
    return json.dumps({"token": token_hash, "notice": notice} if notice else {"token": token_hash})
