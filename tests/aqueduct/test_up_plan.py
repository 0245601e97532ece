"""What `aqueduct up` decides before it starts anything: models, tokens, and who may see which secret."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from aqueduct.errors import CommandError
from aqueduct.up_plan import Plan, Secret, backend_models, make_plan, secrets_of
from shared.config_problems import ConfigError
from shared.private_files import UntrustedPath
from shared.tokens import hash_token
from tests.support.processes import free_port


def plan_for(
    folder: Path,
    environ: dict[str, str] | None = None,
    *,
    config: Path | None = None,
    backend: str | None = None,
    **options: str,
) -> Plan:
    overrides = {"AQUEDUCT_DATA_DIR": str(folder / "data"), **options}
    return make_plan(config, overrides, backend=backend, environ=environ or {})


class _ModelList(BaseHTTPRequestHandler):
    """Answers every GET with the server's `answer`, if the key is right."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, ListServer)
        allowed = server.key is None or self.headers.get("authorization") == f"Bearer {server.key}"
        body = server.answer if allowed else b"{}"
        self.send_response(server.status if allowed else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class ListServer(HTTPServer):
    """A server that lists models."""

    key: str | None = None
    status = 200
    answer = json.dumps({"data": [{"id": "llama"}, {"id": "qwen/qwen-2"}]}).encode()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@pytest.fixture
def backend() -> Iterator[ListServer]:
    with ListServer(("127.0.0.1", 0), _ModelList) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_without_a_file_the_demo_models_are_served_with_a_lasting_token(tmp_path: Path) -> None:
    first = plan_for(tmp_path)
    assert "demo" in first.settings.models
    assert first.demo_port
    assert [(token.sha256, token.role) for token in first.settings.tokens] == [
        (hash_token(first.credentials.token), "user"),
        (hash_token(first.credentials.operator_token), "operator"),
    ]
    assert plan_for(tmp_path).credentials == first.credentials


def test_generated_files_are_their_owners_only(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    data_dir = plan.settings.data_dir
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in data_dir.iterdir()} == {
        "up.yaml": 0o600,
        "up.json": 0o600,
        "up-operator.txt": 0o600,
    }
    written = (data_dir / "up.yaml").read_text()
    assert plan.credentials.token not in written and plan.credentials.operator_token not in written


def test_backend_is_asked_for_its_models(tmp_path: Path, backend: ListServer) -> None:
    plan = plan_for(tmp_path, backend=backend.url + "/")
    assert list(plan.settings.models) == ["llama", "qwen/qwen-2"]
    assert plan.settings.models["llama"].backends[0].url == backend.url
    assert plan.demo_port is None


def test_backends_key_goes_to_the_workers_alone(tmp_path: Path, backend: ListServer) -> None:
    backend.key = "secret-key"
    plan = plan_for(tmp_path, {"BACKEND_KEY": "secret-key"}, backend=backend.url)
    key = plan.settings.models["llama"].backends[0].api_key
    assert key is not None
    assert key.get_secret_value() == "secret-key"
    assert "secret-key" not in (plan.settings.data_dir / "up.yaml").read_text()
    assert plan.environment_for(models=["llama"])["BACKEND_KEY"] == "secret-key"
    for environment in (plan.environment_for(), plan.environment_for(flower=True)):
        assert "secret-key" not in environment.values()


def test_each_child_gets_its_own_secrets_only(tmp_path: Path) -> None:
    file = tmp_path / "aqueduct.yaml"
    file.write_text(
        "models:\n"
        "  a: {backends: [{url: 'http://h/v1', api_key: '${KEY_A}'}, {url: 'http://h/v1', api_key: '${SHARED}'}]}\n"
        "  b: {backends: [{url: 'http://h/v1', headers: {api-key: '${KEY_B}'}}, "
        "{url: 'http://h/v1', api_key: '${SHARED}'}]}\n"
        "flower: {password: '${FLOWER_SECRET:-none}'}\n"
        f"tokens: [{{name: x, sha256: {'ab' * 32}, webhook: {{url: 'http://h/', secret: '${{HOOK}}'}}}}]\n"
    )
    hook = "whsec_" + "aaaa" * 8
    secrets = {"KEY_A": "ka", "KEY_B": "kb", "SHARED": "ks", "FLOWER_SECRET": "fs", "HOOK": hook}
    plan = plan_for(tmp_path, {**secrets, "PATH": "/bin", "AQUEDUCT_FLOWER__PASSWORD": "fp"}, config=file)

    def seen(environment: dict[str, str]) -> set[str]:
        assert environment["PATH"] == "/bin"
        return {"ka", "kb", "ks", "fs", "fp", hook} & set(environment.values())

    assert seen(plan.environment_for()) == set()
    assert seen(plan.environment_for(models=["a"])) == {"ka", "ks", hook}
    assert seen(plan.environment_for(models=["b"])) == {"kb", "ks", hook}
    assert seen(plan.environment_for(models=["a", "b"])) == {"ka", "kb", "ks", hook}
    assert seen(plan.environment_for(flower=True)) == {"fs", "fp"}


def test_a_generated_password_of_flower_reaches_flower_alone(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    password = plan.credentials.flower_password
    assert password in plan.environment_for(flower=True).values()
    for environment in (plan.environment_for(), plan.environment_for(models=["demo"])):
        assert password not in environment.values()


@pytest.mark.parametrize("name", ["up.json", "."])
def test_a_data_folder_that_others_could_have_filled_is_refused(tmp_path: Path, name: str) -> None:
    plan_for(tmp_path)
    (tmp_path / "data" / name).chmod(0o777)
    with pytest.raises(UntrustedPath, match="can be written by other users"):
        plan_for(tmp_path)


def test_a_redis_of_others_gets_no_token_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "aqueduct.yaml"
    file.write_text("models: {m: {backends: [{url: 'http://h/v1'}]}}")
    assert plan_for(tmp_path, config=file).token_is_ours
    assert not plan_for(tmp_path, config=file, AQUEDUCT_REDIS_URL="redis://h/0").token_is_ours


def test_refused_key_is_told_with_the_variable_to_set(backend: ListServer) -> None:
    backend.key = "right"
    with pytest.raises(CommandError, match="Put it into BACKEND_KEY"):
        backend_models(backend.url, "wrong")


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "ftp://127.0.0.1/v1"])
def test_backend_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(CommandError, match="must be a URL such as"):
        backend_models(url, None)


def test_unreachable_backend_is_told_by_its_url() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(CommandError, match=f"--backend {url}: cannot be reached"):
        backend_models(url, None)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"data": 3}', b'{"data": [{}]}'])
def test_backend_without_a_list_of_models_is_refused(backend: ListServer, answer: bytes) -> None:
    backend.answer = answer
    with pytest.raises(CommandError, match="no list of models"):
        backend_models(backend.url, None)


def test_backend_with_no_model_is_refused(backend: ListServer) -> None:
    backend.answer = b'{"data": []}'
    with pytest.raises(CommandError, match="lists no model"):
        backend_models(backend.url, None)


def test_backend_and_file_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="--backend is for a start without"):
        plan_for(tmp_path, config=tmp_path / "aqueduct.yaml", backend="http://127.0.0.1:1/v1")


def test_wrong_file_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    file = tmp_path / "aqueduct.yaml"
    file.write_text("models: {demo: {concurency: 3, backends: [{url: 'http://127.0.0.1:1/v1'}]}}")
    with pytest.raises(ConfigError, match="concurency"):
        plan_for(tmp_path, config=file)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "aqueduct.yaml"
    file.write_text(yaml.safe_dump({"models": {"m": {"backends": [{"url": "http://h/v1"}]}}, "api": {"port": 1}}))
    plan = plan_for(tmp_path, config=file, AQUEDUCT_API__PORT="8123", AQUEDUCT_LOG_LEVEL="debug")
    assert (plan.settings.api.port, plan.settings.log_level) == (8123, "debug")
    assert plan.environment["AQUEDUCT_CONFIG"] == str(file)


def test_variable_used_beyond_api_keys_is_not_kept_from_the_others(tmp_path: Path) -> None:
    file = tmp_path / "aqueduct.yaml"
    file.write_text(
        "models: {m: {backends: [{api_key: '${KEY}'}, {api_key: '${BOTH}'}]}}\nredis_url: 'redis://:${BOTH}@h'\n"
    )
    assert secrets_of(file) == {"KEY": Secret(frozenset({"m"}))}
