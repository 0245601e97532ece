"""The end of a batch as a webhook: what lies in the store until it is told, OpenAI's event of it, and the signature.

Signed as Standard Webhooks has it, which OpenAI's SDKs check: HMAC-SHA256 over `id.timestamp.body`. The id is the
batch's, so a receiver who is told twice can know.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from base64 import b64encode
from dataclasses import asdict, dataclass, replace
from typing import Final

import orjson

from shared.batches.record import BatchRecord

LONGEST_SECONDS: Final = 86_400
"""Of trying, from the batch's end on."""
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """That a batch has ended; lies in the store from before its end is settled until it was told."""

    batch_id: str
    type: str
    """OpenAI's name of the event, as batch.completed."""
    ended_at: int
    tries: int = 0
    due_at: float = 0.0
    """When it is tried next."""

    @classmethod
    def of(cls, record: BatchRecord) -> Notice:
        """Return the notice of a batch that has ended."""
        ended_at = getattr(record, f"{record.status}_at")
        return cls(batch_id=record.id, type=f"batch.{record.status}", ended_at=ended_at)

    def to_json(self) -> bytes:
        """Return it as the store holds it."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Notice:
        """Read what `to_json` wrote, here or in another version."""
        given = orjson.loads(data)
        return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})

    def body(self) -> bytes:
        """Return OpenAI's event, the same at every try."""
        return orjson.dumps(
            {
                "id": f"evt_{self._mark}",
                "object": "event",
                "created_at": self.ended_at,
                "type": self.type,
                "data": {"id": self.batch_id},
            }
        )

    def headers(self, key: bytes, now: float) -> bytes:
        """Return what a receiver checks the body by, as lines of a request's head."""
        name, stamp = f"wh_{self._mark}", str(int(now))
        signed = hmac.new(key, f"{name}.{stamp}.".encode() + self.body(), hashlib.sha256).digest()
        lines = {
            "content-type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{b64encode(signed).decode()}",
        }
        return "".join(f"{header}: {value}\r\n" for header, value in lines.items()).encode()

    @property
    def _mark(self) -> str:
        return self.batch_id.removeprefix("batch_")

    def after_failure(self, now: float) -> Notice | None:
        """Return it as it is tried again, later each time; None where it was tried for long enough."""
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self.tries, 20)) * random.uniform(0.8, 1.0)
        if now + pause > self.ended_at + LONGEST_SECONDS:
            return None
        return replace(self, tries=self.tries + 1, due_at=now + pause)
