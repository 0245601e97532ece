"""`aqueduct check`: what it finds in a file, a real Redis and real HTTP servers, and what it never shows."""

from __future__ import annotations

import json
import ssl
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aqueduct.cli import main
from aqueduct.commands import check
from shared.redis_checks import Check, redis_checks, redis_problems
from shared.redis_sync import connect
from tests.support.processes import RedisServer, free_port
from tests.support.tls import make_authority, make_certificate


class Backend(BaseHTTPRequestHandler):
    """Answers by the first part of the path: a status, or a body."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        status, body = 200, json.dumps({"object": "list", "data": [{"id": "llama"}]})
        if kind == "closed" and self.headers["authorization"] != "Bearer sk-canary":
            status = 401
        elif kind == "garbage":
            body = "<html>"
        elif kind.isdigit():
            status = int(kind)
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output stays readable."""


@pytest.fixture
def backend() -> Iterator[str]:
    with serving(Backend) as address:
        yield f"http://{address}"


class Proxy(Backend):
    """Answers in a backend's place whoever shows the password."""

    def do_GET(self) -> None:
        if not self.path.startswith("http://"):
            self.send_error(400)
        elif self.headers["proxy-authorization"] != "Basic " + b64encode(b"me:canary").decode():
            self.send_error(407)
        else:
            self.path = "/v1"
            super().do_GET()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def run(config: Path, *options: str) -> int:
    return main(["check", "--config", str(config), *options])


def write(folder: Path, redis_url: str, *backends: str) -> Path:
    path = folder / "aqueduct.yaml"
    listed = ", ".join(backends)
    path.write_text(f"models: {{llama: {{backends: [{listed}]}}}}\nredis_url: {redis_url}\ndata_dir: {folder}\n")
    return path


def test_a_good_server_has_no_failure_and_an_evicting_one_has(own_redis: RedisServer) -> None:
    with connect(own_redis.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("slowlog-max-len", 0)
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory", "1gb")
        assert redis_problems(client) == []
        assert len(redis_checks(client)) == 7
        client.config_set("maxmemory-policy", "allkeys-lru")
        (problem,) = redis_problems(client)
        assert (problem.name, problem.status) == ("redis maxmemory-policy", "fail")
        assert "noeviction" in problem.fix


def test_weak_settings_are_warnings(own_redis: RedisServer) -> None:
    with connect(own_redis.url) as client:
        client.config_set("slowlog-max-len", 128)
        client.config_set("appendonly", "no")
        client.config_set("maxmemory", 0)
        found = {problem.name: problem.status for problem in redis_problems(client)}
    assert found == {"redis appendonly": "warn", "redis maxmemory": "warn", "redis slowlog-max-len": "warn"}


def test_a_server_that_refuses_the_password_or_is_away_is_one_finding(own_redis: RedisServer) -> None:
    with connect(own_redis.url) as client:
        client.config_set("requirepass", "canary")
    with connect(f"redis://127.0.0.1:{free_port()}/0") as client:
        (away,) = redis_problems(client)
    with connect(own_redis.url.partition("?")[0]) as client:
        (refused,) = redis_problems(client)
    assert away.status == refused.status == "fail"
    assert "cannot be reached" in away.message
    assert "refuses the user or password" in refused.message


def test_a_sound_setup_exits_0_and_shows_no_key(
    own_redis: RedisServer,
    backend: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKEND_KEY", "sk-canary")
    config = write(tmp_path, own_redis.url, f"{{url: {backend}/closed/v1, api_key: '${{BACKEND_KEY}}'}}")
    assert run(config) == 0
    out = capsys.readouterr().out
    assert f"ok    backend {backend}/closed/v1 of llama: reachable, lists 'llama'" in out
    assert "ok    redis version" in out
    assert "sk-canary" not in out
    assert run(config, "--json") == 0
    assert {check["status"] for check in json.loads(capsys.readouterr().out)} <= {"ok", "warn"}


def test_each_backend_is_told_what_is_wrong_with_it(
    own_redis: RedisServer, backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    config = write(
        tmp_path,
        own_redis.url,
        f"{{url: {backend}/closed/v1}}",
        f"{{url: {backend}/closed/v2, api_key: sk-wrong}}",
        f"{{url: {backend}/404}}",
        f"{{url: {backend}/503}}",
        f"{{url: {backend}/garbage}}",
        f"{{url: {backend}/v1, model: other}}",
        f"{{url: '{dead.replace('//', '//user:sk-canary@')}/v1'}}",
    )
    assert run(config) == 1
    out = capsys.readouterr().out
    for line in (
        f"FAIL  backend {backend}/closed/v1 of llama: answered 401: it refuses no key. Fix: give it an api_key",
        f"FAIL  backend {backend}/closed/v2 of llama: answered 401: it refuses the key. Fix: mend api_key",
        f"warn  backend {backend}/404 of llama: answered 404",
        f"FAIL  backend {backend}/503 of llama: answered 503",
        f"warn  backend {backend}/garbage of llama: answered 200, but no list of models",
        f"warn  backend {backend}/v1 of llama: does not list 'other' (it lists 'llama')",
        f"FAIL  backend {dead}/v1 of llama: cannot be reached (ConnectError)",
    ):
        assert line in out
    assert "sk-" not in out


def test_a_backend_is_asked_through_its_proxy(
    own_redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_PASSWORD", "canary")
    with serving(Proxy) as proxy:
        config = write(
            tmp_path,
            own_redis.url,
            f"{{url: 'http://a.invalid/v1', proxy: 'http://me:${{PROXY_PASSWORD}}@{proxy}'}}",
            f"{{url: 'http://b.invalid/v1', proxy: 'http://{proxy}'}}",
        )
        assert run(config) == 1
    out = capsys.readouterr().out
    assert "ok    backend http://a.invalid/v1 of llama: reachable, lists 'llama'" in out
    assert "FAIL  backend http://b.invalid/v1 of llama: cannot be reached: its proxy refuses. Fix: mend proxy" in out
    assert "canary" not in out


def test_a_backend_is_asked_with_its_certificates(
    own_redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = make_authority(tmp_path / "authority")
    server, client = make_certificate(tmp_path, authority), make_certificate(tmp_path, authority, "client")
    strict = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    strict.load_cert_chain(server.certificate, server.key)
    strict.verify_mode = ssl.CERT_REQUIRED
    ours = f"client_certificate: {client.certificate}, client_key: {client.key}"
    with serving(Backend, strict) as address:
        config = write(
            tmp_path,
            own_redis.url,
            f"{{url: 'https://{address}/v1', ca_file: {authority.certificate}, {ours}, http2: true}}",
            f"{{url: 'https://{address}/v2', {ours}}}",
        )
        assert run(config) == 1
    out = capsys.readouterr().out
    assert f"ok    backend https://{address}/v1 of llama: reachable, lists 'llama'" in out
    assert f"FAIL  backend https://{address}/v2 of llama: cannot be reached (ConnectError)" in out


def test_keys_that_are_not_set_here_are_named_and_only_their_models_left_out(
    own_redis: RedisServer, backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, own_redis.url, f"{{url: {backend}/closed/v1, api_key: '${{NOT_SET_KEY}}'}}")
    with config.open("a") as file:
        file.write("flower: {password: '${NOT_SET_PASSWORD}'}\n")
    assert run(config) == 0
    out = capsys.readouterr().out
    for name in ("NOT_SET_KEY", "NOT_SET_PASSWORD"):
        assert f"the environment variable {name} is not set. Fix: set it where it is needed" in out
    assert "ok    redis version" in out
    assert "backend http" not in out
    text = config.read_text().replace(
        "models: {", f"models: {{open: {{backends: [{{url: {backend}/v1, model: llama}}]}}, "
    )
    config.write_text(text)
    assert run(config) == 0
    out = capsys.readouterr().out
    assert f"ok    backend {backend}/v1 of open" in out
    assert "of llama" not in out


def test_an_untrusted_address_of_redis_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, "''", "{url: 'http://127.0.0.1:1/v1'}")
    url = tmp_path / "redis" / "url"
    url.parent.mkdir()
    url.write_text("unix:///planted")
    url.chmod(0o666)
    assert run(config) == 1
    assert f"chmod 600 {url}" in capsys.readouterr().out


def test_an_unreadable_mirror_of_tokens_is_a_failure_with_its_fix(
    own_redis: RedisServer, backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, own_redis.url, f"{{url: {backend}/v1}}")
    assert run(config) == 0
    (tmp_path / "tokens.json").write_text("{")
    capsys.readouterr()
    assert run(config) == 1
    line = f"FAIL  created tokens: {tmp_path}/tokens.json: is not a mirror of tokens. Fix: remove it"
    assert line in capsys.readouterr().out


def test_a_broken_file_fails_with_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, "redis+cluster://:canary@h", "{url: ftp://x}")
    assert run(config) == 1
    out = capsys.readouterr().out
    assert out.count("FAIL  configuration: ") == 2
    assert "no cluster transport" in out
    assert "canary" not in out


def test_what_a_backend_says_tells_the_terminal_nothing() -> None:
    shown = check.line(Check("backend \x1b[2J", "warn", "it said\r\n\x9b31mok  redis: \u202efine", "mend\x07"))
    assert shown.count("\n") == 0 and "\\x1b[2J" in shown
    assert not any(mark in shown for mark in "\x1b\x9b\r\u202e\x07")


def test_the_store_is_tried(
    tmp_path: Path, own_redis: RedisServer, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, own_redis.url, f"{{url: {backend}/v1, model: llama}}")
    text = path.read_text()
    path.write_text(f"{text}storage: {{url: 'file://{tmp_path}/files'}}\n")
    run(path)
    assert "ok    storage: file:// can be written" in capsys.readouterr().out
    assert not [found for found in (tmp_path / "files").rglob("*") if found.is_file()]
    (tmp_path / "blocked").write_text("")
    path.write_text(f"{text}storage: {{url: 'file://{tmp_path}/blocked'}}\n")
    assert run(path) == 1
    assert "FAIL  storage: " in capsys.readouterr().out
    path.write_text(f"{text}storage: {{url: 'ftp://x'}}\n")
    assert run(path) == 1
    assert "must begin with file://" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "installed", "wanted"),
    [
        ({}, True, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, ("ok", "otlp, as the OTEL_* variables here say")),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, False, ("warn", "is not installed")),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, True, ("warn", "set it to otlp, console or none")),
    ],
)
def test_traces_are_told_of_where_variables_ask_for_them(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    installed: bool,
    wanted: tuple[str, str] | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if not installed:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
        monkeypatch.delitem(sys.modules, "opentelemetry.sdk.trace", raising=False)
    run(write(tmp_path, f"redis://127.0.0.1:{free_port()}/0", "{url: http://127.0.0.1:9/v1}"), "--json")
    found = [check for check in json.loads(capsys.readouterr().out) if check["name"] == "traces"]
    assert [check["status"] for check in found] == ([wanted[0]] if wanted is not None else [])
    assert wanted is None or wanted[1] in found[0]["message"]
