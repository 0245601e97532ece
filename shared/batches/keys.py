"""Where in the store everything of a batch lies."""

from __future__ import annotations

import re
import secrets

import orjson

BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
_SEGMENT = re.compile(r"(\d{8})\.(\d+)\.(\d+)\.[0-9a-f]+\.jsonl")
OPEN = "open/"
"""Below it lies one key a batch that has not ended: how a process finds work when Redis knows nothing."""


NOTICES = "webhooks/"
"""Below it lies what receivers are still to be told, in a folder for each tenant."""


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


def segment(tenant: str, batch_id: str, number: int, *, before: int, count: int, writer: str) -> str:
    """Return the key of one segment of the results; they sort by number.

    It tells how many results lie before it and in it, so that a reader need not open those he has read; and of which
    feeder it is, so that of two which take themselves for the only one neither takes the other's away.
    """
    return f"{segments(tenant, batch_id)}{number:08d}.{before}.{count}.{writer}.jsonl"


def segment_number(key: str) -> int:
    """Return a segment's number."""
    return int(key.rpartition("/")[2].partition(".")[0])


def behind(listed: list[str], after: int) -> tuple[list[str], int]:
    """Return which segments hold the results behind the first `after`, and how many of theirs are to be left out.

    Their names say so as long as each goes on where the one before it ended. Where two feeders wrote at the same time
    results may stand twice, and all segments are to be read.
    """
    at = base = first = 0
    for number, key in enumerate(listed):
        found = _SEGMENT.fullmatch(key.rpartition("/")[2])
        if found is None or (int(found[1]), int(found[2])) != (number, at):
            return listed, after
        at += int(found[3])
        if at <= after:
            first, base = number + 1, at
    return listed[first:], after - base


def listed(tenant: str) -> str:
    """Return what the keys of a tenant's list of batches begin with."""
    return f"listed-batches/{tenant}/"


def listed_marker(tenant: str, created_us: int, batch_id: str) -> str:
    """Return the key that lists a batch: they sort by time, the newest first, without a look at any record."""
    return f"{listed(tenant)}{2**56 - created_us:014x}-{batch_id}"


def open_marker(batch_id: str) -> str:
    """Return the key that lies there until the batch has ended."""
    return OPEN + batch_id


def open_mark(tenant: str, expires_at: int) -> bytes:
    """Return what lies there: whose it is, and when its window ends."""
    return orjson.dumps({"tenant": tenant, "expires_at": expires_at})


def notice(tenant: str, batch_id: str) -> str:
    """Return the key that lies there until it was told that a batch has ended."""
    return f"{NOTICES}{tenant}/{batch_id}"


def notice_tenant(key: str) -> str:
    """Return whose notice lies under a key."""
    return key.split("/")[1]
