"""Where in the store everything of a stored completion lies, and what the key that lists it tells by itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "chatcmpl-"
COMPLETION_ID: Final = re.compile(rf"{PREFIX}[0-9a-f]{{32}}")
_DIGITS: Final = 8
_MARKER: Final = re.compile(
    rf"listed-completions/([^/]+)/([0-9a-f]{{32}})-([0-9]{{1,12}})-([0-9a-f]{{{_DIGITS}}})-((?:[0-9a-f]{{{_DIGITS}}})*)"
)
_PART: Final = re.compile(r"completions/([^/]+)/(chatcmpl-[0-9a-f]{32})/(record\.json|messages\.json|events)")


def job_id(completion_id: str) -> str | None:
    """Return the id of the job that has made a completion; None for what is no completion's id."""
    return completion_id.removeprefix(PREFIX) if COMPLETION_ID.fullmatch(completion_id) else None


def folder(tenant: str, completion_id: str) -> str:
    """Return what the keys of one completion begin with."""
    return f"completions/{tenant}/{completion_id}/"


def record(tenant: str, completion_id: str) -> str:
    """Return the key of the record."""
    return folder(tenant, completion_id) + "record.json"


def messages(tenant: str, completion_id: str) -> str:
    """Return the key of what was asked."""
    return folder(tenant, completion_id) + "messages.json"


def events(tenant: str, completion_id: str) -> str:
    """Return the key of a stream's events, as its client got them."""
    return folder(tenant, completion_id) + "events"


def parts(key: str) -> tuple[str, str, str] | None:
    """Return tenant, completion and name of what is part of a completion; None for a file of others."""
    found = _PART.fullmatch(key)
    return None if found is None else (found[1], found[2], found[3])


def listed(tenant: str = "") -> str:
    """Return what the keys of the list of a tenant's completions begin with, or of all."""
    return f"listed-completions/{tenant}" if tenant else "listed-completions"


def fingerprint(text: str) -> str:
    """Return what stands for a text in a key; equal ones may still be of different texts."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]


def marker(tenant: str, completion_id: str, expires_at: int, model: str, metadata: Mapping[str, str]) -> str:
    """Return the key that lists a completion: they sort by time, and a filter seldom has to read a wrong one."""
    name = f"{completion_id.removeprefix(PREFIX)}-{expires_at}-{fingerprint(model)}-{_pairs(metadata)}"
    return f"{listed(tenant)}/{name}"


def _pairs(metadata: Mapping[str, str]) -> str:
    return "".join(sorted(fingerprint(f"{name}={value}") for name, value in metadata.items()))


@dataclass(frozen=True, slots=True)
class Listed:
    """What a marker tells."""

    key: str
    tenant: str
    id: str
    expires_at: int
    model: str
    pairs: frozenset[str]

    @classmethod
    def of(cls, key: str) -> Listed | None:
        """Read a marker's key; None for a file of others."""
        found = _MARKER.fullmatch(key)
        if found is None:
            return None
        tenant, digits, expires_at, model, pairs = found.groups()
        known = frozenset(pairs[at : at + _DIGITS] for at in range(0, len(pairs), _DIGITS))
        return cls(key, tenant, PREFIX + digits, int(expires_at), model, known)

    def may_match(self, model: str | None, metadata: Mapping[str, str]) -> bool:
        """Whether its record can be one that a filter looks for."""
        wanted = {fingerprint(f"{name}={value}") for name, value in metadata.items()}
        return (model is None or self.model == fingerprint(model)) and wanted <= self.pairs
