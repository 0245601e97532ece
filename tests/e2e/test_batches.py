"""Batches from file to files, through the OpenAI SDK and the command: an API, workers that carry them, a backend."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import openai
import pytest
from openai.types import Batch

from aqueduct.cli import main
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

ENDPOINT: Final = "/v1/chat/completions"
MODELS = {
    "quick": model("tokens=3"),
    "slow": model("tokens=3&first_token_seconds=0.5", concurrency=4),
    "fails": model("status=400", max_attempts=1),
}
ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("system")
    with System(
        folder,
        redis_url=module_redis.url,
        backend_url=demo_backend.url,
        models=MODELS,
        settings={"storage": {"url": f"file://{folder}/store"}, "batches": {"shortest_window": "1s"}},
    ) as running:
        yield running


@pytest.fixture(scope="module")
def sdk(system: System) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=system.token) as opened:
        yield opened


def _line(custom_id: str, name: str = "quick", **body: Any) -> dict[str, Any]:
    body = {"model": name, "messages": [{"role": "user", "content": custom_id}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}


def _text(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _create(sdk: openai.OpenAI, data: bytes, window: str = "24h") -> Batch:
    file = sdk.files.create(file=("in.jsonl", data), purpose="batch")
    return sdk.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window=window)  # type: ignore[arg-type]


def _end(sdk: openai.OpenAI, batch: Batch, seconds: float = 40) -> Batch:
    found = [batch]

    def has_ended() -> bool:
        found[0] = sdk.batches.retrieve(batch.id)
        return found[0].status in ENDED

    wait_until(has_ended, seconds, "the batch to end", poll_seconds=0.1)
    return found[0]


def _records(sdk: openai.OpenAI, *file_ids: str | None) -> dict[str, Any]:
    rows = [json.loads(row) for one in file_ids if one for row in sdk.files.content(one).text.splitlines()]
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows), "a custom_id stands twice"
    return found


def test_good_and_bad_lines_end_in_two_files_with_counts_and_usage(sdk: openai.OpenAI) -> None:
    lines = [_line(f"id{n}", service_tier="priority") for n in range(30)]
    lines.insert(3, _line("bad", temperature=9))
    batch = _end(sdk, _create(sdk, _text(lines)))
    assert batch.status == "completed" and batch.model == "quick"
    assert batch.request_counts is not None and batch.usage is not None
    assert batch.request_counts.model_dump() == {"total": 31, "completed": 30, "failed": 1}
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 0
    stamps = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert all(stamps) and stamps == sorted(stamps, key=lambda stamp: stamp or 0)
    good, bad = _records(sdk, batch.output_file_id), _records(sdk, batch.error_file_id)
    assert set(good) == {f"id{n}" for n in range(30)} and set(bad) == {"bad"}
    for row in good.values():
        assert row["error"] is None and row["response"]["status_code"] == 200
        answer = openai.types.chat.ChatCompletion.model_validate(row["response"]["body"])
        assert answer.model == "quick" and answer.choices[0].finish_reason
    assert bad["bad"]["response"]["status_code"] == 400
    assert bad["bad"]["response"]["body"]["error"]["param"] == "temperature"


def test_a_file_with_faults_fails_with_all_of_them_and_nothing_runs(
    sdk: openai.OpenAI, demo_backend: DemoBackend
) -> None:
    mark = f"never-{time.time_ns()}"
    lines = [_line(mark), {**_line(mark), "method": "GET"}, _line("x", "gone"), _line("y", stream=True)]
    batch = _end(sdk, _create(sdk, _text(lines) + b"{\n"))
    assert batch.status == "failed" and batch.failed_at
    assert batch.errors is not None and batch.errors.data is not None
    assert [(fault.line, fault.code) for fault in batch.errors.data] == [
        (2, "duplicate_custom_id"), (2, "invalid_method"), (3, "model_not_found"), (4, "invalid_value"),
        (5, "invalid_json_line"),
    ]  # fmt: skip
    assert batch.output_file_id is None and batch.error_file_id is None
    assert demo_backend.seen(mark) == []


def test_every_line_failed_is_still_completed(sdk: openai.OpenAI) -> None:
    batch = _end(sdk, _create(sdk, _text([_line("a", "fails"), _line("b", "fails")])))
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert set(_records(sdk, batch.error_file_id)) == {"a", "b"}


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_batch_that_is_stopped_keeps_what_has_ended_and_the_rest_runs_again(sdk: openai.OpenAI, how: str) -> None:
    ids = {f"id{n}" for n in range(40)}
    batch = _create(sdk, _text([_line(one, "slow") for one in ids]), "24h" if how == "cancelled" else "3s")

    def some_ended() -> bool:
        counts = sdk.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed > 0

    wait_until(some_ended, 20, "a line to end", poll_seconds=0.1)
    if how == "cancelled":
        assert sdk.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = _end(sdk, batch)
    assert batch.status == how
    good, rest = _records(sdk, batch.output_file_id), _records(sdk, batch.error_file_id)
    assert good and rest and set(good) | set(rest) == ids and not set(good) & set(rest)
    assert {row["error"]["code"] for row in rest.values() if row["error"]} == {f"batch_{how}"}
    again = sdk.post(f"/batches/{batch.id}/retry", cast_to=Batch)
    if how == "expired":
        sdk.batches.cancel(again.id)
    assert _end(sdk, again).request_counts is not None


def test_the_command_sends_watches_fetches_and_fetches_on(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AQUEDUCT_TOKEN", system.token)
    monkeypatch.setenv("AQUEDUCT_URL", system.base_url)
    source, out = tmp_path / "lines.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(_text([_line(f"id{n}", "unknown") for n in range(20)]))
    assert main(["batch", "submit", str(source), "--model", "quick", "--wait", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    batch_id = printed.out.strip()
    assert f"{batch_id} is completed: 20 completed, 0 failed, of 20" in printed.err
    whole = out.read_bytes()
    assert {json.loads(row)["custom_id"] for row in whole.splitlines()} == {f"id{n}" for n in range(20)}
    out.write_bytes(whole[: len(whole) // 2])  # cut inside of a line
    assert main(["batch", "results", batch_id, "--out", str(out)]) == 0
    assert out.read_bytes() == whole
    assert main(["batch", "results", batch_id]) == 0
    assert capsys.readouterr().out.encode() == whole
    assert main(["batch", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["id"] == batch_id
    assert main(["batch", "list"]) == 0
    assert batch_id in capsys.readouterr().out
    assert main(["batch", "show", batch_id]) == 0
    assert "completed" in capsys.readouterr().out
    assert main(["batch", "retry", batch_id]) == 1
    assert "nothing is left to retry" in capsys.readouterr().err
    assert main(["batch", "cancel", batch_id]) == 1
    assert main(["batch", "submit", str(source), "--wait"]) == 1
    assert "line 1: model_not_found" in capsys.readouterr().err


def test_the_command_prints_the_batches_it_makes_and_changes_as_objects_for_programs(
    system: System,
    sdk: openai.OpenAI,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AQUEDUCT_TOKEN", system.token)
    monkeypatch.setenv("AQUEDUCT_URL", system.base_url)

    def told(*arguments: str) -> Batch:
        capsys.readouterr()
        assert main(["batch", *arguments, "--json"]) == 0
        return Batch.model_validate_json(capsys.readouterr().out)

    source = tmp_path / "lines.jsonl"
    source.write_bytes(_text([_line(f"id{n}", "slow") for n in range(40)]))
    made = told("submit", str(source))
    assert made.endpoint == "/v1/chat/completions"
    stopped = told("cancel", made.id)
    assert stopped.id == made.id and stopped.status in ("cancelling", "cancelled")
    assert _end(sdk, made).status == "cancelled"
    again = told("retry", made.id)
    assert again.id != made.id
    sdk.batches.cancel(again.id)
