"""Headers of a backend's calls as settings: what may be given, and what comes of a job's lane or token."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from pydantic import Field, field_validator

from shared.backend_parameters import checked_parameters
from shared.settings_section import Section

_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS: Final = {
    *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"),
    *("host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "x-request-id"),
}
"""What a call says of itself: another value would frame it wrongly or lose its trace."""
_FIXED_HEADERS: Final = {"authorization", "user-agent"}
"""What is the same in every call."""


def check_headers(names: Collection[str], texts: Collection[str]) -> None:
    """Raise ValueError for headers that cannot be sent, or are not for settings; names are in lower case."""
    for name, text in zip(names, texts, strict=True):
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("must have header names before the colons, as `x-team: search`")
        if name in _OWN_HEADERS:
            raise ValueError(f"must not hold {name}: it is set for each call")
        if not text or not text.isascii() or not text.isprintable():
            raise ValueError(f"must give {name} one line of ASCII text")


class LaneSettings(Section):
    """What a backend is told of a job's lane."""

    parameters: dict[str, Any] | None = Field(
        default=None,
        description="Parameters that jobs of this lane (`priority`, `default`, `flex`, `batch`) are sent with, "
        "whatever else says, as `priority: 10`.",
    )
    headers: dict[str, str] | None = Field(
        default=None, description="Headers of the calls of this lane's jobs; no secrets."
    )

    @field_validator("parameters")
    @classmethod
    def _are_parameters(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return checked_parameters(value)

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        headers = {name.lower(): text.strip() for name, text in (value or {}).items()}
        if len(headers) < len(value or {}):
            raise ValueError("must not name a header twice; case does not count")
        check_headers(headers.keys(), headers.values())
        _check_varying(headers)
        return headers or None


class ForwardSettings(Section):
    """What a backend is told of a job's token. Of the token itself nobody downstream knows anything."""

    token_name: str | None = Field(
        default=None, description="Header that carries the name of the request's token, as `x-tenant`."
    )

    @field_validator("token_name")
    @classmethod
    def _is_a_header(cls, value: str | None) -> str | None:
        name = (value or "").strip().lower()
        if not name:
            return None
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("must be the name of a header, as x-tenant")
        check_headers([name], ["x"])
        _check_varying([name])
        return name


def _check_varying(names: Collection[str]) -> None:
    for name in names:
        if name in _FIXED_HEADERS:
            raise ValueError(f"must not hold {name}: it is the same in every call; see api_key and headers")
