"""`aqueduct import litellm`: real configurations in; what is written loads and serves, and no field is forgotten."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml

from aqueduct.cli import main
from aqueduct.importing.litellm import Imported, import_litellm
from aqueduct.importing.source import read_source
from shared.config import load_settings
from shared.config_problems import dotted
from shared.settings import Settings
from tests.aqueduct.test_up import Up
from tests.support.system import DemoBackend

CONFIGS = Path(__file__).parent / "configs"
SERVED = {
    "all_from_environment": {"assistant", "lite"},
    "azure_environment": {"embedding", "gpt-5.4", "default"},
    "azure_template": {"LITELLM_MODEL_NAME"},
    "cloud_run": {"gemma-medical", "gemma3", "gpt-4o", "o3"},
    "fallback_chain": {
        *("maverick", "together/maverick", "groq/maverick", "openrouter/maverick", "gpt-oss-20b"),
        *("openai/gpt-4o-mini", "default"),
    },
    "ollama_farm": {"local-chat"},
    "ollama_four": {"llama2", "coder", "vicuna", "mistral"},
    "ollama_prices": {"llama3.2", "codellama"},
    "proxy_server": {"end-user-test", "large", "ada", "fake", "fake-3", "bad-model", "embed", "instruct", "gpt-4o"},
    "vllm_template": {"local-llm", "gpt-4"},
    "wildcard": {"openai/gpt-4o"},
}
"""What is served of each; of the wildcards what `NAMED` names."""
NAMED = {"proxy_server": ("gpt-4o",), "wildcard": ("openai/gpt-4o",)}
MASTER_KEY = "sk-the-master-key"


def imported(name: str) -> Imported:
    return import_litellm(CONFIGS / f"{name}.yaml", NAMED.get(name, ()))


def environment(result: Imported, **given: str) -> dict[str, str]:
    """Return every variable that the result wants, filled with what may stand there."""
    named = {name: "http://127.0.0.1:1" if "URL" in name or "BASE" in name else "a-key" for name in result.variables}
    master = {"LITELLM_MASTER_KEY_SHA256": sha256(MASTER_KEY.encode()).hexdigest()}
    return {**named, **{name: text for name, text in master.items() if name in named}, **given}


def settings_of(result: Imported, folder: Path, **given: str) -> Settings:
    file = folder / "made.yaml"
    file.write_text(result.text)
    return load_settings(file, environ=environment(result, **given))


def made(folder: Path, text: str, *names: str) -> Imported:
    """Import a text."""
    file = folder / "config.yaml"
    file.write_text(text)
    return import_litellm(file, names)


def verdicts(result: Imported) -> dict[str, str]:
    return {dotted(finding.path): finding.verdict for finding in result.findings}


# --- every shape ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVED)
def test_a_real_configuration_becomes_one_that_loads(name: str, tmp_path: Path) -> None:
    result = imported(name)
    assert set(settings_of(result, tmp_path).models) == SERVED[name]
    assert "canary" not in result.text
    assert "canary" not in json.dumps([finding.as_json() for finding in result.findings])


@pytest.mark.parametrize("name", [*SERVED, "bedrock_only"])
def test_no_field_is_dropped_in_silence(name: str) -> None:
    file = CONFIGS / f"{name}.yaml"
    source = read_source(file)
    said = {finding.path for finding in imported(name).findings}

    def is_told(path: tuple[str | int, ...]) -> bool:
        above = any(path[: len(known)] == known for known in said if known)
        return above or any(known[: len(path)] == path for known in said)

    forgotten = [dotted(path) for path in source.places if path and not is_told(path)]
    assert forgotten == []


@pytest.mark.parametrize("name", [*SERVED, "bedrock_only"])
def test_each_field_is_told_with_the_line_on_which_it_stands(name: str) -> None:
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    for finding in imported(name).findings:
        keys = [part for part in finding.path if isinstance(part, str) and part in lines[(finding.line or 1) - 1]]
        assert finding.line is not None
        assert keys or isinstance(finding.path[-1], int) or "." in str(finding.path[-1]), finding


class _Lister(BaseHTTPRequestHandler):
    """A server that has every model that is asked for."""

    models: tuple[str, ...] = ()

    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": [{"id": model} for model in self.models]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output stays readable."""


@pytest.fixture(scope="module")
def lister() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Lister) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", SERVED)
def test_check_finds_nothing_wrong_with_it_once_its_backends_are_there(
    name: str, tmp_path: Path, lister: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = imported(name)
    file = tmp_path / "aqueduct.yaml"
    file.write_text(re.sub(r"url: \S+", f"url: {lister}", result.text))
    for variable, value in environment(result).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AQUEDUCT_DATA_DIR", str(tmp_path / "data"))
    settings = load_settings(file)
    backends = [(name, backend) for name, model in settings.models.items() for backend in model.backends]
    monkeypatch.setattr(_Lister, "models", tuple(backend.model or name for name, backend in backends))
    assert main(["check", "--config", str(file), "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {check["status"] for check in checks} == {"ok"}, checks
    assert sum("lists" in check["message"] for check in checks) == len(backends)


@pytest.mark.parametrize(
    ("name", "upstream", "model", "key"),
    [
        ("ollama_farm", r"http://ollama\d:11434", "local-chat", None),
        ("vllm_template", "http://vllm:8000/v1", "gpt-4", MASTER_KEY),
    ],
)
def test_what_was_imported_serves(
    name: str, upstream: str, model: str, key: str | None, tmp_path: Path, demo_backend: DemoBackend
) -> None:
    """The demo backend stands in the upstream's place; clients go on with LiteLLM's master key where there was one."""
    url = demo_backend.url if upstream.endswith("/v1") else demo_backend.root
    source = tmp_path / "config.yaml"
    source.write_text(re.sub(upstream, url, (CONFIGS / f"{name}.yaml").read_text()))
    file = tmp_path / "aqueduct.yaml"
    assert main(["import", "litellm", str(source), "-o", str(file)]) == 1  # drop_params is left
    variables = environment(import_litellm(source), VLLM_MODEL="demo")
    up = Up(tmp_path, "--config", str(file), environment=variables)
    try:
        up.wait_ready()
        answer = httpx.post(
            f"http://127.0.0.1:{up.port}/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": "Hello"}]},
            headers={"authorization": f"Bearer {key or up.token}"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model
    finally:
        up.process.stop(20)


# --- single fields ----------------------------------------------------------------------------------------------------


def models_of(folder: Path, deployments: str, rest: str = "", *names: str, **given: str) -> Mapping[str, Any]:
    return settings_of(made(folder, f"model_list:\n{deployments}{rest}", *names), folder, **given).models


def deployment(name: str, **params: Any) -> str:
    return "  - " + json.dumps({"model_name": name, "litellm_params": params}) + "\n"


def test_weights_go_by_weight_then_by_rpm_and_what_is_not_first_stands_by(tmp_path: Path) -> None:
    base = {"api_base": "http://a/v1"}
    models = models_of(
        tmp_path,
        deployment("w", model="openai/x", weight=9, rpm=1, **base)
        + deployment("w", model="openai/y", weight=3, rpm=99, **base)
        + deployment("r", model="openai/x", rpm=600, **base)
        + deployment("r", model="openai/y", rpm=200, **base)
        + deployment("f", model="openai/x", weight=0.7, **base)
        + deployment("f", model="openai/y", weight=0.3, **base)
        + deployment("o", model="openai/x", order=2, **base)
        + deployment("o", model="openai/y", order=1, **base)
        + deployment("o", model="openai/z", **base),
    )
    found = {name: [backend.weight for backend in model.backends] for name, model in models.items()}
    assert found == {"w": [3, 1], "r": [3, 1], "f": [1000, 429], "o": [0, 1, 0]}


def test_numbers_of_a_model_are_those_of_its_deployments_over_the_routers(tmp_path: Path) -> None:
    models = models_of(
        tmp_path,
        deployment("own", model="gpt-4o", timeout=30, stream_timeout=5, num_retries=0, max_parallel_requests=4)
        + deployment("own", model="gpt-4.1", timeout=90, max_retries=50, max_parallel_requests=6)
        + deployment("other", model="o3"),
        """router_settings: {timeout: 20, num_retries: 2}
litellm_settings: {request_timeout: 500, num_retries: 7, json_logs: true}
general_settings: {max_parallel_requests: 7, max_request_size_mb: 2, max_response_size_mb: 9999}
""",
        OPENAI_API_KEY="k",
    )
    own, other = models["own"], models["other"]
    assert (own.timeout_seconds, own.first_token_timeout_seconds, own.max_attempts, own.concurrency) == (90, 5, 10, 10)
    assert [backend.concurrency for backend in own.backends] == [4, 6]
    assert (other.timeout_seconds, other.max_attempts, other.concurrency) == (20, 3, 7)


def test_fallbacks_stand_by_behind_the_models_own_backends(tmp_path: Path) -> None:
    result = imported("fallback_chain")
    default = settings_of(result, tmp_path).models["default"]
    found = [(backend.url, backend.model, backend.weight) for backend in default.backends]
    assert found == [
        ("https://openrouter.ai/api/v1", "meta-llama/llama-4-maverick", 1),
        ("https://api.groq.com/openai/v1", "meta-llama/llama-4-maverick", 0),
        ("https://api.together.xyz/v1", "meta-llama/Llama-4-Maverick", 0),
    ]
    told = verdicts(result)
    assert told["router_settings.fallbacks[0].default"] == "changed"
    assert told["router_settings.fallbacks[3].gone"] == "left"


def test_no_secret_is_written_and_each_is_called_by_one_name(tmp_path: Path) -> None:
    result = made(
        tmp_path,
        "model_list:\n"
        + deployment("a-b", model="openai/x", api_base="http://h/v1", api_key="canary-1")
        + deployment("two", model="openai/x", api_base="http://me:canary-2@h/v1", api_key="canary-1")
        + deployment(
            "three", model="groq/x", api_key="canary-3", extra_headers={"X-Team": "canary-4", "x-title": "ours"}
        )
        + deployment(
            "four", model="openai/x", api_base="http://h/v1", extra_body={"my_api_key": "canary-5", "top_k": 2}
        )
        + deployment("five", model="anthropic/x", api_key="canary-6")
        + """general_settings: {master_key: canary-7, database_url: "postgres://u:canary-8@h/d"}
router_settings: {redis_password: canary-9}
environment_variables: {OPENAI_API_KEY: canary-10}
""",
    )
    told = json.dumps([finding.as_json() for finding in result.findings]) + str(result.variables)
    assert "canary" not in result.text + told
    models = settings_of(result, tmp_path).models
    assert set(models) == {"a-b", "two", "three", "four"}
    assert "${A_B_API_KEY}" in result.text
    assert result.text.count("api_key: ${A_B_API_KEY}") == 2
    assert "x-title: ours" in result.text
    assert models["four"].backends[0].parameters.defaults == {"top_k": 2}


def test_azure_ollama_fireworks_and_credentials_reach_their_openai_urls(tmp_path: Path) -> None:
    models = models_of(
        tmp_path,
        deployment(
            "az", model="azure/o_series/dep", api_base="https://r.openai.azure.com/openai/deployments/dep?api-version=1"
        )
        + deployment("ol", model="ollama/llama3:8b", api_base="http://h:11434/")
        + deployment("fw", model="fireworks_ai/qwen", timeout=5)
        + deployment("cr", model="azure/dep", litellm_credential_name="mine")
        + deployment("ge", model="gemini/gemini-2.5-pro", temperature=0.2, additional_drop_params=["seed", "a.b"]),
        """credential_list:
  - credential_name: mine
    credential_values: {api_base: "https://c.openai.azure.com", api_key: os.environ/CRED}
    credential_info: {}
""",
    )
    found = {name: (model.backends[0].url, model.backends[0].model) for name, model in models.items()}
    assert found == {
        "az": ("https://r.openai.azure.com/openai/v1", "dep"),
        "ol": ("http://h:11434/v1", "llama3:8b"),
        "fw": ("https://api.fireworks.ai/inference/v1", "accounts/fireworks/models/qwen"),
        "cr": ("https://c.openai.azure.com/openai/v1", "dep"),
        "ge": ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini-2.5-pro"),
    }
    assert models["cr"].backends[0].headers is not None
    assert models["ol"].backends[0].max_tokens_field == "max_tokens"
    changes = models["ge"].backends[0].parameters
    assert (changes.defaults, changes.removed) == ({"temperature": 0.2}, ("seed",))


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("anthropic/claude", "Anthropic's own protocol"),
        ("claude-3-opus", "Anthropic's own protocol"),
        ("bedrock/x", "signed for AWS"),
        ("sagemaker/x", "signed for AWS"),
        ("vertex_ai/x", "OAuth"),
        ("cohere/command-r", "compatibility/v1"),
        ("openai/dall-e-3", "no model for chat"),
        ("openai/responses/o3", "another endpoint"),
        ("nobody-knows/x", "not known"),
        ("hosted_vllm/", "names no model"),
        ("custom_openai/x", "api_base is missing"),
        ("azure/x y", None),
    ],
)
def test_what_cannot_be_called_is_left_with_the_reason(model: str, word: str | None, tmp_path: Path) -> None:
    result = made(tmp_path, "model_list:\n" + deployment("good", model="gpt-4o") + deployment("x", model=model))
    told = [finding.text for finding in result.findings if finding.path == ("model_list", 1)]
    assert set(settings_of(result, tmp_path).models) == ({"good"} if word else {"good", "x"})
    assert [word in text for text in told if word] == ([True] if word else [])


def test_wildcards_are_served_for_the_names_that_are_given(tmp_path: Path) -> None:
    rest = (
        deployment("*", model="openai/*") + deployment("groq/*", model="groq/*") + deployment("x/*", model="bedrock/*")
    )
    result = made(tmp_path, f"model_list:\n{rest}", "gpt-4o", "groq/llama", "x/y")
    models = settings_of(result, tmp_path).models
    assert {name: (model.backends[0].url, model.backends[0].model or name) for name, model in models.items()} == {
        "gpt-4o": ("https://api.openai.com/v1", "gpt-4o"),
        "groq/llama": ("https://api.groq.com/openai/v1", "llama"),
    }
    assert verdicts(result)["x/y"] == "left"


# --- the file ---------------------------------------------------------------------------------------------------------


def run(*words: str) -> int:
    return main(["import", "litellm", *words])


def test_includes_are_read_once_from_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.yaml").write_text(
        "include: [two.yaml, ../config.yaml]\nmodel_list:\n" + deployment("one", model="gpt-4o")
    )
    (tmp_path / "models" / "two.yaml").write_text("model_list:\n" + deployment("two", model="o3", rpm=1))
    result = made(tmp_path, "include: [models/one.yaml]\nmodel_list:\n" + deployment("zero", model="gpt-4.1"))
    assert list(settings_of(result, tmp_path).models) == ["zero", "one", "two"]
    (rpm,) = [finding for finding in result.findings if finding.path[-1] == "rpm"]
    assert (Path(rpm.file).name, rpm.line, dotted(rpm.path)) == ("two.yaml", 2, "model_list[2].litellm_params.rpm")
    assert [finding.verdict for finding in result.findings if finding.path == ("include",)].count("needless") == 1


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"- a\n- b\n", "must hold settings"),
        (b"just text\n", "must hold settings"),
        (b"model_list: [\n", "is not valid YAML"),
        (b"model_list:\n\t- a: 1\n", "a tab stands"),
        (b"a: *b\n", "without its anchor"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"a: \x01\n", "control character"),
        (b"[" * 5000, "nests too deeply"),
        (b"include: [missing.yaml]\n", "missing.yaml: cannot be read"),
        (b"include: [7]\n", "must be a list of files"),
        (b"a: 1\n" * 2_000_000, "more than 8 MB"),
        (b"model_list: []\n", "no model that can be served"),
        (b"model_list: {a: 1}\nrouter_settings: 7\n", "no model that can be served"),
        (b"model_list: [1, {}, {model_name: x}, {model_name: x, litellm_params: {}}]\n", "no model that can be served"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line_and_nothing_is_written(
    content: bytes, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    assert run(str(file), "-o", str(tmp_path / "out.yaml")) == 2
    assert not (tmp_path / "out.yaml").exists()
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert word in errors[0]


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "no.yaml")) == 2
    assert "no.yaml: cannot be read: No such file" in capsys.readouterr().err


def test_anchors_merge_keys_and_keys_that_stand_twice_count_as_litellm_reads_them(tmp_path: Path) -> None:
    result = made(
        tmp_path,
        """
x-shared: &shared {api_base: "http://h/v1", timeout: 7}
model_list:
  - model_name: a
    litellm_params: {<<: *shared, model: openai/first, model: openai/last}
""",
    )
    (backend,) = settings_of(result, tmp_path).models["a"].backends
    assert (backend.url, backend.model) == ("http://h/v1", "last")
    assert verdicts(result)["model_list[0].litellm_params.model"] in ("taken", "changed")
    assert any("stands twice" in finding.text for finding in result.findings)


def test_a_megabyte_of_deployments_is_imported(tmp_path: Path) -> None:
    many = "".join(deployment(f"m-{n}", model=f"openai/{'x' * 880}-{n}", api_base="http://h/v1") for n in range(1100))
    assert len(many) > 1024**2
    assert len(settings_of(made(tmp_path, f"model_list:\n{many}"), tmp_path).models) == 1100


def test_the_exit_status_tells_and_a_file_that_is_there_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "aqueduct.yaml"
    assert run(str(CONFIGS / "ollama_four.yaml"), "-o", str(output)) == 0
    assert "12 taken, 0 to look at, 0 left out, 0 need nothing" in capsys.readouterr().out
    assert run(str(CONFIGS / "ollama_four.yaml"), "-o", str(output)) == 1
    assert "is there already" in capsys.readouterr().err
    assert run(str(CONFIGS / "ollama_farm.yaml"), "-o", str(output), "--force") == 1
    assert set(yaml.safe_load(output.read_text())["models"]) == {"local-chat"}


def test_json_holds_everything_and_without_an_output_the_configuration_comes_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(str(CONFIGS / "ollama_farm.yaml"), "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert set(yaml.safe_load(told["configuration"])["models"]) == {"local-chat"}
    assert told["counts"]["left"] == sum(field["verdict"] == "left" for field in told["fields"])
    assert run(str(CONFIGS / "ollama_farm.yaml")) == 1
    captured = capsys.readouterr()
    assert captured.out == told["configuration"]
    assert "Left out" in captured.err


def test_the_master_key_becomes_a_token_without_a_role(tmp_path: Path) -> None:
    (token,) = settings_of(imported("wildcard"), tmp_path).tokens
    assert (token.name, token.role, token.models) == ("litellm-master", "user", ("*",))
    assert token.sha256 == sha256(MASTER_KEY.encode()).hexdigest()


def test_an_unknown_parameter_and_an_unknown_setting_are_named(tmp_path: Path) -> None:
    result = made(
        tmp_path,
        "model_list:\n" + deployment("a", model="gpt-4o", my_own=7) + "router_settings: {mine: 1}\nmine_too: [1]\n",
    )
    left = {dotted(finding.path) for finding in result.findings if finding.verdict == "left"}
    assert left == {"model_list[0].litellm_params.my_own", "router_settings.mine", "mine_too"}
