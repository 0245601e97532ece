"""Bearer tokens made at run time: records in and out of one Redis hash, with a copy in a file.

The hash `aq:tokens` maps the SHA-256 of each token to its record as JSON; the token itself is kept nowhere. A marker
field stays in the hash for good, so that a hash whose last token was revoked differs from one that Redis lost.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import redis
from pydantic import AwareDatetime, ConfigDict, ValidationError

from shared.keys import TOKEN_USES, TOKENS
from shared.private_files import read_private, write_private
from shared.token_settings import TokenSettings

log = logging.getLogger("aqueduct.tokens")

MARKER: Final = "changed_at"
MIRROR_NAME: Final = "tokens.json"
USES_KEPT_MS: Final = 365 * 86_400_000
GROUP_MARKER: Final = ":changed_at"
"""The marker in the hash of groups: no group can be called so."""
_DIGEST_LENGTH: Final = 64


class TokenNameTaken(ValueError):
    """A token of this name, or with this hash, exists already."""


class UnreadableMirror(ValueError):
    """The copy of the created tokens is there and cannot be used; the text names the file and what to do."""

    def __init__(self, path: Path, problem: str, fix: str) -> None:
        super().__init__(f"{path}: {problem}; {fix}")
        self.problem = f"{path}: {problem}"
        self.fix = fix


class StoredToken(TokenSettings):
    """The record of a created token. Fields of a newer release are ignored."""

    model_config = ConfigDict(extra="ignore")

    created_at: AwareDatetime
    created_by: str = ""
    """Who made it, as the machine knew them."""


def hash_token(token: str | bytes) -> str:
    """Return the token's SHA-256 in hex, the only form in which it is stored."""
    return hashlib.sha256(token if isinstance(token, bytes) else token.encode()).hexdigest()


def new_token() -> str:
    """Return a fresh random token: `sk-aq-` and 40 URL-safe characters (240 bits)."""
    return "sk-aq-" + secrets.token_urlsafe(30)


def parse_records(reply: Mapping[bytes, bytes] | Iterable[bytes]) -> list[StoredToken]:
    """Return the records of an HGETALL reply, a mapping or a flat list; unreadable ones are logged and left out."""
    if not isinstance(reply, Mapping):
        flat = list(reply)
        reply = dict(zip(flat[::2], flat[1::2], strict=True))
    records = []
    for digest, value in reply.items():
        if len(digest) != _DIGEST_LENGTH:
            continue
        try:
            record = StoredToken.model_validate_json(value)
        except ValidationError:
            shown = digest[:8].decode("ascii", "replace")
            log.warning("the token record %s… cannot be read; create that token again", shown)
            continue
        if record.sha256.encode() == digest:
            records.append(record)
    return sorted(records, key=lambda record: record.name)


class TokenStore:
    """The created tokens, in Redis and in `<data_dir>/tokens.json`; the client stays the caller's to close."""

    def __init__(self, client: redis.Redis, data_dir: Path) -> None:
        self._client = client
        self._mirror = data_dir / MIRROR_NAME

    def create(self, record: StoredToken) -> None:
        """Store a record; raises TokenNameTaken if its name or hash is already there."""

        def add(pipe: Any) -> None:
            for other in parse_records(pipe.hgetall(TOKENS)):
                if record.name == other.name or record.sha256 == other.sha256:
                    message = f"a token named {other.name!r} exists already; revoke it or choose another name"
                    raise TokenNameTaken(message)
            pipe.multi()
            pipe.hset(TOKENS, mapping={record.sha256: record.model_dump_json(), MARKER: now_text()})

        self._change(add)

    def list(self) -> list[StoredToken]:
        """Return every record, sorted by name."""
        return parse_records(_hash(self._client))

    def last_uses(self) -> dict[str, datetime]:
        """Return when each token was used last, a minute ago or so at best, by its hash; nothing of unused ones."""
        reply: Any = self._client.hgetall(TOKEN_USES)
        return {digest.decode(): datetime.fromtimestamp(int(at), UTC) for digest, at in reply.items()}

    def change(self, name: str, fields: Mapping[str, Any]) -> StoredToken | None:
        """Give the token of this name other values; returns it as it is now, None where there is none.

        Raises ValidationError for values that no token can have. API processes notice within 5 s.
        """
        found: list[StoredToken] = []

        def replace(pipe: Any) -> None:
            known = [record for record in parse_records(pipe.hgetall(TOKENS)) if record.name == name]
            found[:] = [StoredToken.model_validate({**record.model_dump(), **fields}) for record in known]
            pipe.multi()
            for record in found:
                pipe.hset(TOKENS, mapping={record.sha256: record.model_dump_json(), MARKER: now_text()})

        self._change(replace)
        return found[0] if found else None

    def revoke(self, name: str) -> bool:
        """Remove the token of this name; False if there is none. API processes notice within 5 s."""
        found: list[str] = []

        def remove(pipe: Any) -> None:
            found[:] = [record.sha256 for record in parse_records(pipe.hgetall(TOKENS)) if record.name == name]
            pipe.multi()
            if found:
                pipe.hdel(TOKENS, *found)
                pipe.hdel(TOKEN_USES, *found)
                pipe.hset(TOKENS, MARKER, now_text())

        self._change(remove)
        return bool(found)

    def _change(self, change: Any) -> None:
        """Run a check and its write as one; the check runs again if another command changed the hash in between."""
        restore_from_mirror(self._client, self._mirror)
        self._client.transaction(change, TOKENS)
        write_mirror(self._mirror, _hash(self._client))


def write_mirror(path: Path, fields: Mapping[bytes, bytes]) -> None:
    """Replace the file (0600, in a folder 0700) by a copy of the hash, as a whole or not at all."""
    text = json.dumps({key.decode(): value.decode() for key, value in fields.items()}, indent=1, sort_keys=True)
    write_private(path, text)


def read_mirror(path: Path, what: str = "token") -> Mapping[str, str]:
    """Return the fields of the hash of tokens, or groups, that the file holds, none if there is no file.

    Raises UnreadableMirror, or UntrustedPath where somebody else could have written it.
    """
    try:
        content = read_private(path)
        return {str(key): str(value) for key, value in dict(json.loads(content)).items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        problem, fix = f"cannot be read ({error.strerror})", "let this user read the file"
        raise UnreadableMirror(path, problem, fix) from None
    except (ValueError, TypeError):
        fix = f"remove it, and create again what `aqueduct {what} list` does not show"
        raise UnreadableMirror(path, f"is not a mirror of {what}s", fix) from None


def restore_from_mirror(client: redis.Redis, path: Path, key: str = TOKENS) -> int:
    """Fill the hash from the mirror when Redis has none; return the number of tokens, or groups, restored.

    A missing mirror restores nothing; raises as `read_mirror`.
    """
    fields = read_mirror(path, "token" if key == TOKENS else "group")
    restored = 0

    def fill(pipe: Any) -> None:
        nonlocal restored
        restored = 0 if pipe.exists(key) else sum(name not in (MARKER, GROUP_MARKER) for name in fields)
        pipe.multi()
        if restored:
            pipe.hset(key, mapping=dict(fields))

    client.transaction(fill, key)
    return restored


def _hash(client: redis.Redis) -> dict[bytes, bytes]:
    reply: Any = client.hgetall(TOKENS)
    return dict(reply)


def now_text() -> str:
    """Return the present as a marker holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
