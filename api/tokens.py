"""The Authorization header in, the token's record or a 401 out; from memory, refreshed beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from shared.catalogue import Catalogue
from shared.errors import PermissionDenied, Unauthenticated
from shared.groups import parse_groups
from shared.keys import GROUPS, TOKENS
from shared.room.limits import limits_of
from shared.room.scripts import LimitRow
from shared.token_settings import GroupSettings, TokenSettings
from shared.tokens import hash_token, parse_records

log = logging.getLogger("aqueduct.tokens")

RedisCall = Callable[..., Awaitable[Any]]
"""One Redis command: `await call("HGETALL", key)` gives a mapping or a flat list of bytes."""

_CHALLENGE = {"www-authenticate": "Bearer"}
_MALFORMED = "The Authorization header could not be understood. Send it as: Authorization: Bearer YOUR_KEY."
_UNKNOWN = "Incorrect API key provided: it is unknown or was revoked. Ask your operator for another one."
"""Begins as OpenAI's does: other gateways and clients look for these words."""
_UNKNOWN_CODE = "invalid_api_key"
_EXPIRED = "The API key has expired. Ask your operator for another one."
_GROUP_GONE = (
    "The group '{group}' of this API key is gone. Ask your operator to put it into another one: "
    "`aqueduct token set {name} --group NAME`, or `--group none`."
)
MAX_HEADER_BYTES = 4096
LOOK_SECONDS = 1.0
"""Between two looks at Redis for the sake of unknown tokens, and the longest that one may take."""


class TokenTable:
    """Static tokens from the file and created ones from Redis, by hash."""

    def __init__(self, catalogue: Catalogue, on_use: Callable[[str], object] = lambda _: None) -> None:
        """Take what holds the tokens of the file; `on_use` is called with the hash of each token let in."""
        self._catalogue = catalogue
        self._on_use = on_use
        self._groups: dict[str, GroupSettings] = {}
        self._created_groups: dict[str, GroupSettings] = {}
        self._static: dict[str, TokenSettings] = {}
        self._created: dict[str, TokenSettings] = {}
        self._dynamic: dict[str, TokenSettings] = {}
        """Of those the ones that count, in their groups."""
        self._changed()
        catalogue.follow(self._changed)
        self._call: RedisCall | None = None
        self._look: asyncio.Task[None] | None = None
        self._wanted: set[str] = set()
        """Hashes of the unknown tokens that wait for the next look."""
        self._looked_at = float("-inf")

    def _changed(self) -> None:
        settings = self._catalogue.settings
        self._groups = self._created_groups | {group.name: group for group in settings.groups}
        self._static = {record.sha256: record.within(self._groups) for record in settings.tokens}
        self.replace_dynamic(list(self._created.values()))

    async def find(self, authorization: bytes | None) -> TokenSettings:
        """Authenticate; an unknown token makes the process look in Redis first: it may have been created just now."""
        try:
            return self.authenticate(authorization)
        except Unauthenticated as error:
            if error.code != _UNKNOWN_CODE or self._call is None:
                raise
        await self._look_for(hash_token(_bearer(authorization)), self._call)
        return self.authenticate(authorization)

    async def find_hash(self, digest: str) -> TokenSettings:
        """As `find`, of the token with this hash."""
        if digest not in self._static and digest not in self._dynamic and self._call is not None:
            await self._look_for(digest, self._call)
        return self._known(digest)

    def by_name(self, name: str) -> TokenSettings | None:
        """Return the token of a name as far as this process knows; None where there is none, or its group is gone."""
        known = (*self._static.values(), *self._dynamic.values())
        return next((token for token in known if token.name == name and not token.has_lost_group), None)

    async def _look_for(self, digest: str, call: RedisCall) -> None:
        self._wanted.add(digest)
        if self._look is None:
            self._look = asyncio.create_task(self._look_once(call))
        await asyncio.shield(self._look)

    async def _look_once(self, call: RedisCall) -> None:
        """Ask for the tokens of all who wait by then, a second after the last look at the soonest."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._looked_at + LOOK_SECONDS - loop.time())
        # Who comes from here on waits for the next look: this one may miss a token that is created meanwhile.
        self._look, self._looked_at = None, loop.time()
        wanted, self._wanted = list(self._wanted), set()
        with contextlib.suppress(Exception):  # `refresh_forever` tells of it
            async with asyncio.timeout(LOOK_SECONDS):
                found = zip(wanted, await call("HMGET", TOKENS, *wanted), strict=True)
                fields = {digest.encode(): record for digest, record in found if record is not None}
                records = parse_records(fields)
                if any(record.group is not None and record.group not in self._groups for record in records):
                    await self._refresh_groups(call)
                self.replace_dynamic([*self._created.values(), *records])

    def authenticate(self, authorization: bytes | None) -> TokenSettings:
        """Return whose token the header holds; raise Unauthenticated without a word of the token.

        Raises PermissionDenied where its group is gone: with it went the limits that the token was given under.
        """
        if authorization is None or not authorization.strip():
            raise Unauthenticated(headers=_CHALLENGE)
        return self._known(hash_token(_bearer(authorization)))

    def _known(self, digest: str) -> TokenSettings:
        record = self._static.get(digest) or self._dynamic.get(digest)
        if record is None:
            raise Unauthenticated(_UNKNOWN, code=_UNKNOWN_CODE, headers=_CHALLENGE)
        if record.expires_at is not None and record.expires_at <= datetime.now(UTC):
            raise Unauthenticated(_EXPIRED, code="invalid_api_key", headers=_CHALLENGE)
        if record.has_lost_group:
            raise PermissionDenied(_GROUP_GONE.format(group=record.group, name=record.name))
        self._on_use(digest)
        return record

    def allows(self, token: TokenSettings, model_name: str) -> bool:
        """Whether the token may use the model of this name or alias. Says nothing on whether the model exists."""
        return token.may_use(model_name, self._catalogue.names)

    def limits(self) -> list[LimitRow]:
        """Return the limits of all tokens and groups that have some."""
        groups = (
            LimitRow(f"group:{name}", *one.limit_numbers) for name, one in self._groups.items() if one.limit_numbers
        )
        known = (*self._static.values(), *self._dynamic.values())
        tokens = (row for one in known for row in limits_of(one).rows)
        return [*groups, *tokens]

    def replace_dynamic(self, records: Sequence[TokenSettings]) -> None:
        """Take these as the created tokens; one that has a static token's name is left out, the file wins."""
        self._created = {record.sha256: record for record in records}
        static_names = {record.name for record in self._static.values()}
        self._dynamic = {
            record.sha256: record.within(self._groups) for record in records if record.name not in static_names
        }

    async def refresh(self, call: RedisCall) -> None:
        """Read the created tokens once; raises what `call` raises, and then keeps the last good set.

        A hash that is wholly absent was lost (a revoked last token leaves a marker), so the last good set stays too.
        """
        reply = await call("HGETALL", TOKENS)
        if not reply:
            return
        records = parse_records(reply)
        if any(record.group is not None for record in records):
            await self._refresh_groups(call)  # after them: a token names a group that there was before it
        self.replace_dynamic(records)

    async def _refresh_groups(self, call: RedisCall) -> None:
        if reply := await call("HGETALL", GROUPS):
            created: dict[str, GroupSettings] = {group.name: group for group in parse_groups(reply)}
            if created != self._created_groups:
                self._created_groups = created
                self._changed()

    async def refresh_forever(self, call: RedisCall, interval_seconds: float = 5) -> None:
        """Refresh now and every interval until cancelled; the first failure of a row is logged."""
        self._call = call
        is_failing = False
        while True:
            try:
                async with asyncio.timeout(interval_seconds):
                    await self.refresh(call)
                is_failing = False
            except Exception as error:  # the outermost edge of this task
                if not is_failing:
                    log.warning("created tokens cannot be read (%s); the last known ones stay", type(error).__name__)
                is_failing = True
            await asyncio.sleep(interval_seconds)


def _bearer(authorization: bytes | None) -> bytes:
    """Return the token of a header; raise Unauthenticated for one of another form."""
    scheme, _, token = (authorization or b"").strip().partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token or len(token.split()) > 1 or len(token) > MAX_HEADER_BYTES:
        raise Unauthenticated(_MALFORMED, headers=_CHALLENGE)
    return token
