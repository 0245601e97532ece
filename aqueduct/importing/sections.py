"""LiteLLM's sections of settings in; what of them counts for models and processes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aqueduct.importing.backends import as_number
from aqueduct.importing.rules import LITELLM, SECTIONS, TOP, UNKNOWN, Rule, is_off
from aqueduct.importing.source import Source
from aqueduct.importing.variables import Variables, environment_name, variable_name
from shared.config_problems import Path

MASTER_TOKEN = "litellm-master"  # noqa: S105 - a name
_HERE = {"prometheus": "/metrics is there without it", "prometheus_system": "/metrics is there without it"}
_TRACES = ("otel", "opentelemetry", "arize", "langtrace", "logfire")


@dataclass
class Settings:
    """What the sections say."""

    timeout: float | None = None
    stream_timeout: float | None = None
    retries: int | None = None
    parallel: int | None = None
    removed: list[str] = field(default_factory=list)
    """Parameters that no backend is sent."""
    params: dict[str, tuple[Any, Path]] = field(default_factory=dict)
    """`default_litellm_params`, and where each stands."""
    aliases: dict[str, tuple[str, Path]] = field(default_factory=dict)
    """Alias to model."""
    fallbacks: list[tuple[str, list[str], Path]] = field(default_factory=list)
    """Model (`*`: every one), those that stand in for it, and where that is said."""
    out: dict[str, Any] = field(default_factory=dict)
    """Of our configuration: everything but models."""


def read_sections(source: Source, variables: Variables) -> Settings:
    """Read all sections but the list of models; say what became of each field."""
    settings = Settings()
    for key, value in source.data.items():
        path: Path = (key,)
        if key in SECTIONS:
            if isinstance(value, dict):
                continue
            source.add(
                path, "needless" if is_off(value) else "left", "", "is off" if is_off(value) else "holds nothing"
            )
        elif key == "environment_variables":
            _environment(source, value)
        elif key not in ("model_list", "credential_list", "include"):
            _by_rule(source, path, TOP.get(key, UNKNOWN), value)
    for name in ("litellm_settings", "router_settings", "general_settings"):  # what is read later counts
        given = source.data.get(name)
        for key, value in given.items() if isinstance(given, dict) else ():
            _read(source, settings, variables, (name, key), value)
    return settings


def _by_rule(source: Source, path: Path, rule: Rule, value: Any) -> None:
    if is_off(value) and rule.verdict != "needless":
        source.add(path, "needless", "", "is off")
    else:
        source.add(path, rule.verdict, rule.to, rule.text)


def _environment(source: Source, value: Any) -> None:
    if not isinstance(value, dict) or not value:
        source.add(("environment_variables",), "needless", "", "is empty")
        return
    for name in value:
        source.add(
            ("environment_variables", name), "left", "",
            f"set {variable_name(name)} in the environment of the processes that want it; its value is not copied",
        )  # fmt: skip


def _read(source: Source, settings: Settings, variables: Variables, path: Path, value: Any) -> None:
    """Take one setting of a section, or say by its rule why not."""
    name = str(path[1])
    rule = SECTIONS[str(path[0])].get(name, UNKNOWN)
    if is_off(value) and name != "routing_strategy":
        source.add(path, "needless", "", "is off")
        return
    taker = _TAKERS.get(name) if rule.by_code else None
    if taker is None:
        _by_rule(source, path, rule, value)
    elif (problem := taker(source, settings, variables, path, value)) is not None:
        source.add(path, "left", "", problem)


def _number(source: Source, settings: Settings, _: Variables, path: Path, value: Any) -> str | None:
    number = as_number(value)
    if number is None or (number <= 0 and path[1] not in ("num_retries", "max_retries")):
        return "comes from the environment: write the number" if environment_name(value) else "is no usable number"
    match path[1]:
        case "timeout" | "request_timeout":
            if path[1] == "request_timeout" and settings.timeout is not None and path[0] == "litellm_settings":
                source.add(path, "needless", "", "timeout counts")
                return None
            settings.timeout = number
        case "stream_timeout":
            settings.stream_timeout = number
        case "num_retries" | "max_retries":
            settings.retries = int(number)
        case "default_max_parallel_requests" | "max_parallel_requests":
            settings.parallel = max(1, int(number))
    rule = SECTIONS[str(path[0])][str(path[1])]
    source.add(path, "taken", rule.to, rule.text)
    return None


def _size(source: Source, settings: Settings, _: Variables, path: Path, value: Any) -> str | None:
    number = as_number(value)
    if not number:
        return "is no usable number"
    if path[1] == "max_request_size_mb":
        settings.out.setdefault("api", {})["max_body_bytes"] = max(1024, int(number * 1024**2))
        source.add(path, "taken", "api.max_body_bytes")
        return None
    bounded = min(max(int(number * 1024**2), 1024**2), 256 * 1024**2)
    settings.out.setdefault("worker", {})["max_answer_bytes"] = bounded
    text = "" if bounded == int(number * 1024**2) else "1 to 256 MB are possible here"
    source.add(path, "changed" if text else "taken", "worker.max_answer_bytes", text)
    return None


def _logs(source: Source, settings: Settings, _: Variables, path: Path, value: Any) -> str | None:
    if path[1] == "json_logs":
        settings.out["log_format"] = "json"
        source.add(path, "taken", "log_format")
        return None
    level = "debug" if path[1] == "set_verbose" else str(value).lower()
    if level not in ("debug", "info", "warning", "error"):
        return "must be debug, info, warning or error here"
    settings.out["log_level"] = level
    source.add(path, "taken", "log_level")
    return None


def _aliases(source: Source, settings: Settings, _: Variables, path: Path, value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must hold names, each with the model it stands for"
    for alias, target in value.items():
        model = target.get("model") if isinstance(target, dict) else target
        if not isinstance(model, str):
            source.add((*path, alias), "left", "", "names no model")
        else:
            settings.aliases[alias] = (model, (*path, alias))
    return None


def _fallbacks(source: Source, settings: Settings, _: Variables, path: Path, value: Any) -> str | None:
    if path[1] == "default_fallbacks":
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            return "must be a list of models"
        settings.fallbacks.append(("*", names, path))
        return None
    if not isinstance(value, list):
        return "must be a list"
    for index, entry in enumerate(value):
        if not isinstance(entry, dict) or not entry:
            source.add((*path, index), "left", "", "names no model")
            continue
        for model, targets in entry.items():
            names = [targets] if isinstance(targets, str) else targets
            plain = [one for one in names if isinstance(one, str)] if isinstance(names, list) else []
            if not plain:
                source.add((*path, index, model), "left", "", "names no model that stands in")
            else:
                settings.fallbacks.append((model, plain, (*path, index, model)))
    return None


def _params(source: Source, settings: Settings, _: Variables, path: Path, value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must hold parameters"
    settings.params.update({key: (one, (*path, key)) for key, one in value.items() if key != "model"})
    source.add(path, "taken", "models", "as if it stood in each deployment")
    return None


def _removed(source: Source, settings: Settings, _: Variables, path: Path, value: Any) -> str | None:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return "must be a list of parameters"
    settings.removed.extend(value)
    source.add(path, "taken", "models.NAME.parameters.removed")
    return None


def _strategy(source: Source, _settings: Settings, _: Variables, path: Path, value: Any) -> str | None:
    if is_off(value) or value == "simple-shuffle":
        source.add(path, "taken", "models.NAME.backends[].weight", "calls go by weight")
    else:
        source.add(
            path, "changed", "models.NAME.backends[].weight",
            f"{str(value)[:40]} is not there: calls go by weight among the backends that have room; "
            "`concurrency: auto` finds how much each bears, and shares by what is free",
        )  # fmt: skip
    return None


def _callbacks(source: Source, _settings: Settings, _: Variables, path: Path, value: Any) -> str | None:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list):
        return LITELLM["callbacks"].text
    for index, name in enumerate(names):
        at: Path = (*path, index) if isinstance(value, list) else path
        if not isinstance(name, str):
            source.add(at, "left", "", "names no callback")
        elif name in _HERE:
            source.add(at, "needless", "", _HERE[name])
        elif name in _TRACES:
            source.add(at, "left", "", f"{name}: traces go by OpenTelemetry's own OTEL_* variables")
        else:
            source.add(at, "left", "", LITELLM["callbacks"].text)
    return None


def _master_key(source: Source, settings: Settings, variables: Variables, path: Path, value: Any) -> str | None:
    if not isinstance(value, str):
        return "must be text"
    name = environment_name(value)
    wanted = f"{variable_name(name)}_SHA256" if name else "LITELLM_MASTER_KEY_SHA256"
    token = {"name": MASTER_TOKEN, "sha256": variables.reference(wanted, f"tokens: {MASTER_TOKEN}")}
    settings.out.setdefault("tokens", []).append(token)
    where = f'"${variable_name(name)}"' if name else "THE-KEY"
    source.add(
        path, "changed", "tokens[]",
        f"a token for requests; set {wanted}=$(printf %s {where} | sha256sum | cut -c-64). For administration: "
        "`aqueduct token create NAME --role operator`",
    )  # fmt: skip
    return None


_TAKERS = {
    **dict.fromkeys(
        (
            *("timeout", "request_timeout", "stream_timeout", "num_retries", "max_retries"),
            *("default_max_parallel_requests", "max_parallel_requests"),
        ),
        _number,
    ),
    **dict.fromkeys(("max_request_size_mb", "max_response_size_mb"), _size),
    **dict.fromkeys(("json_logs", "set_verbose", "log_level", "debug_level"), _logs),
    **dict.fromkeys(
        ("callbacks", "success_callback", "failure_callback", "service_callbacks", "service_callback"), _callbacks
    ),
    **dict.fromkeys(("fallbacks", "default_fallbacks"), _fallbacks),
    "model_group_alias": _aliases,
    "default_litellm_params": _params,
    "additional_drop_params": _removed,
    "routing_strategy": _strategy,
    "master_key": _master_key,
}
