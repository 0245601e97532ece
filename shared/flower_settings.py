"""Where Flower listens, who may look, and where API processes reach it: the settings below `flower`."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from shared.settings_section import Section


class FlowerSettings(Section):
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=5555, description="Port to listen on.")
    user: str = Field(default="aqueduct", description="Name of the login.")
    password: SecretStr | None = Field(
        default=None, description="Write it as `${NAME}`. `aqueduct flower` refuses to start without."
    )
    upstream: str | None = Field(
        default=None,
        description="Where API processes reach Flower, as `http://flower:5555`: they serve it at `/flower/` to who is "
        "logged in at `/ui`. `aqueduct up` sets it.",
    )

    @field_validator("upstream")
    @classmethod
    def _is_a_server(cls, value: str | None) -> str | None:
        if not value:
            return None
        try:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or parts.username:
                raise ValueError
            if parts.path.strip("/") or parts.query or parts.fragment:
                raise ValueError
        except ValueError:
            raise ValueError("must be http:// or https://, host and port, as http://flower:5555") from None
        return value.rstrip("/")

    @field_validator("password")
    @classmethod
    def _empty_is_none(cls, value: SecretStr | None) -> SecretStr | None:
        return value or None
