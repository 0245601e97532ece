"""Chat completions made with `store: true`, by OpenAI's own client: kept, listed, changed and deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System

MODELS = {
    "m": model("prefix=1&tokens=3"),
    "other": model("tokens=2"),
    "slow": model("tokens=20&token_seconds=0.1"),
    "breaks": model("tokens=8&error_after=4"),
    "refuses": model("status=400&code=bad_thing&message=no"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module")
def system(folder: Path, module_redis: RedisServer, demo_backend: DemoBackend) -> Iterator[System]:
    with System(
        folder, redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS,
        tokens={"other": {}}, settings={"storage": {"url": f"file://{folder}/store"}},
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module", params=["", "/v1"])
def sdk(system: System, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    url = system.base_url + request.param
    with OpenAI(base_url=url, api_key=system.token, max_retries=0, timeout=20) as client:
        yield client


def ask(sdk: OpenAI, text: str = "hello", model: str = "m", **more: Any) -> Any:
    return sdk.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], **{"store": True, **more}
    )


def test_a_stored_completion_is_found_again(sdk: OpenAI) -> None:
    made = ask(sdk, temperature=0.5, metadata={"run": "a"})
    found = sdk.chat.completions.retrieve(made.id)
    assert (found.id, found.model, found.choices, found.usage) == (made.id, "m", made.choices, made.usage)
    shown = found.model_dump()
    assert (shown["metadata"], shown["temperature"], shown["tools"]) == ({"run": "a"}, 0.5, None)
    assert shown["request_id"] == "req_" + made.id.removeprefix("chatcmpl-")


def test_one_that_was_not_to_be_stored_is_not(sdk: OpenAI) -> None:
    made = ask(sdk, store=False)
    with pytest.raises(openai.NotFoundError, match="store: true"):
        sdk.chat.completions.retrieve(made.id)
