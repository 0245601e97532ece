"""Configurations of LiteLLM's in which anything stands anywhere: the importer tells of it, and what it writes loads."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from aqueduct.importing.litellm import import_litellm
from shared.config import load_settings

CONFIGS = sorted((Path(__file__).parent / "configs").glob("*.yaml"))
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        -5,
        1e308,
        float("inf"),
        10**30,
        "12",
        "1e999",
        "nan",
        "",
        "x",
        "a" * 300,
        "é ü",
        "a\tb",
    ),
    *("*", "openai/*", "os.environ/", "os.environ/A-B c", "os.environ/AQUEDUCT_X"),
    *(
        "${",
        "${A}",
        "${A:-}",
        "$${x}",
        "http://${HOST}:11434",
        "http://[",
        "http://a b",
        "http://u:p@h/v1?x#y",
        "\u202e",
    ),
    *([], {}, [1], ["a"], [[["x"]]], [{"a": ["b"]}], {"a": 1}, {"a": {"b": [1]}}, {"model": "x"}),
)
PARAMETERS = (
    *(
        "timeout",
        "stream_timeout",
        "num_retries",
        "rpm",
        "weight",
        "order",
        "max_parallel_requests",
        "model",
        "n",
        "stop",
    ),
    *("extra_body", "extra_headers", "headers", "additional_drop_params", "api_key", "api_base", "organization"),
    *("litellm_credential_name", "custom_llm_provider", "max_tokens", "temperature"),
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*path, key))


def spoil(data: Any, random: Random) -> None:
    """Put something odd somewhere, and often into a deployment too."""
    place = random.choice([path for path in paths(data) if path])
    above = data
    for key in place[:-1]:
        above = above[key]
    above[place[-1]] = copy.deepcopy(random.choice(ODD))
    deployments = data.get("model_list")
    for entry in random.sample(deployments, 1) if isinstance(deployments, list) and deployments else ():
        if isinstance(entry, dict) and isinstance(entry.get("litellm_params"), dict):
            entry["litellm_params"][random.choice(PARAMETERS)] = copy.deepcopy(random.choice(ODD))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_stands_there_is_told_and_what_is_written_loads(seed: int, tmp_path: Path) -> None:
    random, file = Random(seed), tmp_path / "config.yaml"
    for _ in range(20):
        data = yaml.safe_load(random.choice(CONFIGS).read_text())
        for _ in range(random.randint(1, 4)):
            spoil(data, random)
        file.write_text(yaml.safe_dump(data, allow_unicode=True))
        result = import_litellm(file, ["openai/gpt-4o"])
        assert result.findings
        assert "canary" not in result.text


def test_a_host_may_come_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    params = {"model": "ollama/llama3", "api_base": "http://${OLLAMA_HOST}:11434"}
    file.write_text(yaml.safe_dump({"model_list": [{"model_name": "m", "litellm_params": params}]}))
    result = import_litellm(file)
    made = tmp_path / "made.yaml"
    made.write_text(result.text)
    (backend,) = load_settings(made, environ={"OLLAMA_HOST": "gpu-1"}).models["m"].backends
    assert (backend.url, result.variables) == ("http://gpu-1:11434/v1", {"OLLAMA_HOST": "for models.m.backends[0].url"})
