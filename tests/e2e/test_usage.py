"""What was used: told to operators and to each token, as OpenAI's clients ask; kept when Redis loses everything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.models import model
from tests.support.processes import Process, RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

PATH = "/v1/organization/usage/completions"


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("usage")
    settings = {
        "storage": {"url": (folder / "store").as_uri()}, "usage": {"roll_seconds": 1}, "groups": [{"name": "lab"}],
    }  # fmt: skip
    tokens: dict[str, dict[str, Any]] = {"boss": {"role": "operator"}, "a": {"group": "lab"}, "b": {}}
    with System(
        folder, redis_url=module_redis.url, backend_url=demo_backend.url, models={"m": model("tokens=5")},
        tokens=tokens, settings=settings,
    ) as made:  # fmt: skip
        yield made


def ask(site: System, name: str, count: int) -> int:
    """Send some requests; returns their completion tokens as their answers tell them."""
    with openai.OpenAI(base_url=f"{site.base_url}/v1", api_key=site.tokens[name], max_retries=0) as client:
        answers = [
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
            for _ in range(count)
        ]
    return sum(answer.usage.completion_tokens for answer in answers if answer.usage)


def page(site: System, name: str, **query: Any) -> dict[str, Any]:
    with site.client(site.tokens[name]) as client:
        answer = client.get(PATH, params={"start_time": int(time.time()) - 3600, **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def by_token(site: System, name: str) -> dict[str, tuple[int, int]]:
    """Return requests and completion tokens by token, as one token is told them."""
    sums: dict[str, tuple[int, int]] = {}
    for bucket in page(site, name, group_by="api_key_id")["data"]:
        for one in bucket["results"]:
            known = sums.get(one["api_key_id"], (0, 0))
            sums[one["api_key_id"]] = (known[0] + one["num_model_requests"], known[1] + one["output_tokens"])
    return sums


def listed(site: System, *words: str) -> str:
    command = Process.python(
        "-m",
        "aqueduct",
        "usage",
        *words,
        "--config",
        site.config_file,
        log_file=site.folder / f"usage{len(words)}{words[-1]}.txt",
    )
    with command:
        assert command.wait(20) == 0, command.log()
        return command.log()


def test_usage_is_told_kept_and_added_up(site: System, module_redis: RedisServer) -> None:
    tokens = {"a": ask(site, "a", 3), "b": ask(site, "b", 2)}
    expected = {"a": (3, tokens["a"]), "b": (2, tokens["b"])}
    assert by_token(site, "boss") == expected
    assert by_token(site, "b") == {"b": expected["b"]}  # its own, and nobody else's

    told = json.loads(listed(site, "--by", "token,group,model", "--json"))
    names = ("token", "group", "model", "requests", "completion_tokens")
    rows = [tuple(one[name] for name in names) for one in told["usage"]]
    assert rows == [("a", "lab", "m", 3, tokens["a"]), ("b", "", "m", 2, tokens["b"])]
    first = listed(site, "--csv").splitlines()[0]
    assert first.startswith("token,requests,errors,cancelled,estimated,prompt_tokens")
    assert "COMPLETION" in listed(site, "--by", "day,lane,kind")

    # Redis loses everything: what was copied stays, and what comes is added.
    wait_until(lambda: _is_copied(site.folder / "store", 5), 30, "the copy in the file store")
    with module_redis.client() as client:
        client.flushdb()
        # The API process says each 2 s that it lives; until then nobody seems to listen.
        wait_until(lambda: client.keys("aq2:owner:*"), 20, "the API to say again that it lives")
    wait_until(lambda: by_token(site, "boss") == expected, 20, "what is in the file store")
    wait_until(_is_served(site), 30, "the worker to say again that it lives")
    more = ask(site, "a", 1)
    for _ in range(2):  # before and after it is copied
        assert by_token(site, "boss") == {"a": (4, tokens["a"] + more), "b": expected["b"]}
        wait_until(lambda: _is_copied(site.folder / "store", 6), 30, "the second copy")


def _is_copied(store: Path, requests: int) -> bool:
    hours = [json.loads(file.read_text())["hours"] for file in store.glob("usage/*/*.json")]
    return bool(sum(counts[0] for one in hours for fields in one.values() for counts in fields.values()) == requests)


def _is_served(site: System) -> Any:
    def ready() -> bool:
        with site.client() as client:
            return bool(client.get("/readyz").json().get("unserved") == [])

    return ready


def test_the_sdk_reads_usage(site: System) -> None:
    ask(site, "b", 1)
    with openai.OpenAI(
        base_url=f"{site.base_url}/v1", api_key="unused", admin_api_key=site.tokens["boss"], max_retries=0
    ) as client:
        found = client.admin.organization.usage.completions(
            start_time=int(time.time()) - 3600, bucket_width="1h", group_by=["model", "batch"], models=["m"], limit=1
        )
    assert found.has_more and found.next_page
    second = page(site, "boss", bucket_width="1h", limit=1, page=found.next_page, **{"group_by[]": "project_id"})
    assert second["data"][0]["start_time"] == found.data[0].end_time
    results = second["data"][0]["results"]
    assert results and all(one["model"] is None and one["batch"] is None for one in results)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"bucket_width": "1m"}, "bucket_width"),
        ({"group_by": "colour"}, "group_by"),
        ({"limit": "1000"}, "limit"),
        ({"page": "x"}, "page"),
        ({"end_time": "1"}, "end_time"),
        ({"start_time": "now"}, "start_time"),
        ({"color": "1"}, "color"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(site: System, query: dict[str, str], param: str) -> None:
    with site.client() as client:
        answer = client.get(PATH, params={"start_time": str(int(time.time()) - 60), **query})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
