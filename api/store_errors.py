"""What a caller is told when the file store cannot do as it was asked."""

from __future__ import annotations

from shared.errors import CapacityError
from shared.store import StoreError, StoreFull


def store_error(error: StoreError) -> CapacityError:
    """Return the error of a request that the store has failed."""
    is_full = isinstance(error, StoreFull)
    found = CapacityError(str(error), code="storage_full" if is_full else "storage_unavailable", retry_after=30)
    found.status = 507 if is_full else 503
    return found
