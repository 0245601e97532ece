"""What an operator changes in the parameters of a request, for each backend, and what stays the client's."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from shared.jobs import TakenJob
from shared.kinds import KINDS
from shared.settings import ModelSettings
from tests.kinds.models import model_of
from tests.support.rooms import a_spec

ASKS: dict[str, dict[str, Any]] = {
    "chat.completions": {"messages": [{"role": "user", "content": "x"}]},
    "completions": {"prompt": "x"},
    "embeddings": {"input": "x"},
}
URL = "http://127.0.0.1:1/v1"


def text_of(kind: str, parameters: dict[str, Any], model: ModelSettings, api: ModelSettings | None, lane: str) -> bytes:
    made = KINDS[kind]
    request = made.validate({"model": "m", **ASKS[kind], **parameters})
    accepted = made.accept(request, api or model)
    spec = a_spec(kind=kind, stream=request.stream, options=orjson.loads(orjson.dumps(accepted.options)), lane=lane)
    job = TakenJob(id="j", model="m", attempt=b"1.x", spec=spec, body=accepted.body, queue_ms=0)
    return made.request(job, "m", model.backends[0], request.stream)


def sent(
    kind: str = "chat.completions",
    changes: dict[str, Any] | None = None,
    *,
    by_lane: dict[str, Any] | None = None,
    of_model: dict[str, Any] | None = None,
    lane: str = "default",
    old_api: bool = False,
    max_tokens_field: str | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """Return what a backend with these changes is sent, without what every request has; no name stands twice."""
    backend = {"url": URL, "parameters": changes or {}, "by_lane": by_lane or {}, "max_tokens_field": max_tokens_field}
    model = model_of(backends=[backend], parameters=of_model or {})
    body = text_of(kind, parameters, model, model_of() if old_api else None, lane)
    pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=lambda given: given)
    assert len(pairs) == len({name for name, _ in pairs})
    members: dict[str, Any] = json.loads(body)
    return {name: value for name, value in members.items() if name not in ("model", *ASKS[kind])}


@pytest.mark.parametrize("old_api", [False, True], ids=["API and worker agree", "API had other settings"])
@pytest.mark.parametrize("kind", ASKS)
def test_defaults_are_for_who_says_nothing_forced_for_all_and_removed_for_nobody(kind: str, old_api: bool) -> None:
    changes = {
        "defaults": {"top_k": 20, "seed": 7, "kept": True},
        "forced": {"chat_template_kwargs": {"thinking": False}, "none": None},
        "removed": ["user", "absent"],
    }
    given: dict[str, Any] = {
        "user": "u",
        "top_k": 5,
        "seed": None,
        "chat_template_kwargs": {"a": [1]},
        "other": "é\U0001f600",
        "last": 1,
    }
    if kind == "embeddings":
        given.pop("seed")
    assert sent(kind, changes, old_api=old_api, **given) == {
        "top_k": 5,
        "seed": 7,
        "kept": True,
        "chat_template_kwargs": {"thinking": False},
        "none": None,
        "other": "é\U0001f600",
        "last": 1,
    }


def test_the_rest_of_a_request_is_not_written_anew() -> None:
    changed = model_of(backends=[{"url": URL, "parameters": {"removed": ["user"]}}])
    messages = [{"role": "user", "content": "x" * 100_000}]
    body = text_of("chat.completions", {"messages": messages, "user": "u", "n": 2}, changed, None, "default")
    plain = text_of("chat.completions", {"messages": messages, "n": 2}, model_of(), None, "default")
    assert body == plain


def test_nothing_is_noted_where_nothing_is_changed() -> None:
    chat = KINDS["chat.completions"]
    accepted = chat.accept(chat.validate({"model": "m", **ASKS["chat.completions"], "user": "u"}), model_of())
    assert "front" not in accepted.options
    assert model_of().backends[0].changes("default") is None


def test_integers_of_any_size_stay_exact() -> None:
    assert sent(changes={"removed": ["user"], "forced": {"big": 2**70}}, huge=2**80, user="u") == {
        "huge": 2**80,
        "big": 2**70,
    }


@pytest.mark.parametrize(
    ("changes", "given", "wanted"),
    [
        ({"defaults": {"max_tokens": 9}}, {}, {"max_tokens": 9}),
        ({"defaults": {"max_tokens": 9}}, {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        ({"forced": {"max_completion_tokens": 9}}, {"max_tokens": 5}, {"max_completion_tokens": 9}),
        ({"removed": ["max_tokens"]}, {"max_completion_tokens": 5}, {}),
    ],
)
def test_the_limit_of_tokens_is_one_thing_with_two_names(
    changes: dict[str, Any], given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert sent(changes=changes, **given) == wanted
    renamed = dict(zip(["max_tokens"], wanted.values(), strict=False))
    assert sent(changes=changes, max_tokens_field="max_tokens", **given) == renamed


def test_a_completions_limit_is_a_parameter_as_any() -> None:
    assert sent("completions", changes={"forced": {"max_tokens": 9}}, max_tokens=5) == {"max_tokens": 9}


def test_what_a_backend_says_of_a_name_stands_over_what_its_model_says() -> None:
    of_model = {"defaults": {"top_k": 1, "min_p": 0.1}, "forced": {"a": 1}, "removed": ["user", "b"]}
    changes = {"defaults": {"b": 2}, "forced": {"top_k": 3}, "removed": ["a"]}
    assert sent(changes=changes, of_model=of_model, user="u") == {"min_p": 0.1, "b": 2, "top_k": 3}


def test_each_backend_of_a_model_has_its_own_changes() -> None:
    first, second = {"forced": {"a": 1}}, {"removed": ["b"]}
    model = model_of(backends=[{"url": URL, "parameters": first}, {"url": URL, "parameters": second}, {"url": URL}])
    chat = KINDS["chat.completions"]
    accepted = chat.accept(chat.validate({"model": "m", **ASKS["chat.completions"], "a": 0, "b": 0, "c": 0}), model)
    spec = a_spec(stream=False, options=accepted.options)
    job = TakenJob(id="j", model="m", attempt=b"1.x", spec=spec, body=accepted.body, queue_ms=0)
    bodies = [orjson.loads(chat.request(job, "m", backend, False)) for backend in model.backends]
    told = [{name: body[name] for name in "abc" if name in body} for body in bodies]
    assert told == [{"a": 1, "b": 0, "c": 0}, {"a": 0, "c": 0}, {"a": 0, "b": 0, "c": 0}]


@pytest.mark.parametrize(("lane", "wanted"), [("priority", {"priority": 0}), ("batch", {"priority": 10}), ("flex", {})])
def test_a_lanes_parameters_stand_over_everything(lane: str, wanted: dict[str, Any]) -> None:
    by_lane = {"priority": {"parameters": {"priority": 0}}, "batch": {"parameters": {"priority": 10}}}
    changes = {"removed": ["priority"]}
    assert sent(by_lane=by_lane, changes=changes, lane=lane, priority=-5) == wanted


def test_changes_leave_cost_and_policy_to_what_the_client_said() -> None:
    model = model_of(
        extra_parameters="refuse", parameters={"forced": {"top_k": 1, "max_tokens": 5}}, default_max_tokens=100
    )
    chat = KINDS["chat.completions"]
    accepted = chat.accept(chat.validate({"model": "m", **ASKS["chat.completions"]}), model)
    plain = chat.accept(chat.validate({"model": "m", **ASKS["chat.completions"]}), model_of(default_max_tokens=100))
    assert accepted.cost == plain.cost
