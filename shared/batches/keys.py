"""Where in the store everything of a batch lies."""

from __future__ import annotations

import re
import secrets

BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
OPEN = "open/"
"""Below it lies one key a batch that has not ended: how a process finds work when Redis knows nothing."""


def new_batch_id() -> str:
    """Return an id that nobody can guess."""
    return f"batch_{secrets.token_hex(16)}"


def batches(tenant: str) -> str:
    """Return what the keys of a tenant's batches begin with."""
    return f"batches/{tenant}/"


def folder(tenant: str, batch_id: str) -> str:
    """Return what the keys of one batch begin with."""
    return f"batches/{tenant}/{batch_id}/"


def record(tenant: str, batch_id: str) -> str:
    """Return the key of the record."""
    return folder(tenant, batch_id) + "record.json"


def input_copy(tenant: str, batch_id: str) -> str:
    """Return the key of the batch's own copy of its input: the file may be deleted meanwhile."""
    return folder(tenant, batch_id) + "input"


def cancel(tenant: str, batch_id: str) -> str:
    """Return the key that says that a cancel was asked for, and when."""
    return folder(tenant, batch_id) + "cancel"


def segments(tenant: str, batch_id: str) -> str:
    """Return what the keys of the results begin with."""
    return folder(tenant, batch_id) + "results/"


def segment(tenant: str, batch_id: str, number: int) -> str:
    """Return the key of one segment of the results; they sort by number."""
    return f"{segments(tenant, batch_id)}{number:08d}.jsonl"


def listed(tenant: str) -> str:
    """Return what the keys of a tenant's list of batches begin with."""
    return f"listed-batches/{tenant}/"


def listed_marker(tenant: str, created_us: int, batch_id: str) -> str:
    """Return the key that lists a batch: they sort by time, the newest first, without a look at any record."""
    return f"{listed(tenant)}{2**56 - created_us:014x}-{batch_id}"


def open_marker(batch_id: str) -> str:
    """Return the key that lies there until the batch has ended."""
    return OPEN + batch_id
