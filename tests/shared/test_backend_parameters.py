"""Changes to requests as the configuration says them: what is taken, and what is told to be wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.config import load_settings
from shared.config_problems import ConfigError
from shared.settings import ModelSettings


def load(folder: Path, backend: str, model: str = "") -> ModelSettings:
    path = folder / "aqueduct.yaml"
    path.write_text(f"models:\n  m:\n    backends:\n    - {{url: 'http://h/v1', {backend}}}\n{model}", encoding="utf-8")
    return load_settings(path, environ={}).models["m"]


def told(folder: Path, backend: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, backend)
    (problem,) = caught.value.problems
    assert problem.line is not None
    return f"{problem.path.partition('backends[0].')[2]} {problem.reason}"


@pytest.mark.parametrize("place", ["defaults", "forced"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model: x", "must not hold model: set model of the backend"),
        ("messages: []", "must not hold messages: it is the request itself"),
        ("input: x", "must not hold input: it is the request itself"),
        ("prompt: x", "must not hold prompt: it is the request itself"),
        ("stream: true", "must not hold stream: clients choose it; see fold_streams"),
        ("stream_options: {}", "must not hold stream_options: set stream_options of the backend"),
        ("n: 1", "must not hold n: clients choose how many answers they want, and pay for them"),
        ("day: 2026-01-01", "must give day a value that JSON has; put dates in quotes"),
        ("x: .nan", "must give x a value that JSON has"),
        ("max_tokens: -1", "must give max_tokens a whole number from 1"),
        ("max_tokens: 1, max_completion_tokens: 1", "must hold one of max_tokens and max_completion_tokens"),
        ("'': 1", "must have names of parameters"),
    ],
)
def test_what_an_operator_cannot_change_is_told(tmp_path: Path, place: str, name: str, reason: str) -> None:
    found = told(tmp_path, f"parameters: {{{place}: {{{name}}}}}")
    assert found.startswith(f"parameters.{place} {reason}")


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    wanted = "parameters.removed must not hold stream_options: set stream_options of the backend"
    assert told(tmp_path, "parameters: {removed: [user, stream_options]}") == wanted
    assert load(tmp_path, "parameters: {removed: [n, service_tier]}").changed_names == {"n", "service_tier"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ("{defaults: {a: 1}, forced: {a: 1}}", "forced must not hold a beside defaults"),
        ("{forced: {a: 1}, removed: [a]}", "removed must not hold a beside forced"),
        ("{defaults: {max_tokens: 1}, removed: [max_completion_tokens]}", "removed must not hold max_tokens beside"),
    ],
)
def test_a_name_stands_in_one_list(tmp_path: Path, changes: str, reason: str) -> None:
    assert told(tmp_path, f"parameters: {changes}").startswith(f"parameters.{reason}")


def test_any_name_and_any_json_is_taken(tmp_path: Path) -> None:
    forced = "{top_k: 20, chat_template_kwargs: {a: [1, null, 0.5]}, service_tier: flex, x: false}"
    model = load(tmp_path, f"parameters: {{forced: {forced}}}", "    parameters: {removed: [user]}\n")
    assert model.changed_names == {"top_k", "chat_template_kwargs", "service_tier", "x", "user"}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ("by_lane: {slow: {}}", "by_lane.slow must be 'priority', 'default', 'flex' or 'batch'"),
        ("by_lane: {batch: {headers: {Authorization: x}}}", "by_lane.batch.headers must not hold authorization"),
        ("by_lane: {batch: {headers: {Host: x}}}", "by_lane.batch.headers must not hold host"),
        ("by_lane: {batch: {headers: {x-a: ''}}}", "by_lane.batch.headers must give x-a one line"),
        ("by_lane: {batch: {parameters: {model: x}}}", "by_lane.batch.parameters must not hold model"),
        ("headers: {x-a: b}, by_lane: {flex: {headers: {X-A: c}}}", "by_lane must not send x-a in flex"),
        ("headers: {x-a: b}, forward: {token_name: X-A}", "forward must not use x-a: another setting sends"),
        ("by_lane: {flex: {headers: {x-a: c}}}, forward: {token_name: x-a}", "forward must not use x-a"),
        ("forward: {token_name: 'x y'}", "forward.token_name must be the name of a header"),
        ("forward: {token_name: authorization}", "forward.token_name must not hold authorization"),
        ("forward: {token: x-a}", "forward.token is not a setting; did you mean 'token_name'?"),
    ],
)
def test_a_mapping_that_cannot_be_is_told(tmp_path: Path, settings: str, wanted: str) -> None:
    assert told(tmp_path, settings).startswith(wanted)
