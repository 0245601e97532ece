"""What `aqueduct up` will run: the command line and environment in, a `Plan` out; nothing is started here.

Without a configuration file one is written into the data folder, for the demo backend or for the server that
`--backend` names. The token and Flower's password are made once and kept in that folder, readable by its owner only.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import yaml

from aqueduct.commands.common import GENERATED_CONFIG, UP_FILES, Overrides
from aqueduct.errors import WRONG_USAGE, CommandError
from aqueduct.ports import free_port
from shared.config import FLOWER_PASSWORD, config_path, is_backend_key, is_webhook_secret, load_settings, variable_of
from shared.config_problems import Path as SettingPath
from shared.private_files import private_folder, read_private, write_private
from shared.settings import Settings
from shared.tokens import hash_token, new_token

BACKEND_KEY = "BACKEND_KEY"
CREDENTIALS = "up.json"
OPERATOR_CREDENTIAL = "up-operator.txt"
"""Apart from the others, so that an older version can still read those."""
TOKEN_NAME = "up"  # noqa: S105 - a name, no token
OPERATOR_NAME = "up-operator"


@dataclass(frozen=True)
class Credentials:
    """What the banner prints, the same at every start."""

    token: str
    flower_password: str
    operator_token: str
    """For the status page and `/admin/v1`: what clients are given sends requests and no more."""

    def tokens(self) -> list[dict[str, str]]:
        """Return the two as the settings have them."""
        return [
            {"name": TOKEN_NAME, "sha256": hash_token(self.token)},
            {"name": OPERATOR_NAME, "sha256": hash_token(self.operator_token), "role": "operator"},
        ]


@dataclass(frozen=True)
class Secret:
    """Who needs a variable that holds a secret: the workers of some models, all workers, Flower."""

    models: frozenset[str] = frozenset()
    flower: bool = False
    webhooks: bool = False
    """Every worker may send them."""

    def is_for(self, models: Collection[str], flower: bool) -> bool:
        """Whether a worker for these models needs it, where there are any, or Flower."""
        return not self.models.isdisjoint(models) or (flower and self.flower) or (self.webhooks and bool(models))


@dataclass(frozen=True)
class Plan:
    """What to start, with which settings."""

    settings: Settings
    environment: dict[str, str]
    """For all children together; each gets its own part of the secrets in it."""
    secrets: dict[str, Secret]
    """Variables that only some children may see."""
    credentials: Credentials
    token_is_ours: bool
    """Whether `credentials.token` works: it does not where the file has tokens of its own."""
    demo_port: int | None
    """Where to start the demo backend, if at all."""

    def environment_for(self, *, models: Collection[str] = (), flower: bool = False) -> dict[str, str]:
        """Return the environment of a child: of a worker for these models, of Flower, or of one without secrets."""
        hidden = {name for name, secret in self.secrets.items() if not secret.is_for(models, flower)}
        return {name: value for name, value in self.environment.items() if name not in hidden}


def renewed(plan: Plan, settings: Settings) -> Plan:
    """Return the plan with the settings of a file that was read again, and the secrets that stand in it now."""
    secrets = secrets_of(Path(plan.environment["AQUEDUCT_CONFIG"]))
    return replace(plan, settings=settings, secrets=plan.secrets | secrets)


def make_plan(
    config: Path | None, overrides: Overrides, *, backend: str | None = None, environ: Mapping[str, str] = os.environ
) -> Plan:
    """Read the configuration, or write one where there is none.

    Raises:
        ConfigError: the file or the environment is wrong.
        CommandError: the backend cannot be asked, or options exclude each other.
        UntrustedPath: the data folder, or what lies in it, belongs to somebody else.
    """
    file = config_path(config, environ)
    if file and backend:
        raise CommandError(
            "--backend is for a start without a configuration file; name the backend in the file instead",
            status=WRONG_USAGE,
        )
    environment = {**environ, **overrides}
    demo_port = None
    generated = file is None
    if file is None:
        folder = Path(environment.get("AQUEDUCT_DATA_DIR") or Settings.model_fields["data_dir"].default)
        if backend:
            models = backend_models(backend, environ.get(BACKEND_KEY))
        else:
            demo_port = free_port()
            models = demo_models(demo_port)
        file = folder / GENERATED_CONFIG
        write_config(file, models, keep_credentials(folder))
    environment["AQUEDUCT_CONFIG"] = str(file.resolve())
    settings = load_settings(file, environ=environment)
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    environment["AQUEDUCT_DATA_DIR"] = str(settings.data_dir)
    if settings.storage.url is None:
        environment["AQUEDUCT_STORAGE__URL"] = (settings.data_dir / UP_FILES).as_uri()
    credentials = keep_credentials(settings.data_dir)
    if settings.flower.password is None:
        environment[variable_of(FLOWER_PASSWORD)] = credentials.flower_password
    return Plan(
        settings=settings,
        environment=environment,
        secrets=secrets_of(file) | {variable_of(FLOWER_PASSWORD): Secret(flower=True)},
        credentials=credentials,
        # A Redis that others look after gets no token of ours.
        token_is_ours=generated or (not settings.tokens and settings.redis_url is None),
        demo_port=demo_port,
    )


def keep_credentials(folder: Path) -> Credentials:
    """Return the folder's credentials, made at the first call."""
    path = private_folder(folder) / CREDENTIALS
    operator_token = _kept_operator_token(path.with_name(OPERATOR_CREDENTIAL))
    try:
        return Credentials(**json.loads(read_private(path)), operator_token=operator_token)
    except FileNotFoundError:
        pass
    except (TypeError, ValueError):
        raise CommandError(f"{path} cannot be read; remove it to get a new token and Flower password") from None
    made = {"token": new_token(), "flower_password": secrets.token_urlsafe(16)}
    write_private(path, json.dumps(made))
    return Credentials(**made, operator_token=operator_token)


def _kept_operator_token(path: Path) -> str:
    try:
        if kept := read_private(path).strip():
            return kept
    except FileNotFoundError:
        pass
    made = new_token()
    write_private(path, made)
    return made


def demo_models(port: int) -> dict[str, Any]:
    """Return the demo backend's models as in a configuration file."""
    from aqueduct.demo.options import PRESETS  # noqa: PLC0415 - not needed with a backend of one's own

    return {name: {"backends": [{"url": f"http://127.0.0.1:{port}/v1"}]} for name in PRESETS}


def backend_models(url: str, key: str | None) -> dict[str, Any]:
    """Ask an OpenAI-compatible server for its models; return them as in a configuration file.

    Raises:
        CommandError: it does not answer with a list of models; the message tells what to look at.
    """
    url = url.rstrip("/")
    if not re.match(r"https?://[^/\s]+", url):
        raise CommandError(f"--backend {url}: must be a URL such as http://127.0.0.1:9000/v1")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{url}/models", headers=headers, timeout=10, follow_redirects=True)
    except httpx.HTTPError as error:
        raise CommandError(
            f"--backend {url}: cannot be reached ({str(error) or type(error).__name__}). Is it running?"
        ) from None
    if answer.status_code in {401, 403}:
        raise CommandError(
            f"--backend {url}: refuses the key (status {answer.status_code}). Put it into {BACKEND_KEY}."
        )
    try:
        names = [entry["id"] for entry in answer.raise_for_status().json()["data"]]
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
        hint = "" if url.endswith("/v1") else " Does the URL have to end in /v1?"
        raise CommandError(
            f"--backend {url}: no list of models at {url}/models (status {answer.status_code}).{hint}"
        ) from None
    if not names:
        raise CommandError(f"--backend {url}: it lists no model. Load one there first.")
    backend = {"url": url} | ({"api_key": f"${{{BACKEND_KEY}}}"} if key else {})
    return {name: {"backends": [dict(backend)]} for name in names}


def write_config(path: Path, models: Mapping[str, Any], credentials: Credentials) -> None:
    """Write a configuration file with these models and the tokens of these credentials."""
    content = {"models": dict(models), "tokens": credentials.tokens()}
    heading = (
        "# Written by `aqueduct up` at each start without a configuration file. Copy it to begin one of your own.\n"
    )
    write_private(path, heading + yaml.safe_dump(content, sort_keys=False))


def secrets_of(file: Path) -> dict[str, Secret]:
    """Return the variables that the file uses for workers' secrets or Flower's password, and nowhere else."""
    text = file.read_text(encoding="utf-8-sig")
    found: dict[str, Secret] = {}
    used_elsewhere: set[str] = set()
    for path, value in _strings(yaml.safe_load(text)):
        for name in re.findall(r"\$\{(\w+)", value):
            known = found.get(name, Secret())
            if is_backend_key(path):
                found[name] = replace(known, models=known.models | {str(path[1])})
            elif path == FLOWER_PASSWORD:
                found[name] = replace(known, flower=True)
            elif is_webhook_secret(path):
                found[name] = replace(known, webhooks=True)
            else:
                used_elsewhere.add(name)
    return {name: secret for name, secret in found.items() if name not in used_elsewhere}


def _strings(value: Any, path: SettingPath = ()) -> list[tuple[SettingPath, str]]:
    if isinstance(value, str):
        return [(path, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in _strings(item, (*path, key))]
