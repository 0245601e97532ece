"""How an upload ends, once: of calls that would end it at the same time the first one's end stands, for all of them.

The end is written before what follows from it. Where a process dies between the two, the same call made again goes on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import orjson

from shared.files import FileRecord
from shared.store import Store


@dataclass(frozen=True, slots=True)
class UploadEnd:
    """Completed, with its parts and its file; or cancelled, without."""

    part_ids: list[str] = field(default_factory=list)
    file: FileRecord | None = None

    @property
    def status(self) -> str:
        """Return OpenAI's word for it."""
        return "cancelled" if self.file is None else "completed"


async def find_end(store: Store, tenant: str, upload_id: str) -> UploadEnd | None:
    """Return how an upload has ended, None where it has not."""
    raw = await store.get(_key(tenant, upload_id))
    if raw is None:
        return None
    given = orjson.loads(raw)
    return UploadEnd(given["part_ids"], FileRecord(**given["file"]) if given["file"] is not None else None)


async def settle_end(store: Store, tenant: str, upload_id: str, end: UploadEnd) -> UploadEnd:
    """Let an upload end so unless it has ended before; returns how it has."""
    if await store.create(_key(tenant, upload_id), orjson.dumps(asdict(end))):
        return end
    return await find_end(store, tenant, upload_id) or end


def _key(tenant: str, upload_id: str) -> str:
    return f"uploads/{tenant}/{upload_id}/end.json"
