"""Groups made at run time: records in and out of one Redis hash, with a copy in a file, as created tokens have it.

The hash `aq:groups` maps the name of each group to its record as JSON. The configuration's groups win over these.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import redis
from pydantic import AwareDatetime, ConfigDict, ValidationError

from shared.keys import GROUPS, TOKENS
from shared.token_settings import GroupSettings
from shared.tokens import GROUP_MARKER, now_text, parse_records, restore_from_mirror, write_mirror

log = logging.getLogger("aqueduct.tokens")

MIRROR_NAME: Final = "groups.json"


class GroupNameTaken(ValueError):
    """A group of this name exists already."""


class GroupInUse(ValueError):
    """Created tokens name this group; the text names them."""


class StoredGroup(GroupSettings):
    """The record of a created group. Fields of a newer release are ignored."""

    model_config = ConfigDict(extra="ignore")

    created_at: AwareDatetime
    created_by: str = ""
    """Who made it, as the machine knew them."""


def parse_groups(reply: Mapping[bytes, bytes] | Iterable[bytes]) -> list[StoredGroup]:
    """Return the records of an HGETALL reply, a mapping or a flat list; unreadable ones are logged and left out."""
    if not isinstance(reply, Mapping):
        flat = list(reply)
        reply = dict(zip(flat[::2], flat[1::2], strict=True))
    records = []
    for name, value in reply.items():
        if name == GROUP_MARKER.encode():
            continue
        try:
            record = StoredGroup.model_validate_json(value)
        except ValidationError:
            log.warning("the group record %r cannot be read; create that group again", name[:64])
            continue
        if record.name.encode() == name:
            records.append(record)
    return sorted(records, key=lambda record: record.name)


class GroupStore:
    """The created groups, in Redis and in `<data_dir>/groups.json`; the client stays the caller's to close."""

    def __init__(self, client: redis.Redis, data_dir: Path) -> None:
        self._client = client
        self._mirror = data_dir / MIRROR_NAME

    def create(self, record: StoredGroup) -> None:
        """Store a record; raises GroupNameTaken."""

        def add(pipe: Any) -> None:
            if pipe.hexists(GROUPS, record.name):
                raise GroupNameTaken(f"a group named {record.name!r} exists already; change it by `aqueduct group set`")
            pipe.multi()
            pipe.hset(GROUPS, mapping={record.name: record.model_dump_json(), GROUP_MARKER: now_text()})

        self._change(add)

    def list(self) -> list[StoredGroup]:
        """Return every record, sorted by name."""
        reply: Any = self._client.hgetall(GROUPS)
        return parse_groups(dict(reply))

    def change(self, name: str, fields: Mapping[str, Any]) -> StoredGroup | None:
        """Give the group of this name other values; returns it as it is now, None where there is none.

        Raises ValidationError for values that no group can have. API processes notice within 5 s.
        """
        found: list[StoredGroup] = []

        def replace(pipe: Any) -> None:
            known = [record for record in parse_groups(pipe.hgetall(GROUPS)) if record.name == name]
            found[:] = [StoredGroup.model_validate({**record.model_dump(), **fields}) for record in known]
            pipe.multi()
            for record in found:
                pipe.hset(GROUPS, mapping={name: record.model_dump_json(), GROUP_MARKER: now_text()})

        self._change(replace)
        return found[0] if found else None

    def delete(self, name: str) -> bool:
        """Remove the group of this name; False if there is none. Raises GroupInUse while created tokens name it."""
        found: list[bool] = []

        def remove(pipe: Any) -> None:
            members = [record.name for record in parse_records(pipe.hgetall(TOKENS)) if record.group == name]
            if members:
                raise GroupInUse(
                    f"tokens are in the group {name!r}: {', '.join(members[:10])}; put each into another by `aqueduct "
                    "token set NAME --group OTHER` (or none), or revoke it"
                )
            found[:] = [bool(pipe.hexists(GROUPS, name))]
            pipe.multi()
            if found[0]:
                pipe.hdel(GROUPS, name)
                pipe.hset(GROUPS, GROUP_MARKER, now_text())

        self._change(remove)
        return found[0]

    def _change(self, change: Any) -> None:
        """Run a check and its write as one; the check runs again if another command changed a hash in between."""
        restore_from_mirror(self._client, self._mirror, GROUPS)
        self._client.transaction(change, GROUPS, TOKENS)
        reply: Any = self._client.hgetall(GROUPS)
        write_mirror(self._mirror, dict(reply))
