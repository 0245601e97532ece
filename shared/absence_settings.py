"""What is called so that a model that sleeps starts, or an idle one stops: `wake` and `sleep` of a model."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from shared.settings_section import Section

_OWN_HEADERS: Final = ("host", "content-length", "transfer-encoding", "connection")


class HookSettings(Section):
    """One hook: an HTTP request, or a command that a worker process runs. Never anything that a request brought."""

    command: tuple[str, ...] | None = Field(
        default=None,
        description="A program and its arguments, as `[systemctl, start, llama]`, without a shell. 0 is success.",
    )
    url: str | None = Field(
        default=None,
        description="Is sent a request instead; an answer of 200 to 299 is success. Secrets belong into the headers.",
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field(default="POST", description="Of that request.")
    headers: dict[str, SecretStr] | None = Field(
        default=None, description="Of that request, as `authorization: Bearer ${NAME}`."
    )
    body: str = Field(default="", description="Of that request, as it is.")
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        default=30, description="A command that runs longer is killed with all that it started; a request is given up."
    )
    cooldown_seconds: Annotated[float, Field(gt=0, le=86_400)] = Field(
        default=120, description="Called once within so long, however many wait and however many processes there are."
    )

    @field_validator("command")
    @classmethod
    def _is_a_command(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or not value[0] or any("\0" in part for part in value)):
            raise ValueError("must be a list of a program and its arguments, as [systemctl, start, llama]")
        return value

    @field_validator("url")
    @classmethod
    def _is_one_of_two(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "command" not in info.data:
            return value  # that one's own fault is told
        if value is None and info.data["command"] is None:
            raise ValueError("is needed, or command in its place")
        if value is not None and info.data["command"] is not None:
            raise ValueError("cannot stand beside command; remove one of the two")
        if value is not None and not _is_http(value):
            raise ValueError("must be an http:// or https:// URL, without name, password or `#`")
        return value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, SecretStr] | None) -> dict[str, SecretStr] | None:
        headers = {name.lower(): text.get_secret_value().strip() for name, text in (value or {}).items()}
        if len(headers) < len(value or {}):
            raise ValueError("must not name a header twice; case does not count")
        for name, text in headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name):
                raise ValueError("must have header names before the colons, as `x-team: search`")
            if name in _OWN_HEADERS:
                raise ValueError(f"must not hold {name}: it is set for each call")
            if not text or not text.isascii() or not text.isprintable():
                raise ValueError(f"must give {name} one line of ASCII text")
        return {name: SecretStr(text) for name, text in headers.items()} or None

    @field_validator("cooldown_seconds")
    @classmethod
    def _outlasts_a_call(cls, value: float, info: ValidationInfo) -> float:
        timeout = info.data.get("timeout_seconds")
        if timeout is not None and value < timeout:
            raise ValueError(f"must not be shorter than timeout_seconds ({timeout:g}), or calls overlap")
        return value


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and parts.port != 0 and parts.username is None and not parts.fragment
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False
    return is_usable and re.fullmatch(r"https?://[!-~]+", url) is not None
