"""Where the ends of a token's batches are told, and by which secret: the settings below `tokens[].webhook`."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from shared.settings_section import Section

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
_FEWEST_BYTES: Final = 24
_MOST_BYTES: Final = 64
"""As Standard Webhooks has it."""


class WebhookSettings(Section):
    """One receiver of signed webhooks in OpenAI's shape."""

    url: str = Field(
        description="Is sent a signed POST when a batch of the token has ended. Redirects are not followed."
    )
    secret: SecretStr | None = Field(
        description="Signs it; write it as `${NAME}`. `whsec_` and base64 of 24 to 64 random bytes, as from "
        "`echo whsec_$(openssl rand -base64 32)`.",
    )
    """None in processes that send nothing."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        wrong = "must be an http:// or https:// URL such as https://host/aqueduct-batches"
        try:
            parts = urlsplit(value)
            if not re.fullmatch(r"https?://[!-~]+", value) or not parts.hostname or parts.port == 0:
                raise ValueError(wrong)
        except ValueError:  # a port that is no number, a bracket that is not closed
            raise ValueError(wrong) from None
        if parts.fragment:
            raise ValueError("must have no `#`")
        return value

    @field_validator("secret")
    @classmethod
    def _can_sign(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _FEWEST_BYTES <= len(_decoded(value)) <= _MOST_BYTES:
            raise ValueError(
                f"must be {SECRET_PREFIX} and base64 of {_FEWEST_BYTES} to {_MOST_BYTES} random bytes; "
                "make one by: echo whsec_$(openssl rand -base64 32)"
            )
        return value

    def key(self) -> bytes | None:
        """Return what is signed with, None in a process that was given no secret."""
        return None if self.secret is None else _decoded(self.secret)


def _decoded(secret: SecretStr) -> bytes:
    """Return a secret's bytes, none where it is no secret of this kind."""
    text = secret.get_secret_value()
    try:
        return b64decode(text.removeprefix(SECRET_PREFIX), validate=True) if text.startswith(SECRET_PREFIX) else b""
    except (binascii.Error, ValueError):
        return b""
