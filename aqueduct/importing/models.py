"""LiteLLM's `model_list` in, our `models` out: deployments of one name are the backends of one model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any, Final

from aqueduct.importing.backends import SERVED_MODES, Deployment, make_backend
from aqueduct.importing.naming import Left
from aqueduct.importing.rules import DEPLOYMENT, MODEL_INFO, Rule, is_off
from aqueduct.importing.sections import Settings
from aqueduct.importing.source import Source
from aqueduct.importing.variables import Variables
from shared.config_problems import Path
from shared.settings import ModelSettings, is_usable_name

_MOST_ATTEMPTS: Final = 10
_MOST_WEIGHT: Final = 1000
WILDCARD = (
    "a wildcard: models are named here, so that each has its queue. Name those that clients use by --model, each by one"
)


@dataclass
class Group:
    """The deployments of one name."""

    name: str
    deployments: list[Deployment] = field(default_factory=list)
    standby: list[dict[str, Any]] = field(default_factory=list)
    """Backends of models that stand in for this one."""
    aliases: list[str] = field(default_factory=list)


def read_models(source: Source, settings: Settings, variables: Variables, names: Sequence[str]) -> dict[str, Any]:
    """Return `models`; `names` are models that clients use, for which a wildcard may stand."""
    entries = source.data.get("model_list")
    credentials = _credentials(source)
    groups: dict[str, Group] = {}
    wildcards: list[tuple[str, int, dict[str, Any]]] = []
    if "model_list" in source.data and not isinstance(entries, list):
        source.add(("model_list",), "left", "", "must be a list of deployments")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        path: Path = ("model_list", index)
        name = entry.get("model_name") if isinstance(entry, dict) else None
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("litellm_params"), dict)
            or not isinstance(name, str)
        ):
            source.add(path, "left", "", "must hold model_name (text) and litellm_params")
        elif "*" in name or "*" in str(entry["litellm_params"].get("model")):
            wildcards.append((name, index, entry))
        elif not is_usable_name(name):
            source.add(
                path, "left", "", "model_name must have 1 to 256 characters, no blanks and no control characters"
            )
        else:
            _add(source, settings, variables, credentials, groups, name, path, entry)
    for credential in credentials.values():
        if not credential.used:
            source.add(credential.path, "needless", "", "no deployment that was taken names it")
    _match_wildcards(source, settings, variables, credentials, groups, wildcards, names)
    _aliases(source, settings, groups)
    _fallbacks(source, settings, groups)
    return {name: _model(source, settings, group) for name, group in groups.items()}


@dataclass
class _Credential:
    values: dict[str, Any]
    path: Path
    used: bool = False


def _credentials(source: Source) -> dict[str, _Credential]:
    found: dict[str, _Credential] = {}
    given = source.data.get("credential_list")
    if "credential_list" in source.data and not isinstance(given, list):
        source.add(("credential_list",), "left", "", "must be a list")
    for index, entry in enumerate(given if isinstance(given, list) else []):
        path: Path = ("credential_list", index)
        name = entry.get("credential_name") if isinstance(entry, dict) else None
        values = entry.get("credential_values") if isinstance(entry, dict) else None
        if isinstance(name, str) and isinstance(values, dict):
            found[name] = _Credential(values, path)
        else:
            source.add(path, "left", "", "must hold credential_name and credential_values")
    return found


def _add(
    source: Source,
    settings: Settings,
    variables: Variables,
    credentials: dict[str, _Credential],
    groups: dict[str, Group],
    name: str,
    path: Path,
    entry: dict[str, Any],
) -> bool:
    """Add a deployment to the group of its name, or say why not; returns whether it was."""
    params, paths = _params(settings, credentials, path, entry["litellm_params"])
    group = groups.get(name)
    setting = f"models.{name}.backends[{len(group.deployments) if group else 0}]"
    info = entry.get("model_info")
    mode = info.get("mode") if isinstance(info, dict) else None
    credential = params.get("litellm_credential_name")
    try:
        if mode is not None and mode not in SERVED_MODES:
            raise Left(f"mode {str(mode)[:40]}: its endpoint is not served")
        if credential is not None and (not isinstance(credential, str) or credential not in credentials):
            raise Left("litellm_credential_name names no entry of credential_list; is it in LiteLLM's database?")
        deployment = make_backend(source, name, setting, params, paths, variables)
    except Left as left:
        source.add(path, "left", "", f"{name}: {left}")
        return False
    groups.setdefault(name, Group(name)).deployments.append(deployment)
    source.add((*path, "model_name"), "taken", f"models.{name}")
    if isinstance(credential, str):
        credentials[credential].used = True
        source.add(credentials[credential].path, "taken", f"{setting}")
    _describe(source, path, entry)
    return True


def _params(
    settings: Settings, credentials: dict[str, _Credential], path: Path, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return a deployment's parameters, defaults and credential in them, and where each stands."""
    values = {key: value for key, (value, _) in settings.params.items()}
    paths = {key: place for key, (_, place) in settings.params.items()}
    named = credentials.get(str(given.get("litellm_credential_name")))
    if named is not None:
        values |= named.values
        paths |= {key: (*named.path, "credential_values", key) for key in named.values}
    values |= given
    paths |= {key: (*path, "litellm_params", key) for key in given}
    paths.setdefault("model", (*path, "litellm_params"))
    return values, paths


def _describe(source: Source, path: Path, entry: dict[str, Any]) -> None:
    """Say what becomes of the rest of an entry that was taken."""
    for key, value in entry.items():
        if key in ("model_name", "litellm_params"):
            continue
        if key != "model_info" or not isinstance(value, dict):
            off = is_off(value)
            source.add((*path, key), "needless" if off else "left", "", "is off" if off else "is not known here")
            continue
        for name, one in value.items():
            rule = MODEL_INFO.get(name, Rule("needless", "", "describes the model"))
            if is_off(one) and rule.verdict == "left":
                rule = Rule("needless", "", "is off")
            source.add((*path, key, name), rule.verdict, rule.to, rule.text)


def _match_wildcards(
    source: Source,
    settings: Settings,
    variables: Variables,
    credentials: dict[str, _Credential],
    groups: dict[str, Group],
    wildcards: list[tuple[str, int, dict[str, Any]]],
    names: Sequence[str],
) -> None:
    """Make a model of each name for which a wildcard stands, the most exact one first, as LiteLLM has it."""
    matched: set[int] = set()
    for name in dict.fromkeys(names):
        if name in groups or not is_usable_name(name):
            continue
        for pattern in sorted({one for one, _, _ in wildcards}, key=len, reverse=True):
            found = re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), name)
            if found is None:
                continue
            for _, index, entry in (one for one in wildcards if one[0] == pattern):
                given = entry["litellm_params"]
                model = str(given.get("model"))
                if model.count("*") > 1 or (model.count("*") and not found.groups()):
                    continue
                named = {
                    **entry,
                    "litellm_params": {**given, "model": model.replace("*", (found.groups() or ("",))[0])},
                }
                path: Path = ("model_list", index)
                if _add(source, settings, variables, credentials, groups, name, path, named):
                    matched.add(index)
            break
    for pattern, index, _ in wildcards:
        path = ("model_list", index)
        if index in matched:
            source.add(path, "changed", "models", f"{pattern[:80]}: only the names given by --model")
        else:
            source.add(path, "left", "", f"{pattern[:80]}: {WILDCARD}")


def _aliases(source: Source, settings: Settings, groups: dict[str, Group]) -> None:
    for alias, (model, path) in settings.aliases.items():
        if model not in groups:
            source.add(path, "left", "", f"{model[:80]} was not taken")
        elif alias in groups or not is_usable_name(alias):
            source.add(path, "left", "", "is a model's name already, or has blanks")
        else:
            groups[model].aliases.append(alias)
            source.add(path, "taken", f"models.{model}.aliases")


def _fallbacks(source: Source, settings: Settings, groups: dict[str, Group]) -> None:
    for model, targets, path in settings.fallbacks:
        known = [one for one in targets if one in groups]
        meant = list(groups.values()) if model == "*" else [groups[model]] if model in groups else []
        if not meant or not known:
            source.add(path, "left", "", f"{'the model' if not meant else 'what stands in'} was not taken")
            continue
        for group in meant:
            own = [one.backend for one in group.deployments]
            for name in known:
                for one in groups[name].deployments:
                    backend = {**one.backend, "model": one.backend.get("model", name)}
                    if name != group.name and backend not in group.standby and one.backend not in own:
                        group.standby.append(backend)
        lost = sorted(set(targets) - set(known))
        source.add(
            path, "changed", f"models.{'NAME' if model == '*' else model}.backends[].weight: 0",
            "called where no other backend of the model can be; their calls count in this model's concurrency"
            + (f"; without {', '.join(lost)[:80]}" if lost else ""),
        )  # fmt: skip


def _model(source: Source, settings: Settings, group: Group) -> dict[str, Any]:
    """Return one model's settings; say what became of the numbers of its deployments."""
    model: dict[str, Any] = {}
    if group.aliases:
        model["aliases"] = group.aliases
    weights = _weights(source, group)
    parallel = [one.parallel or settings.parallel for one in group.deployments]
    if all(parallel):
        model["concurrency"] = max(1, min(100_000, sum(filter(None, parallel))))
    for key, name, general in (
        ("timeout", "timeout_seconds", settings.timeout),
        ("stream_timeout", "first_token_timeout_seconds", settings.stream_timeout),
    ):
        longest = _longest(source, group, key, name, general)
        if longest is not None:
            model[name] = longest
    retries = _retries(source, group, settings.retries)
    if retries is not None:
        model["max_attempts"] = retries
    if settings.removed:
        model["parameters"] = {"removed": list(dict.fromkeys(settings.removed))}
    backends = []
    for one, weight, cap in zip(group.deployments, weights, parallel, strict=True):
        backend = dict(one.backend)
        if weight != 1:
            backend["weight"] = weight
        if cap and len(group.deployments) > 1:
            backend["concurrency"] = cap
        elif "concurrency" in backend:
            del backend["concurrency"]  # the model's own says it
        backends.append(backend)
    model["backends"] = [*backends, *({**one, "weight": 0} for one in group.standby)]
    assert ModelSettings.model_fields.keys() >= model.keys()  # noqa: S101 - all are settings of ours
    return model


def _said(source: Source, one: Deployment, key: str, verdict: str, to: str, text: str) -> None:
    path: Path = (*one.path, "litellm_params", key)
    if path in source.places:
        source.add(path, verdict, to, text)  # type: ignore[arg-type]


def _weights(source: Source, group: Group) -> list[int]:
    """Return the weights, chosen as LiteLLM's simple-shuffle does: by weight, else rpm, else tpm of the first."""
    first = group.deployments[0].weights
    chosen = next((key for key in ("weight", "rpm", "tpm") if key in first), None)
    many = len(group.deployments) > 1
    for one in group.deployments:
        for key in one.weights:
            rule = DEPLOYMENT[key]
            if key == "weight" or (key == chosen and many):
                _said(source, one, key, rule.verdict, f"models.{group.name}.backends[].weight", rule.text)
            else:
                text = "a backend's requests are bounded by `concurrency`; limits by minute are tokens' and groups'"
                _said(source, one, key, "left", "", text)
    orders = [one.order for one in group.deployments if one.order is not None]
    least = min(orders) if orders else None
    given = [one.weights.get(chosen, 0.0) if chosen and many else 1.0 for one in group.deployments]
    given = [0.0 if one.order != least else weight for one, weight in zip(group.deployments, given, strict=True)]
    return _whole(given)


def _whole(weights: list[float]) -> list[int]:
    """Return whole numbers up to 1000 in the same proportion; one that is not 0 stays so."""
    if all(weight == int(weight) for weight in weights):
        numbers = [int(weight) for weight in weights]
        divisor = gcd(*numbers) or 1
        numbers = [number // divisor for number in numbers]
        if max(numbers) <= _MOST_WEIGHT:
            return numbers
    largest = max(weights)
    return [max(1, round(weight / largest * _MOST_WEIGHT)) if weight else 0 for weight in weights]


def _longest(source: Source, group: Group, key: str, name: str, general: float | None) -> float | None:
    given = [getattr(one, key) for one in group.deployments]
    values = [value for value in (one if one is not None else general for one in given) if value is not None]
    longest: float | None = max(values) if values else None
    for one, value in zip(group.deployments, given, strict=True):
        if value is not None:
            same = value == longest
            text = "" if same else f"one for all backends of a model, the longest: {longest:g} s"
            _said(source, one, key, "taken" if same else "changed", f"models.{group.name}.{name}", text)
    return int(longest) if longest is not None and longest == int(longest) else longest


def _retries(source: Source, group: Group, general: int | None) -> int | None:
    values = [one if one is not None else general for one in (two.retries for two in group.deployments)]
    given = [value for value in values if value is not None]
    attempts = min(max(given) + 1, _MOST_ATTEMPTS) if given else None
    for one in group.deployments:
        if one.retries is None:
            continue
        for key in ("num_retries", "max_retries"):
            exact = one.retries + 1 == attempts
            text = "and one more: the first call counts" if exact else f"one for all backends, at most 10: {attempts}"
            _said(source, one, key, "taken" if exact else "changed", f"models.{group.name}.max_attempts", text)
    return attempts
