"""The configuration file and the environment in, frozen `Settings` out; or every reason why not, at once.

A value is looked for in the environment (`AQUEDUCT_API__PORT` for `api.port`), then in the file, then in the defaults.
Models, groups and tokens come only from the file. A variable that is set but empty counts as not set.
"""

from __future__ import annotations

import copy
import json
import os
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from shared import config_problems as problems
from shared.config_problems import ConfigError, Problem, dotted, suggestion
from shared.config_source import Tree, fill_variables, read_tree
from shared.settings import Settings, is_usable_name

PREFIX = "AQUEDUCT_"
CONFIG_VARIABLE = "AQUEDUCT_CONFIG"
_NO_SETTINGS = {CONFIG_VARIABLE, "AQUEDUCT_TOKEN", "AQUEDUCT_URL", "AQUEDUCT_MODEL"}
"""Variables of ours that other things read: `aqueduct batch`, and the hooks that wake a model."""
FLOWER_PASSWORD: problems.Path = ("flower", "password")
_FILE_ONLY = ("models", "groups", "tokens")
_WORKERS_ONLY = {"api_key", "headers", "proxy", "ca_file", "client_certificate", "client_key"}
"""Of a backend: what those who do not call it neither need nor should hold."""
_HOOKS = ("wake", "sleep")
_KUBERNETES = re.compile(r"AQUEDUCT_(\w+_)?SERVICE_(HOST|PORT)(_\w+)?|AQUEDUCT_(\w+_)?PORT_\d+_(TCP|UDP)(_\w+)?")
"""What Kubernetes sets for a Service called `aqueduct`: not ours, and not the operator's doing."""


def config_path(path: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file to read: the one given, else the one that AQUEDUCT_CONFIG names, else None."""
    named = environ.get(CONFIG_VARIABLE)
    return path or (Path(named) if named else None)


def load_settings(
    path: Path | None,
    *,
    environ: Mapping[str, str] = os.environ,
    resolve_backend_keys: bool | Collection[str] = True,
    resolve_flower_password: bool = True,
    resolve_webhook_secrets: bool = True,
    base: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the configuration; raise ConfigError with every problem found.

    Without `path` the file is the one that AQUEDUCT_CONFIG names, if any. `resolve_backend_keys` tells for which
    models it is wanted what only those know who call a backend (`api_key`, `headers`, `proxy`, certificates): all,
    none, or those named; elsewhere it is None, and its variables and files need not exist. So with
    `resolve_flower_password=False` for Flower's, and `resolve_webhook_secrets=False` for what signs webhooks. `base`
    are values to start from in place of a file's (the demo's models); it is used only when there is no file.
    """
    file = config_path(path, environ)
    tree = _read(file) if file else Tree("", data=copy.deepcopy(dict(base or {})))
    if file:
        unwanted = _unwanted_secrets(resolve_backend_keys, resolve_flower_password, resolve_webhook_secrets)
        fill_variables(tree, environ, unwanted)
    variables = _apply_environment(tree, environ)
    if not tree.data.get("models") and ("models",) not in tree.broken:
        where = "" if file else f"; name a configuration file by --config or {CONFIG_VARIABLE}"
        tree.problem(("models",), f"at least one model is needed{where}")
    _find_clashes(tree)
    try:
        settings = Settings.model_validate(tree.data)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            _explain(tree, dict(found), variables)
    else:
        if not tree.problems:
            return settings
    raise ConfigError(sorted(tree.problems, key=lambda p: (p.variable or "", p.line or 0)))


def _read(file: Path) -> Tree:
    try:
        return read_tree(str(file), file.read_bytes())
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}", str(file))]) from None


def _unwanted_secrets(
    backend_keys: bool | Collection[str], flower_password: bool, webhook_secrets: bool
) -> Callable[[problems.Path], bool]:
    """Return what tells whether the value at a path is a secret that this process does without."""

    def is_unwanted(path: problems.Path) -> bool:
        if path == FLOWER_PASSWORD:
            return not flower_password
        if is_webhook_secret(path):
            return not webhook_secrets
        if not is_backend_key(path):
            return False
        return not backend_keys if isinstance(backend_keys, bool) else path[1] not in backend_keys

    return is_unwanted


def is_backend_key(path: problems.Path) -> bool:
    """Whether what only workers may know of a backend or a hook stands at this path; its second part is the model."""
    if len(path) < 4 or path[0] != "models":
        return False
    return (path[2] in _HOOKS and path[3] == "headers") or (
        len(path) >= 5 and path[2] == "backends" and path[4] in _WORKERS_ONLY
    )


def is_webhook_secret(path: problems.Path) -> bool:
    """Whether what signs webhooks stands at this path: only workers, which send them, may know it."""
    return len(path) == 4 and path[0] == "tokens" and path[2:] == ("webhook", "secret")


# --- environment ------------------------------------------------------------------------------------------------------


def _apply_environment(tree: Tree, environ: Mapping[str, str]) -> dict[problems.Path, str]:
    """Write the environment's values over the file's; return which path came from which variable."""
    known = {variable_of(path): (path, field) for path, field in _leaves(Settings) if path[0] not in _FILE_ONLY}
    used: dict[problems.Path, str] = {}
    for name in sorted(environ):
        text = environ[name]
        if not name.startswith(PREFIX) or name in _NO_SETTINGS or _is_kubernetes(name, text):
            continue
        if name not in known:
            tree.problems.append(Problem("", _unknown_variable(name, known), variable=name))
        elif text:
            path, field = known[name]
            try:
                value: Any = _split(text) if get_origin(_bare(field.annotation)) is tuple else text
            except ValueError as error:
                tree.problems.append(Problem("", str(error), variable=name))
                continue
            if _put(tree.data, path, value):
                used[path] = name
    return used


def _is_kubernetes(name: str, text: str) -> bool:
    is_link = name.endswith("_PORT") and text.startswith(("tcp://", "udp://"))
    return is_link or _KUBERNETES.fullmatch(name) is not None


def variable_of(path: problems.Path) -> str:
    """Return the environment variable that overrides the setting at this path."""
    return PREFIX + "__".join(str(part).upper() for part in path)


def _unknown_variable(name: str, known: Mapping[str, Any]) -> str:
    for section in _FILE_ONLY:
        if name.removeprefix(PREFIX).startswith(section.upper()):
            return f"{section} can be given only in the configuration file"
    return f"is not a setting{suggestion(name, known)}"


def _split(text: str) -> list[Any]:
    """Return a list from a variable: JSON if it begins with a bracket, else parted at commas."""
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        parsed: list[Any] = json.loads(text)
    except ValueError:
        raise ValueError('must be a JSON list such as ["a", "b"], or a,b') from None
    return parsed


def _put(data: dict[str, Any], path: problems.Path, value: Any) -> bool:
    for part in path[:-1]:
        below = data.setdefault(str(part), {})
        if not isinstance(below, dict):
            return False  # the file's own fault there is told by validation
        data = below
    data[str(path[-1])] = value
    return True


# --- findings ---------------------------------------------------------------------------------------------------------


def _explain(tree: Tree, error: dict[str, Any], variables: Mapping[problems.Path, str]) -> None:
    path: problems.Path = tuple(part for part in error["loc"] if part != "[key]")
    if any(path[: len(known)] == known for known in tree.broken) or (path == () and tree.problems):
        return
    if error["type"] == "value_error" and any(known[: len(path)] == path for known in tree.broken):
        return  # a part of it is wrong by itself and told so
    if error["type"] == "too_short" and error["input"]:
        return  # it has entries; each is wrong by itself and told so
    if error["type"] == "extra_forbidden":
        section = _section_at(path[:-1])
        reason = f"is not a setting{suggestion(str(path[-1]), section.model_fields if section else ())}"
    else:
        reason = problems.reason(error, path, show=path not in tree.filled)
    variable = variables.get(path)
    if variable:
        tree.problems.append(Problem(dotted(path), reason, variable=variable))
    else:
        tree.problem(path, reason)


def _section_at(path: problems.Path) -> type[BaseModel] | None:
    """Return the section whose keys stand at `path`."""
    annotation: Any = Settings
    for part in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation = _bare(field.annotation) if field else None
        else:  # the values of a dict, the entries of a tuple
            arguments = get_args(annotation)
            if not arguments:
                return None
            annotation = _bare(arguments[1] if get_origin(annotation) is dict else arguments[0])
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _find_clashes(tree: Tree) -> None:
    """Note names that stand twice, with both lines; validation alone would tell only the first and no line."""
    first: dict[str, problems.Path] = {}
    for path, name in _model_names(tree.data):
        if not is_usable_name(name):
            tree.problem(path, "is not a usable model name (1 to 256 characters, without blanks)")
        elif name in first:
            tree.problem(path, f"the name {name!r} is already used {_on_line(tree, first[name])}")
        else:
            first[name] = path
    for section, key, what in (("groups", "name", "group"), ("tokens", "name", "token"), ("tokens", "sha256", "token")):
        seen: dict[str, problems.Path] = {}
        for path, value in _texts(tree.data, section, key):
            if value in seen:
                known = "this sha256" if key == "sha256" else f"the name {value!r}"
                tree.problem(path, f"{known} is already used by another {what} {_on_line(tree, seen[value])}")
            seen.setdefault(value, path)
    groups = [name for _, name in _texts(tree.data, "groups", "name")]
    for path, name in _texts(tree.data, "tokens", "group"):
        if name not in groups:
            tree.problem(path, f"no group is called {name!r}{suggestion(name, groups)}; add it to `groups`")


def _texts(data: dict[str, Any], section: str, key: str) -> Iterator[tuple[problems.Path, str]]:
    """Yield each text that stands under a key of a list's entries, and where."""
    entries = data.get(section)
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        value = entry.get(key) if isinstance(entry, dict) else None
        if isinstance(value, str):
            yield (section, index, key), value


def _on_line(tree: Tree, path: problems.Path) -> str:
    line = tree.line(path)
    return f"on line {line}" if line else f"by {dotted(path)}"


def _model_names(data: dict[str, Any]) -> Iterator[tuple[problems.Path, str]]:
    models = data.get("models")
    if not isinstance(models, dict):
        return
    yield from ((("models", name), name) for name in models)
    for name, model in models.items():
        aliases = model.get("aliases") if isinstance(model, dict) else None
        for index, alias in enumerate(aliases if isinstance(aliases, list) else ()):
            if isinstance(alias, str):
                yield ("models", name, "aliases", index), alias


# --- description ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SettingRow:
    """One setting, as the README lists it."""

    name: str
    type: str
    default: str
    description: str
    variable: str
    """The environment variable that overrides it; empty where only the file may give it."""


def describe_settings() -> list[SettingRow]:
    """Return every setting in the order of the models, for documentation."""
    return [
        SettingRow(
            name=dotted(path).replace("[0]", "[]"),
            type=_type_name(field.annotation),
            default=_default_text(field),
            description=field.description or "",
            variable="" if path[0] in _FILE_ONLY else variable_of(path),
        )
        for path, field in _leaves(Settings)
    ]


def _leaves(section: type[BaseModel], above: problems.Path = ()) -> Iterator[tuple[problems.Path, FieldInfo]]:
    """Yield every setting that holds no further settings; a dict's name is `NAME`, a list's index 0."""
    for name, field in section.model_fields.items():
        path: problems.Path = (*above, name)
        annotation = _bare(field.annotation)
        arguments = [_bare(a) for a in get_args(annotation)]
        if get_origin(annotation) is dict and issubclass(arguments[1], BaseModel):
            yield from _leaves(arguments[1], (*path, "NAME"))
        elif arguments and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
            yield from _leaves(arguments[0], (*path, 0))
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _leaves(annotation, path)
        else:
            yield path, field


def _bare(annotation: Any) -> Any:
    """Return the annotation without Annotated and without None."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _bare(next(a for a in get_args(annotation) if a is not type(None)))
    return annotation


def _type_name(annotation: Any) -> str:
    annotation = _bare(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return f"names, each with {_type_name(get_args(annotation)[1])}"
    names: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", Path: "path"}
    names |= {str: "text", SecretStr: "secret text", Any: "anything"}
    return names.get(annotation, "date and time")


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
