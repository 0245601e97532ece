"""`aqueduct check`: the configuration file, Redis and every backend looked at; one line each, and what to mend."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import click

from aqueduct.commands.common import config_option, data_dir_option, needed_config_file
from aqueduct.commands.redis_choice import running_redis_url
from aqueduct.errors import CommandError
from aqueduct.probing.lookup import backend_check
from aqueduct.probing.probe import probe
from shared.backend_settings import BackendSettings
from shared.config import load_settings
from shared.config_problems import ConfigError, Problem, suggestion
from shared.groups import MIRROR_NAME as GROUPS_MIRROR_NAME
from shared.logging import escaped
from shared.private_files import UntrustedPath
from shared.redis_checks import Check, redis_checks
from shared.redis_sync import connect
from shared.settings import ModelSettings, Settings
from shared.store import Store, StoreError, open_store
from shared.tokens import MIRROR_NAME, UnreadableMirror, read_mirror
from shared.tracing.switch import INSTALL, exporters_wanted, is_installed


@click.command("check", help=__doc__)
@config_option
@data_dir_option
@click.option(
    "--probe",
    "probes",
    is_flag=True,
    help="Send backends small requests too, a token each: what do they refuse?",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON list.")
def command(config: Path | None, as_json: bool, probes: bool) -> int:
    """Print every finding; 0 if none failed, else 1."""
    checks = list(_all_checks(config, probes=probes))
    if as_json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            print(line(check))
        sys.stdout.flush()
    return 1 if any(check.status == "fail" for check in checks) else 0


def line(check: Check) -> str:
    """Return what a person sees of a finding: always one line."""
    status = "FAIL" if check.status == "fail" else check.status
    fix = f". Fix: {check.fix}" if check.fix else ""
    return escaped(f"{status:<4}  {check.name}: {check.message}{fix}")  # a backend had a hand in it


def _all_checks(config: Path | None, *, probes: bool) -> Iterable[Check]:
    try:
        path = needed_config_file(config)
    except CommandError as error:
        yield Check("configuration", "fail", str(error))
        return
    try:
        settings = load_settings(path)
        missing: list[Problem] = []
    except ConfigError as error:
        found = _without_secrets(path, error)
        if found is None:
            yield from (Check("configuration", "fail", str(problem)) for problem in error.problems)
            return
        settings, missing = found, error.problems
    backends = sum(len(model.backends) for model in settings.models.values())
    counts = f"{len(settings.models)} models, {backends} backends, {len(settings.tokens)} static tokens"
    yield Check("configuration", "ok", f"{path}: {counts}")
    for problem in missing:
        yield Check(
            "configuration", "warn", str(problem), "set it where it is needed: workers need keys, Flower its own"
        )
    yield from _token_checks(settings)
    yield from _mirror(settings)
    yield from _redis(settings)
    yield from _storage(settings)
    yield from _traces()
    yield from _backends(settings, path if missing else None, probes=probes)


def _without_secrets(path: Path, error: ConfigError) -> Settings | None:
    """Return the settings without backend keys and Flower's password where only these are not set here, else None."""
    if not all(problem.missing_variable for problem in error.problems):
        return None
    with contextlib.suppress(ConfigError):
        return load_settings(
            path, resolve_backend_keys=False, resolve_flower_password=False, resolve_webhook_secrets=False
        )
    return None


def _token_checks(settings: Settings) -> Iterable[Check]:
    known = settings.public_names()
    for token in settings.tokens:
        for name in token.models:
            if name != "*" and name not in known:
                message = f"may use {name!r}, but no model is called so{suggestion(name, known)}"
                yield Check(f"token {token.name}", "warn", message, "mend the name, or remove it")


def _mirror(settings: Settings) -> Iterable[Check]:
    for name, what in ((MIRROR_NAME, "token"), (GROUPS_MIRROR_NAME, "group")):
        try:
            read_mirror(settings.data_dir / name, what)
        except UnreadableMirror as error:
            yield Check(f"created {what}s", "fail", error.problem, error.fix)
        except UntrustedPath as error:
            yield Check(f"created {what}s", "fail", str(error))


def _storage(settings: Settings) -> Iterable[Check]:
    url = settings.storage.url
    if url is None:
        return
    fix = "mend storage.url, the rights to it, or its credentials in the environment"
    try:
        asyncio.run(_try_store(open_store(url)))
    except UntrustedPath as error:
        yield Check("storage", "fail", str(error))
    except StoreError as error:
        yield Check("storage", "fail", str(error), fix)
    else:
        yield Check("storage", "ok", f"{urlsplit(url).scheme}:// can be written, read and emptied")


def _traces() -> Iterable[Check]:
    try:
        exporters = exporters_wanted(os.environ)
    except ValueError as error:
        yield Check("traces", "warn", f"there will be none: {error}")
        return
    if exporters and not is_installed():
        yield Check("traces", "warn", "OTEL_* variables ask for them, and what makes them is not installed", INSTALL)
    elif exporters:
        yield Check("traces", "ok", f"{' and '.join(exporters)}, as the OTEL_* variables here say")


async def _try_store(store: Store) -> None:
    key = f"checks/{secrets.token_hex(8)}"
    await store.put(key, b"x")
    await store.get(key)
    await store.delete(key)


def _redis(settings: Settings) -> Iterable[Check]:
    try:
        url = running_redis_url(settings)
    except UntrustedPath as error:
        return [Check("redis", "fail", str(error))]
    if url is None:
        return [Check("redis", "ok", "redis_url is not set: `aqueduct up` starts a server of its own")]
    with connect(url) as client:
        checks = redis_checks(client)
    if settings.redis_url is None and checks[0].name == "redis":
        return [Check("redis", "ok", "redis_url is not set and `aqueduct up` is not running here")]
    return checks


def _backends(settings: Settings, reread: Path | None, *, probes: bool) -> Iterable[Check]:
    """Ask every backend; with a file to read again, those of the models whose keys are all set here."""
    models = {name: _with_keys(name, reread) if reread else model for name, model in settings.models.items()}
    asked = [(name, model, backend) for name, model in models.items() if model for backend in model.backends]
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(lambda one: _of_backend(*one, probes=probes), asked):
            yield from found


def _of_backend(name: str, model: ModelSettings, backend: BackendSettings, *, probes: bool) -> list[Check]:
    listed = backend_check(name, backend)
    return [listed, *probe(name, model, backend)] if probes else [listed]


def _with_keys(name: str, path: Path) -> ModelSettings | None:
    """Return one model with its backends' keys, or None where one of them is not set."""
    try:
        return load_settings(
            path, resolve_backend_keys=[name], resolve_flower_password=False, resolve_webhook_secrets=False
        ).models[name]
    except ConfigError:
        return None
