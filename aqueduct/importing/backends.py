"""One deployment of LiteLLM's `model_list` in, one backend out; or the reason why it cannot be called directly."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from aqueduct.importing.naming import Left, provider_of
from aqueduct.importing.providers import PROVIDERS, Provider
from aqueduct.importing.rules import DEPLOYMENT, PARAMETERS, UNKNOWN, Rule, is_off
from aqueduct.importing.source import Source
from aqueduct.importing.variables import Variables, environment_name, is_placeholder
from shared.backend_settings import BackendSettings
from shared.config_problems import Path, reason

SERVED_MODES: Final = ("chat", "completion", "embedding")
_PLAIN_HEADERS: Final = (
    *("accept", "content-type", "user-agent", "http-referer", "x-title", "openai-beta", "editor-version"),
    *("editor-plugin-version", "anthropic-beta", "anthropic-version"),
)
"""Headers that hold no secret; the value of any other may be one."""


FILLING: Final = "8"
"""May stand for a host, a port, a part of a path, a key."""


@dataclass
class Deployment:
    """A deployment that became a backend, and what of it counts for its model."""

    backend: dict[str, Any]
    path: Path
    weights: dict[str, float] = field(default_factory=dict)
    """By `weight`, `rpm` and `tpm`."""
    order: int | None = None
    timeout: float | None = None
    stream_timeout: float | None = None
    retries: int | None = None
    parallel: int | None = None


class _Maker:
    """Makes one backend; findings are kept until it is known that there is one."""

    def __init__(
        self, name: str, setting: str, params: dict[str, Any], paths: dict[str, Path], variables: Variables
    ) -> None:
        self.name, self.setting, self.params, self.paths, self.variables = name, setting, params, paths, variables
        self.backend: dict[str, Any] = {}
        self.said: list[tuple[Path, Rule]] = []
        self.done = {"model"}

    def say(self, key: str, verdict: str | None = None, to: str | None = None, text: str | None = None) -> None:
        """Note what became of a parameter: as its rule says, but for what is given."""
        rule = DEPLOYMENT.get(key, UNKNOWN)
        verdict = verdict or rule.verdict
        target = f"{self.setting}.{to}" if to else ""
        self.said.append((self.paths[key], Rule(verdict, target, rule.text if text is None else text)))  # type: ignore[arg-type]
        self.done.add(key)


def make_backend(
    source: Source, name: str, setting: str, params: dict[str, Any], paths: dict[str, Path], variables: Variables
) -> Deployment:
    """Return the backend of a deployment whose parameters stand at these paths; say what became of each.

    Raises Left where there is none; then nothing was said.
    """
    provider_name, model = provider_of(params)
    provider = PROVIDERS[provider_name]
    before = {key: list(value) for key, value in variables.needed.items()}, dict(variables.made)
    maker = _Maker(name, setting, params, paths, variables)
    try:
        _url(maker, provider, provider_name)
        _model(maker, provider, model)
        _key(maker, provider, provider_name)
        _headers(maker)
        _parameters(maker)
        if provider.max_tokens_field:
            maker.backend["max_tokens_field"] = provider.max_tokens_field
        deployment = Deployment(maker.backend, paths["model"][:2])
        _numbers(maker, deployment)
        _rest(maker)
        _check(maker.backend)
    except Left:
        variables.needed, variables.made = before
        raise
    for path, rule in maker.said:
        source.add(path, rule.verdict, rule.to, rule.text)
    return deployment


def _url(maker: _Maker, provider: Provider, name: str) -> None:
    key = "api_base" if not is_off(maker.params.get("api_base")) else "base_url"
    base = maker.params.get(key)
    setting = f"{maker.setting}.url"
    note = ""
    if is_off(base):
        if provider.url is None and provider.base_variable is None:
            raise Left("api_base is missing, and the provider has no URL of its own")
        url = provider.url or maker.variables.reference(str(provider.base_variable), setting)
        key = ""
    elif not isinstance(base, str):
        raise Left(f"{key} must be text")
    else:
        url, note = maker.variables.text(base.strip(), setting)
    if provider.path:
        url, more = _with_path(url, provider.path, name)
        note = note or more
    if "@" in url.partition("://")[2].partition("/")[0] and "${" not in url:
        url = maker.variables.secret(url, f"{maker.name}_URL".upper(), setting, f"{key} of {maker.name}")
        note = "holds a password: the whole URL comes from the environment"
    elif "?" in url or "#" in url:
        raise Left(f"{key} has a `?` or `#`, which a base URL cannot have here")
    maker.backend["url"] = url.rstrip("/") if "${" not in url else url
    if key:
        maker.say(key, "changed" if note else "taken", "url", note)
    for other in ("api_base", "base_url"):
        if other in maker.params and other != key:
            maker.say(other, "needless", text="is not given" if is_off(maker.params[other]) else "api_base counts")


def _with_path(url: str, path: str, name: str) -> tuple[str, str]:
    """Return a base URL with what OpenAI's protocol has behind it, and what is to be said of it."""
    if url.startswith("${") and url.endswith("}"):
        return f"{url}{path}", f"the variable must hold the URL without a slash at its end: {path} comes behind"
    if name.startswith("azure"):
        url = re.sub(r"/(openai|models)(/.*)?$", "", url.partition("?")[0].rstrip("/"))
        return f"{url}{path}", ""
    url = url.rstrip("/")
    return (url, "") if url.endswith(path) else (f"{url.removesuffix('/api')}{path}", "")


def _model(maker: _Maker, provider: Provider, model: str) -> None:
    if "*" in model:
        raise Left("is a wildcard")
    text, note = maker.variables.text(model, f"{maker.setting}.model")
    if environment_name(model) is not None:
        note = "the variable must hold the model's name alone, without the provider before it"
    if provider.prefix and not text.startswith("accounts/"):
        text = provider.prefix + text
    if text != maker.name or "${" in text:
        maker.backend["model"] = text
    maker.say("model", "changed" if note else "taken", "url and model", note)
    if "custom_llm_provider" in maker.params:
        maker.say("custom_llm_provider", "taken", "url", "")


def _key(maker: _Maker, provider: Provider, provider_name: str) -> None:
    value = maker.params.get("api_key")
    to = f"headers.{provider.key_header}" if provider.key_header else "api_key"
    setting = f"{maker.setting}.{to}"
    verdict, note = "taken", ""
    if value is None or value == "":
        for other in ("azure_ad_token", "tenant_id", "client_id"):
            if provider.key_header and not is_off(maker.params.get(other)):
                raise Left(f"{other}: {DEPLOYMENT[other].text}")
        if provider.key is None or (provider_name in ("openai", "text-completion-openai") and _has_base(maker)):
            text = ""
        else:
            text = maker.variables.reference(provider.key, setting)
        if "api_key" in maker.params:
            maker.say("api_key", "needless", text="is not given")
    elif environment_name(value) is not None or (isinstance(value, str) and value.startswith("${")):
        text, note = maker.variables.text(value, setting)
        maker.say("api_key", "changed" if note else verdict, to, note)
    elif not isinstance(value, str):
        raise Left("api_key must be text")
    elif is_placeholder(value):
        text = ""
        maker.say("api_key", "needless", text="is a placeholder: no key is sent")
    else:
        text = maker.variables.secret(value, f"{maker.name}_API_KEY".upper(), setting, f"api_key of {maker.name}")
        maker.say("api_key", "changed", to, f"the key itself is not copied: put it into {text[2:-1]}")
    if text and provider.key_header:
        maker.backend["headers"] = {provider.key_header: text}
    elif text:
        maker.backend["api_key"] = text


def _has_base(maker: _Maker) -> bool:
    return not is_off(maker.params.get("api_base")) or not is_off(maker.params.get("base_url"))


def _headers(maker: _Maker) -> None:
    headers: dict[str, str] = maker.backend.get("headers", {})
    organization = maker.params.get("organization")
    if isinstance(organization, str) and organization:
        headers["openai-organization"] = maker.variables.text(organization, f"{maker.setting}.headers")[0]
        maker.say("organization", "taken", "headers.openai-organization")
    for key in ("extra_headers", "headers"):
        given = maker.params.get(key)
        if not isinstance(given, dict) or not given:
            continue
        moved = False
        for name, value in given.items():
            setting = f"{maker.setting}.headers.{name.lower()}"
            if name.lower() in headers:
                continue
            if environment_name(value) is not None or name.lower() in _PLAIN_HEADERS:
                headers[name.lower()] = maker.variables.text(value, setting)[0]
            elif not is_off(value):
                moved = True
                wanted = f"{maker.name}_{name}".upper()
                headers[name.lower()] = maker.variables.secret(str(value), wanted, setting, f"{key} of {maker.name}")
        text = "values that may be secret are not copied: they come from the environment" if moved else ""
        maker.say(key, "changed" if moved else "taken", "headers", text)
    if "authorization" in headers:
        maker.backend.pop("api_key", None)
    if headers:
        maker.backend["headers"] = headers


def _parameters(maker: _Maker) -> None:
    removed = maker.params.get("additional_drop_params")
    names = [one for one in removed if isinstance(one, str)] if isinstance(removed, list) else []
    plain = [one for one in names if re.fullmatch(r"[A-Za-z0-9_]+", one)]
    if names:
        text = "" if len(plain) == len(names) else "whole parameters only, no paths inside of them"
        maker.say("additional_drop_params", "changed" if text else "taken", "parameters.removed", text)
    defaults: dict[str, Any] = {}
    body = maker.params.get("extra_body")
    given = {key: value for key, value in maker.params.items() if key in PARAMETERS and value is not None}
    for key, value in given.items():
        if _is_default(key, value, defaults):
            defaults[key] = _plain(maker, value)
            maker.say(key, "taken", f"parameters.defaults.{key}", "")
        else:
            maker.say(key, "left", text="cannot be a default here")
    if isinstance(body, dict) and body:
        kept = {key: _plain(maker, value) for key, value in body.items() if _is_default(key, value, defaults)}
        text = "" if len(kept) == len(body) else f"without {', '.join(sorted(set(body) - set(kept)))}"
        defaults.update(kept)
        maker.say("extra_body", "changed" if text else "taken", "parameters.defaults", text)
    for name in plain:
        defaults.pop(name, None)
    changes: dict[str, Any] = {"defaults": defaults} if defaults else {}
    if plain:
        changes["removed"] = plain
    if changes:
        maker.backend["parameters"] = changes


def _is_default(key: str, value: Any, others: dict[str, Any]) -> bool:
    limits = ("max_tokens", "max_completion_tokens")
    if key in limits and (type(value) is not int or value < 1 or any(one in others for one in limits)):
        return False
    try:
        BackendSettings.model_validate({"url": "http://x", "parameters": {"defaults": {key: value}}})
    except ValidationError:
        return False
    return re.search("key|secret|token$|password|credential", key) is None


def _plain(maker: _Maker, value: Any) -> Any:
    """Return a value as our file has it: references filled in, the characters `${` escaped."""
    if isinstance(value, dict):
        return {key: _plain(maker, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(maker, one) for one in value]
    return maker.variables.text(value, f"{maker.setting}.parameters")[0] if isinstance(value, str) else value


def _numbers(maker: _Maker, deployment: Deployment) -> None:
    """Take what counts for the model: weights, order, limits; the model's own findings are said by its maker."""
    for key in ("weight", "rpm", "tpm"):
        number = as_number(maker.params.get(key))
        if number is not None and number >= 0:
            deployment.weights[key] = number
            maker.done.add(key)
    order = as_number(maker.params.get("order"))
    if order is not None:
        deployment.order = int(order)
        maker.say("order", "taken", "weight")
    for key, field_name in (("timeout", "timeout"), ("stream_timeout", "stream_timeout")):
        number = as_number(maker.params.get(key))
        if number:
            setattr(deployment, field_name, number)
            maker.done.add(key)
    for key in ("num_retries", "max_retries"):
        number = as_number(maker.params.get(key))
        if number is not None and number >= 0:
            deployment.retries = max(deployment.retries or 0, int(number))
            maker.done.add(key)
    parallel = as_number(maker.params.get("max_parallel_requests"))
    if parallel is not None and parallel >= 1:
        deployment.parallel = int(parallel)
        maker.backend["concurrency"] = int(parallel)
        maker.say("max_parallel_requests", "taken", "concurrency")


def as_number(value: object) -> float | None:
    """Return a number that may stand as text, None where it is none or too large to be meant."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number <= 1e9 else None


def _rest(maker: _Maker) -> None:
    for key, value in maker.params.items():
        if key in maker.done:
            continue
        rule = DEPLOYMENT.get(key, UNKNOWN)
        if rule.by_code and rule.verdict != "needless" and not is_off(value):
            wrong = "comes from the environment: write the number" if environment_name(value) else "is not usable"
            maker.say(key, "left", text=wrong)
        elif is_off(value):
            maker.say(key, "needless", text="is off")
        elif key.endswith(("_cost_per_token", "_cost_per_second", "_cost", "_cost_per_query", "_cost_per_image")):
            maker.say(key, "needless", text="money is not counted")
        elif key.startswith(("aws_", "vertex_", "s3_", "watsonx_", "azure_")) and key not in DEPLOYMENT:
            maker.say(key, "needless", text="this provider does not use it")
        elif rule is UNKNOWN:
            text = "is not known here; if it is a parameter of requests, write it under parameters: defaults:"
            maker.say(key, "left", text=text)
        else:
            maker.say(key, rule.verdict)


def _check(backend: dict[str, Any]) -> None:
    """Raise Left where our settings do not take the backend; references count as filled."""
    filled = _filled(backend)
    filled["url"] = _filled(backend["url"], first="http://host")
    try:
        BackendSettings.model_validate(filled)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        path: Path = tuple(found["loc"])
        raise Left(f"{path[0]} {reason(dict(found), path, show=False)}") from None


def _filled(value: Any, first: str = FILLING) -> Any:
    """Return a value with something in the place of each reference; `first` stands for one that begins it."""
    if isinstance(value, dict):
        return {key: _filled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one) for one in value]
    if not isinstance(value, str):
        return value
    return re.sub(
        r"\$\$\{|\$\{[^}]*\}",
        lambda found: "${" if found[0] == "$${" else first if found.start() == 0 else FILLING,
        value,
    )
