"""A stored completion's record: OpenAI's object, with what can be changed of it beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.stored import keys
from shared.errors import AqueductError, ToldError
from shared.jobs import request_id
from shared.kinds.common.answers import dumps, loads


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """Everything of a stored completion but what was asked and its stream's events."""

    id: str
    expires_at: int
    model: str
    is_stream: bool
    completion: dict[str, Any] | None
    """The answer, of a failed stream what was sent of it; None where nothing was."""
    request: dict[str, Any]
    """The parameters that OpenAI shows with it."""
    metadata: dict[str, str]
    error: dict[str, Any] | None = None
    """Why it failed, as OpenAI's error object; None for one that did not."""
    status: int = 200
    trace: str | None = None
    """The context of the span that its request had, where that was traced."""

    def public(self) -> dict[str, Any]:
        """Return OpenAI's object; raises the error of one that has failed before anything was sent."""
        if self.completion is None:
            raise self.failure() or AqueductError()
        shown = {
            **self.completion,
            "request_id": request_id(self.id.removeprefix(keys.PREFIX)),
            **self.request,
            "metadata": self.metadata,
        }
        if self.error is not None:
            shown["error"] = self.error
        return shown

    def failure(self) -> ToldError | None:
        """Return why it failed, as its client was told; None for one that did not."""
        if self.error is None:
            return None
        message, type_, param, code = (self.error[name] for name in ("message", "type", "param", "code"))
        # Asking again for the same record tells the same.
        return ToldError(message, status=self.status, type=type_, code=code, param=param, should_retry=False)

    def matches(self, model: str | None, metadata: Mapping[str, str]) -> bool:
        """Whether a list with this filter shows it."""
        return (model is None or self.model == model) and metadata.items() <= self.metadata.items()

    def marker(self, tenant: str) -> str:
        """Return the key that lists it."""
        return keys.marker(tenant, self.id, self.expires_at, self.model, self.metadata)

    def to_json(self) -> bytes:
        """Return it as the store holds it."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}  # nothing is copied
        if self.trace is None:
            del told["trace"]
        return dumps(told)

    @classmethod
    def from_json(cls, data: bytes) -> StoredRecord:
        """Read what `to_json` wrote, here or in another version."""
        given = loads(data)
        return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})
