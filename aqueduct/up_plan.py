"""What `aqueduct up` will run: the command line and environment in, a `Plan` out; nothing is started here.

Without a configuration file one is written into the data folder, for the demo backend or for the server that
`--backend` names. The token and Flower's password are made once and kept in that folder, readable by its owner only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from aqueduct.commands.common import GENERATED_CONFIG, CommandError
from shared.config import config_path, load_settings
from shared.settings import Settings
from shared.tokens import hash_token, new_token

BACKEND_KEY = "BACKEND_KEY"
CREDENTIALS = "up.json"
TOKEN_NAME = "up"  # noqa: S105 - a name, no token


@dataclass(frozen=True)
class Credentials:
    """What the banner prints, the same at every start."""

    token: str
    flower_password: str


@dataclass(frozen=True)
class Plan:
    """What to start, with which settings."""

    settings: Settings
    environment: dict[str, str]
    """For the workers; others get it less `backend_keys`."""
    backend_keys: frozenset[str]
    """Variables that only workers may see."""
    credentials: Credentials
    token_is_ours: bool
    """Whether `credentials.token` works: it does not where the file has tokens of its own."""
    demo_port: int | None
    """Where to start the demo backend, if at all."""

    def environment_for(self, name: str) -> dict[str, str]:
        """Return a child's environment; backend keys reach workers alone."""
        if name.startswith("worker"):
            return dict(self.environment)
        return {key: value for key, value in self.environment.items() if key not in self.backend_keys}


def make_plan(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Plan:
    """Read or write the configuration.

    Raises:
        ConfigError: the file or the environment is wrong.
        CommandError: the backend cannot be asked, or options exclude each other.
    """
    file = config_path(args.config, environ)
    if file and args.backend:
        raise CommandError(
            "--backend is for a start without a configuration file; name the backend in the file instead"
        )
    environment = {**environ, **_from_options(args)}
    demo_port = None
    if file is None:
        folder = Path(environment.get("AQUEDUCT_DATA_DIR") or Settings.model_fields["data_dir"].default)
        credentials = keep_credentials(folder)
        if args.backend:
            models = backend_models(args.backend, environ.get(BACKEND_KEY))
        else:
            demo_port = free_port()
            models = demo_models(demo_port)
        file = folder / GENERATED_CONFIG
        write_config(file, models, credentials.token)
        generated = True
    else:
        generated = False
    environment["AQUEDUCT_CONFIG"] = str(file.resolve())
    settings = load_settings(file, environ=environment)
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    environment["AQUEDUCT_DATA_DIR"] = str(settings.data_dir)
    credentials = keep_credentials(settings.data_dir)
    if settings.flower.password is None:
        environment["AQUEDUCT_FLOWER__PASSWORD"] = credentials.flower_password
    return Plan(
        settings=settings,
        environment=environment,
        backend_keys=backend_key_variables(file),
        credentials=credentials,
        token_is_ours=generated or not settings.tokens,
        demo_port=demo_port,
    )


def _from_options(args: argparse.Namespace) -> dict[str, str]:
    """Return the command's options as the variables that the children read."""
    given = {
        "AQUEDUCT_API__HOST": args.host,
        "AQUEDUCT_API__PORT": args.port,
        "AQUEDUCT_DATA_DIR": args.data_dir,
        "AQUEDUCT_LOG_FORMAT": args.log_format,
        "AQUEDUCT_LOG_LEVEL": args.log_level,
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def keep_credentials(folder: Path) -> Credentials:
    """Return the folder's credentials, made at the first call."""
    path = folder / CREDENTIALS
    try:
        return Credentials(**json.loads(path.read_text()))
    except FileNotFoundError:
        pass
    except (TypeError, ValueError):
        raise CommandError(f"{path} cannot be read; remove it to get a new token and Flower password") from None
    made = Credentials(token=new_token(), flower_password=secrets.token_urlsafe(16))
    write_private(path, json.dumps(vars(made)))
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


def write_config(path: Path, models: Mapping[str, Any], token: str) -> None:
    """Write a configuration file with these models and one token."""
    content = {"models": dict(models), "tokens": [{"name": TOKEN_NAME, "sha256": hash_token(token)}]}
    heading = (
        "# Written by `aqueduct up` at each start without a configuration file. Copy it to begin one of your own.\n"
    )
    write_private(path, heading + yaml.safe_dump(content, sort_keys=False))


def backend_key_variables(file: Path) -> frozenset[str]:
    """Return the variables that the file uses in backends' `api_key` and nowhere else."""
    text = file.read_text()
    inside: set[str] = set()
    used_elsewhere: set[str] = set()
    for path, value in _strings(yaml.safe_load(text)):
        names = re.findall(r"\$\{(\w+)\}", value)
        (inside if path[:1] == ("models",) and path[-1] == "api_key" else used_elsewhere).update(names)
    return frozenset(inside - used_elsewhere)


def _strings(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], str]]:
    if isinstance(value, str):
        return [(path, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in _strings(item, (*path, key))]


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in a folder of the same sort."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)


def free_port() -> int:
    """Return a loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
