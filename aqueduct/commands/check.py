"""`aqueduct check`: the configuration file, Redis and every backend looked at; one line each, and what to mend."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import click
import httpx

from aqueduct.commands.common import config_file_here, config_option
from aqueduct.commands.redis_choice import running_redis_url
from shared.backend_settings import BackendSettings
from shared.config import load_settings
from shared.config_problems import ConfigError, Problem, suggestion
from shared.private_files import UntrustedPath
from shared.redis_checks import Check, redis_checks
from shared.redis_sync import connect
from shared.settings import ModelSettings, Settings
from shared.tls_files import client_context, system_context
from shared.tokens import MIRROR_NAME, UnreadableMirror, read_mirror

BACKEND_TIMEOUT_SECONDS = 5.0


@click.command("check", help=__doc__)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON list.")
def command(config: Path | None, as_json: bool) -> int:
    """Print every finding; 0 if none failed, else 1."""
    checks = list(_all_checks(config_file_here(config)))
    if as_json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            print(_line(check))
        sys.stdout.flush()
    return 1 if any(check.status == "fail" for check in checks) else 0


def _line(check: Check) -> str:
    status = "FAIL" if check.status == "fail" else check.status
    fix = f". Fix: {check.fix}" if check.fix else ""
    return f"{status:<4}  {check.name}: {check.message}{fix}"


def _all_checks(path: Path | None) -> Iterable[Check]:
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
    yield from _backends(settings, path if missing else None)


def _without_secrets(path: Path | None, error: ConfigError) -> Settings | None:
    """Return the settings without backend keys and Flower's password where only these are not set here, else None."""
    if not all(problem.missing_variable for problem in error.problems):
        return None
    with contextlib.suppress(ConfigError):
        return load_settings(path, resolve_backend_keys=False, resolve_flower_password=False)
    return None


def _token_checks(settings: Settings) -> Iterable[Check]:
    known = settings.public_names()
    for token in settings.tokens:
        for name in token.models:
            if name != "*" and name not in known:
                message = f"may use {name!r}, but no model is called so{suggestion(name, known)}"
                yield Check(f"token {token.name}", "warn", message, "mend the name, or remove it")


def _mirror(settings: Settings) -> Iterable[Check]:
    try:
        read_mirror(settings.data_dir / MIRROR_NAME)
    except UnreadableMirror as error:
        yield Check("created tokens", "fail", error.problem, error.fix)
    except UntrustedPath as error:
        yield Check("created tokens", "fail", str(error))


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


def _backends(settings: Settings, reread: Path | None) -> Iterable[Check]:
    """Ask every backend; with a file to read again, those of the models whose keys are all set here."""
    models = {name: _with_keys(name, reread) if reread else model for name, model in settings.models.items()}
    probes = [(name, backend) for name, model in models.items() if model for backend in model.backends]
    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(lambda probe: backend_check(*probe), probes)


def _with_keys(name: str, path: Path) -> ModelSettings | None:
    """Return one model with its backends' keys, or None where one of them is not set."""
    try:
        return load_settings(path, resolve_backend_keys=[name], resolve_flower_password=False).models[name]
    except ConfigError:
        return None


def _client_of(backend: BackendSettings) -> httpx.Client:
    """Return a client that goes the way that workers go: by the backend's own proxy alone, by its certificates."""
    files = (backend.ca_file, backend.client_certificate, backend.client_key)
    proxy = None
    if backend.proxy is not None:
        url = backend.proxy.get_secret_value()
        proxy = httpx.Proxy(url, ssl_context=client_context(backend.ca_file) if url.startswith("https:") else None)
    return httpx.Client(
        timeout=BACKEND_TIMEOUT_SECONDS,
        trust_env=False,
        verify=client_context(*files) if any(files) or proxy or backend.http2 else system_context(),
        proxy=proxy,
        http1=not backend.http2 or backend.url.startswith("https:"),
        http2=backend.http2,
    )


def backend_check(public_name: str, backend: BackendSettings) -> Check:
    """Ask a backend for its models; the finding shows neither its key nor a password in its URL."""
    parts = urlsplit(backend.url)
    name = f"backend {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} of {public_name}"
    key = backend.api_key.get_secret_value() if backend.api_key else None
    try:
        headers = {name: value.get_secret_value() for name, value in (backend.headers or {}).items()}
        if key:
            headers["authorization"] = f"Bearer {key}"
        with _client_of(backend) as client:
            response = client.get(f"{backend.url}/models", headers=headers)
    except httpx.TimeoutException:
        message = f"did not answer within {BACKEND_TIMEOUT_SECONDS:g} s"
        return Check(name, "fail", message, "see whether it is overloaded")
    except httpx.ProxyError:
        return Check(name, "fail", "cannot be reached: its proxy refuses", "mend proxy, its password too")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        return Check(name, "fail", f"cannot be reached ({type(error).__name__})", "start it, or mend its url")
    if response.status_code == 407:
        return Check(name, "fail", "cannot be reached: its proxy refuses", "mend proxy, its password too")
    if response.status_code in (401, 403):
        fix = "mend api_key" if key else "give it an api_key: ${NAME}"
        return Check(name, "fail", f"answered {response.status_code}: it refuses {'the key' if key else 'no key'}", fix)
    if response.status_code in (404, 405):
        return Check(name, "warn", f"answered {response.status_code}: it has no list of models", "most urls end in /v1")
    if response.status_code != 200:
        return Check(name, "fail", f"answered {response.status_code}", "see its own log")
    return _listed(name, backend.model or public_name, response)


def _listed(name: str, wanted: str, response: httpx.Response) -> Check:
    try:
        listed = [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        fix = "see whether the url is that of an OpenAI-compatible server; most end in /v1"
        return Check(name, "warn", "answered 200, but no list of models", fix)
    if wanted in listed:
        return Check(name, "ok", f"reachable, lists {wanted!r}")
    some = ", ".join(map(repr, listed[:5])) or "none"
    return Check(name, "warn", f"does not list {wanted!r} (it lists {some})", "set `model:` to the backend's own name")
