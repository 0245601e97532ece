"""A file's record, OpenAI's file object and whose it is; and where in the store everything of it lies."""

from __future__ import annotations

import hashlib
import re
import secrets
from builtins import bytes as Bytes
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

FILE_ID: Final = re.compile(r"file-[0-9a-f]{32}")
_MARKER: Final = re.compile(r"listed-files/([^/]+)/[0-9a-f]{14}-([0-9]{1,12})-(\w+)-(file-[0-9a-f]{32})", re.ASCII)
DAY_SECONDS: Final = 86_400
LIFETIMES: Final = {"batch": 30 * DAY_SECONDS, "batch_output": 30 * DAY_SECONDS}
"""Of files whose maker said nothing, by purpose; others stay until they are deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Everything of a file but its bytes."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    created_us: int
    expires_at: int | None = None

    def public(self) -> dict[str, Any]:
        """Return it as OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
            "expires_at": self.expires_at,
        }

    def to_json(self) -> Bytes:
        """Return it as the store holds it."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: Bytes) -> FileRecord:
        """Read what `to_json` wrote, here or in another version."""
        given = orjson.loads(data)
        return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})


def tenant_folder(token_name: str) -> str:
    """Return what stands for a token in keys: it tells nobody its name, and no name can leave its folder."""
    return hashlib.sha256(token_name.encode()).hexdigest()[:32]


def new_file_id() -> str:
    """Return an id that nobody can guess."""
    return f"file-{secrets.token_hex(16)}"


def record_key(tenant: str, file_id: str) -> str:
    """Return the key of the record."""
    return f"files/{tenant}/{file_id}/record.json"


def data_key(tenant: str, file_id: str) -> str:
    """Return the key of the bytes."""
    return f"files/{tenant}/{file_id}/data"


def listed(tenant: str = "") -> str:
    """Return what the keys of the list of a tenant's files begin with, or of all."""
    return f"listed-files/{tenant}/" if tenant else "listed-files/"


def marker(tenant: str, record: FileRecord) -> str:
    """Return the key that lists a file: they sort by time, the newest first, and tell purpose and end by themselves."""
    purpose = record.purpose.replace("-", "_")
    return f"{listed(tenant)}{2**56 - record.created_us:014x}-{record.expires_at or 0}-{purpose}-{record.id}"


@dataclass(frozen=True, slots=True)
class Listed:
    """What a marker tells."""

    key: str
    tenant: str
    expires_at: int
    purpose: str
    id: str

    @classmethod
    def of(cls, key: str) -> Listed | None:
        """Read a marker's key; None for a file that others have put there."""
        found = _MARKER.fullmatch(key)
        if found is None:
            return None
        tenant, expires_at, purpose, file_id = found.groups()
        return cls(key, tenant, int(expires_at), purpose.replace("fine_tune", "fine-tune"), file_id)
