"""How many prompt tokens a token's batches wait with, and whether another batch still fits: as OpenAI limits them.

A prompt's tokens are not known before it has run. The input's bytes ÷ 4 are taken for them, as for a job's cost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from shared.batches import keys
from shared.batches.record import BatchRecord, Status, load

if TYPE_CHECKING:
    from shared.store import Store

BYTES_A_TOKEN = 4
_READ_AT_ONCE: Final = 32
"""Records of open batches, of which there may be thousands: each is a connection to the store."""


async def token_limit_problem(
    store: Store, tenant: str, record: BatchRecord, size: int, most: int
) -> dict[str, Any] | None:
    """Return why a batch must not begin now, as the batch object's `errors` have it; None where it may.

    Batches that were made earlier are in front of it, those made later are not. Raises StoreError.
    """
    ids = [key.removeprefix(keys.OPEN) for key in await store.list(keys.OPEN)]
    owned = 0
    for at in range(0, len(ids), _READ_AT_ONCE):
        some = ids[at : at + _READ_AT_ONCE]
        owned += sum(await asyncio.gather(*(_size_before(store, tenant, record, batch_id) for batch_id in some)))
    waiting, asked = owned // BYTES_A_TOKEN, size // BYTES_A_TOKEN
    if waiting + asked <= most:
        return None
    message = (
        f"Enqueued token limit reached: this batch has about {asked} prompt tokens and this token's other batches "
        f"{waiting}; it may have {most}. Try again once some batches have ended, or divide the file."
    )
    return {"code": "token_limit_exceeded", "message": message, "param": None, "line": None}


async def _size_before(store: Store, tenant: str, record: BatchRecord, batch_id: str) -> int:
    """Return the bytes of an open batch, if it is one of the same token that is in front of this one."""
    other = await load(store, tenant, batch_id)  # only the token's own are in its folder
    if other is None or other.has_ended or batch_id == record.id:
        return 0
    if other.status is Status.VALIDATING and (other.created_us, other.id) > (record.created_us, record.id):
        return 0
    return await store.size(keys.input_copy(tenant, batch_id)) or 0
