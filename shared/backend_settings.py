"""How a backend is reached, and what it is asked in: the settings below `models.NAME.backends`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from shared.settings_section import Section
from shared.tls_files import ca_file_problem, certificate_problem, key_problem

_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = {
    *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"),
    *("host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "x-request-id"),
}
"""What a call says of itself: another value would frame it wrongly or lose its trace."""


class BackendSettings(Section):
    """One OpenAI-compatible server that serves a model."""

    url: str = Field(description="Base URL, the part before `/chat/completions`, as `http://host:9000/v1`.")
    model: str | None = Field(default=None, description="What the backend calls the model. Default: the public name.")
    api_key: SecretStr | None = Field(default=None, description="Sent as a Bearer token; write it as `${NAME}`.")
    headers: dict[str, SecretStr] | None = Field(
        default=None,
        description="Further headers of every call, as `api-key: ${NAME}`; their values are kept as secret as keys.",
    )
    weight: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=1, description="Share of the calls among a model's backends."
    )
    concurrency: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Running jobs on this backend at most."
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        default=None, description="The only one of the two that the backend knows; the other is renamed to it."
    )
    stream_options: Literal["always", "asked", "never"] = Field(
        default="always",
        description="When streams ask for usage by `stream_options`: always, so that their cost is known; as the "
        "client does; or never, for servers that refuse the member.",
    )
    fold_streams: bool = Field(
        default=False,
        description="Call as a stream even for plain requests and fold the chunks, so that a cancel stops it.",
    )
    proxy: SecretStr | None = Field(
        default=None,
        description="http:// or https:// URL of the proxy that calls go through; a password in it as `${NAME}`.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authorities to believe instead of the system's, of an https:// proxy too.",
    )
    client_certificate: Path | None = Field(
        default=None, description="PEM file to show to a backend that asks who calls; chain and perhaps key in it."
    )
    client_key: Path | None = Field(
        default=None, description="PEM file of its key, without passphrase, where it is a file of its own."
    )
    http2: bool = Field(
        default=False,
        description="Speak HTTP/2: as agreed over https://, else HTTP/1.1; from the first byte over http://.",
    )

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        wrong = "must be an http:// or https:// URL such as http://127.0.0.1:9000/v1"
        if not re.fullmatch(r"https?://[^/\s]+(/[!-~]*)?", value):
            raise ValueError(wrong)
        try:
            parts = urlsplit(value)
            if not parts.hostname or parts.port == 0:
                raise ValueError(wrong)
        except ValueError:  # a port that is no number, a bracket that is not closed
            raise ValueError(wrong) from None
        if parts.query or parts.fragment:
            raise ValueError("must have no `?` and no `#`: `/chat/completions` is put at its end")
        return value.rstrip("/").removesuffix("/chat/completions")

    @field_validator("api_key")
    @classmethod
    def _is_one_line(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value().strip() if value else ""  # a file's last line end is a common companion
        if not key.isascii() or not key.isprintable():
            raise ValueError("must be one line of ASCII text")
        return SecretStr(key) if key else None

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, SecretStr] | None, info: ValidationInfo) -> dict[str, SecretStr] | None:
        headers = {name.lower(): text.get_secret_value().strip() for name, text in (value or {}).items()}
        if len(headers) < len(value or {}):
            raise ValueError("must not name a header twice; case does not count")
        for name, text in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError("must have header names before the colons, as `x-team: search`")
            if name in _OWN_HEADERS:
                raise ValueError(f"must not hold {name}: it is set for each call")
            if name == "authorization" and info.data.get("api_key") is not None:
                raise ValueError("must not hold authorization beside api_key; remove one of the two")
            if not text or not text.isascii() or not text.isprintable():
                raise ValueError(f"must give {name} one line of ASCII text")
        return {name: SecretStr(text) for name, text in headers.items()} or None

    @field_validator("proxy")
    @classmethod
    def _is_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        url = value.get_secret_value().strip() if value else ""
        if not url:
            return None
        if re.match(r"socks\w*://", url):
            raise ValueError("SOCKS proxies are not supported; give an http:// or https:// proxy")
        wrong = "must be the http:// or https:// URL of a proxy, as http://proxy.example:3128, with nothing behind it"
        if not re.fullmatch(r"https?://[!-.0-~]+/?", url):
            raise ValueError(wrong)
        try:
            parts = urlsplit(url)
            if not parts.hostname or parts.port == 0 or parts.query or parts.fragment:
                raise ValueError(wrong)
        except ValueError:
            raise ValueError(wrong) from None
        return SecretStr(url.rstrip("/"))

    @field_validator("ca_file")
    @classmethod
    def _holds_authorities(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        proxy = info.data.get("proxy")
        is_used = proxy is not None and proxy.get_secret_value().startswith("https://")
        if not is_used and not info.data.get("url", "https://").startswith("https://"):
            raise ValueError("is for https:// URLs; the backend's url is http://")
        if problem := ca_file_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("client_certificate")
    @classmethod
    def _is_shown_over_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        if not info.data.get("url", "https://").startswith("https://"):
            raise ValueError("is for https:// URLs; the backend's url is http://")
        if problem := certificate_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("client_key")
    @classmethod
    def _fits_the_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "client_certificate" not in info.data:
            return value  # that one's own fault is told
        certificate = info.data["client_certificate"]
        if certificate is None and value is not None:
            raise ValueError("needs client_certificate beside it")
        if certificate is not None and (problem := key_problem(certificate, value)):
            raise ValueError(problem)
        return value

    @field_validator("http2")
    @classmethod
    def _can_be_spoken(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("proxy") and not info.data.get("url", "https://").startswith("https://"):
            raise ValueError("cannot be spoken to an http:// url through a proxy; remove one of the two")
        return value
