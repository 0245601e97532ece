"""How a backend is reached, and what it is asked in: the settings below `models.NAME.backends`."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from shared.backend_headers import ForwardSettings, LaneSettings, check_headers
from shared.backend_parameters import Changes, ParameterSettings, changes_of
from shared.concurrency import OptionalConcurrency
from shared.lanes import LANES, Lane
from shared.settings_section import Section
from shared.tls_files import ca_file_problem, certificate_problem, key_problem


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
        default=1, description="Share of the calls among a model's backends; 0: only where no other can be called."
    )
    concurrency: OptionalConcurrency = Field(
        default=None,
        description="Running jobs on this backend at most; `auto` or `{min: 1, max: 256}`: found by measuring.",
    )
    metrics: Literal["vllm", "llama.cpp", "sglang", "any"] | None = Field(
        default=None,
        description="With `concurrency: auto`: whose metrics page it has; what waits inside is then kept at 0 or 1.",
    )
    metrics_url: str | None = Field(
        default=None, description="Where that page is. Default: `/metrics` at the backend's host and port."
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        default=None, description="The only one of the two that the backend knows; the other is renamed to it."
    )
    stream_options: Literal["always", "asked", "never"] = Field(
        default="always",
        description="When streams ask for usage by `stream_options`: always, so that their cost is known; as the "
        "client does; or never, for servers that refuse the member.",
    )
    parameters: ParameterSettings = Field(
        default=ParameterSettings(), description="Changes to requests, over those of the model."
    )
    by_lane: dict[Lane, LaneSettings] = Field(default={}, description="What the backend is told of a job's lane.")
    forward: ForwardSettings = Field(
        default=ForwardSettings(), description="What the backend is told of a job's token."
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

    health_path: str | None = Field(
        default=None,
        description="Path on the server that says by 200 that it is ready, as `/health` of llama.cpp and vLLM; "
        "asked only while a model with `when_absent: hold` has no backend. Default: `/models` behind `url`, any status "
        "below 500.",
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

    @field_validator("metrics_url")
    @classmethod
    def _is_a_page(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if info.data.get("metrics", "any") is None:
            raise ValueError("needs metrics beside it: vllm, llama.cpp, sglang or any")
        if not re.fullmatch(r"https?://[^/?#\s@]+(/[!-~]*)?", value) or "#" in value:
            raise ValueError("must be an http:// or https:// URL such as http://127.0.0.1:9000/metrics, without a name")
        try:
            parts = urlsplit(value)
            if not parts.hostname or parts.port == 0:
                raise ValueError
        except ValueError:
            raise ValueError("must be an http:// or https:// URL such as http://127.0.0.1:9000/metrics") from None
        return value

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
        check_headers(headers.keys(), headers.values())
        if "authorization" in headers and info.data.get("api_key") is not None:
            raise ValueError("must not hold authorization beside api_key; remove one of the two")
        return {name: SecretStr(text) for name, text in headers.items()} or None

    @field_validator("by_lane")
    @classmethod
    def _say_nothing_again(cls, value: dict[Lane, LaneSettings], info: ValidationInfo) -> dict[Lane, LaneSettings]:
        for lane, told in value.items():
            for name in told.headers or ():
                if name in (info.data.get("headers") or ()):
                    raise ValueError(f"must not send {name} in {lane}: it stands in headers; remove one of the two")
        return value

    @field_validator("forward")
    @classmethod
    def _says_nothing_again(cls, value: ForwardSettings, info: ValidationInfo) -> ForwardSettings:
        lanes: dict[Lane, LaneSettings] = info.data.get("by_lane", {})
        others = [info.data.get("headers") or {}, *(told.headers or {} for told in lanes.values())]
        if any(value.token_name in headers for headers in others):
            raise ValueError(f"must not use {value.token_name}: another setting sends this header")
        return value

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

    @field_validator("health_path")
    @classmethod
    def _is_a_path(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"/[!-\"$-~]*", value):
            raise ValueError("must be a path on the server that begins with /, as /health")
        return value

    @field_validator("http2")
    @classmethod
    def _can_be_spoken(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("proxy") and not info.data.get("url", "https://").startswith("https://"):
            raise ValueError("cannot be spoken to an http:// url through a proxy; remove one of the two")
        return value

    @cached_property
    def _changes(self) -> dict[str, Changes | None]:
        """By lane; the empty name stands for lanes that only a newer API knows. Empty where nothing is changed."""
        if not self.parameters.names and not any(lane.parameters for lane in self.by_lane.values()):
            return {}
        told: dict[str, Any] = {name: lane.parameters for name, lane in self.by_lane.items() if lane.parameters}
        lanes: dict[str, ParameterSettings] = {
            name: ParameterSettings(forced=given).over(self.parameters) for name, given in told.items()
        }
        return {lane: changes_of(lanes.get(lane, self.parameters)) for lane in ("", *LANES)}

    @cached_property
    def address(self) -> str:
        """Host and port, as logs name a backend: without what may be secret in its URL."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def changes(self, lane: str) -> Changes | None:
        """Return what becomes of the parameters of a job in this lane; None: nothing."""
        return (self._changes.get(lane) or self._changes[""]) if self._changes else None

    @property
    def changed_names(self) -> frozenset[str]:
        """Every parameter that may be changed on the way to this backend."""
        return frozenset().union(*(changes.names for changes in self._changes.values() if changes))

    def under(self, general: ParameterSettings) -> BackendSettings:
        """Return these settings over what holds for all backends of the model."""
        return self.but(parameters=self.parameters.over(general))

    def but(self, **others: Any) -> BackendSettings:
        """Return these settings with others, already valid, in the place of some."""
        own = {**self.__dict__, **others}
        return BackendSettings.model_construct(**{name: own[name] for name in BackendSettings.model_fields})
