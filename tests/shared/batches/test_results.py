"""Results of a batch's lines: each custom_id once in one of two files, whatever the segments hold, byte for byte."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.batches import keys
from shared.batches.record import TokenUsage
from shared.batches.results import Joined, Result, answered, join, not_run, read_segment, records_after, refused, tally
from shared.errors import QueueTimeout
from shared.jobs import Usage
from shared.store import Store, open_store
from tests.support.asynchronous import asynchronous

TENANT, BATCH = "t" * 32, "batch_" + "0" * 32


def _good(line: int, custom_id: str, text: str) -> Result:
    body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    return answered(line, custom_id, f"{line:032x}", body, Usage(1, 2, 3, 0))


def _result(line: int, custom_id: str, text: str, end: int) -> Result:
    if end == 0:
        return _good(line, custom_id, text)
    if end == 1:
        return refused(line, custom_id, f"{line:032x}", QueueTimeout(text or "x"))
    return not_run(line, custom_id, f"{line:032x}", "batch_expired")


async def _write(store: Store, segments: list[list[Result]]) -> None:
    """Write what feeders wrote that each took themselves for the only one: their counts are their own."""
    for number, segment in enumerate(segments):
        await _write_one(store, number, segment, before=3 * number)


async def _write_one(store: Store, number: int, segment: list[Result], *, before: int, writer: str = "0a") -> None:
    key = keys.segment(TENANT, BATCH, number, before=before, count=len(segment), writer=writer)
    await store.put(key, b"".join(one.to_line() for one in segment))


async def _ids_after(store: Store, after: int) -> list[str]:
    text = b"".join([part async for part in records_after(store, TENANT, BATCH, after)])
    return [json.loads(line)["custom_id"] for line in text.splitlines()]


async def _join(store: Store) -> tuple[Joined, dict[str, bytes]]:
    files: dict[str, bytes] = {}

    async def create(name: str, parts: AsyncIterator[bytes]) -> str:
        files[name] = b"".join([part async for part in parts])
        return f"file-{name}"

    return await join(store, TENANT, BATCH, create), files


_TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(['","record":{', '"}\n', "\u2028", '\\","record":']))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(_TEXTS, min_size=1, max_size=8, unique=True),
    st.data(),
)
def test_joined_files_hold_each_custom_id_once_and_its_first_record(ids: list[str], data: st.DataObject) -> None:
    """Feeders that died wrote lines twice, with other ends: the first counts."""
    ends = st.tuples(st.integers(0, len(ids) - 1), _TEXTS, st.integers(0, 2))
    written = data.draw(st.lists(st.lists(ends, max_size=6), max_size=5))
    segments = [[_result(at + 1, ids[at], text, end) for at, text, end in segment] for segment in written]
    first: dict[str, Result] = {}
    for segment in segments:
        for one in segment:
            first.setdefault(one.custom_id, one)

    async def check() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(f"file://{folder}/store")
            await _write(store, segments)
            joined, files = await _join(store)
            found = await tally(store, TENANT, BATCH)
            assert found.next_segment == len(segments)
            assert found.lines == {one.line for one in first.values()}
        for name, ok, file_id in (("output", True, joined.output_file_id), ("error", False, joined.error_file_id)):
            expected = [one for one in first.values() if one.ok is ok]
            lines = files.get(f"{BATCH}_{name}.jsonl", b"").split(b"\n")[:-1]
            assert lines == [one.record for one in expected]
            assert [json.loads(line)["custom_id"] for line in lines] == [one.custom_id for one in expected]
            assert (file_id is None) == (not expected), "an empty file is no file"
        good = sum(1 for one in first.values() if one.ok)
        assert (joined.tally.completed, joined.tally.failed) == (good, len(first) - good)
        assert joined.tally.usage == TokenUsage(good, 2 * good, 3 * good, 0, 0)

    asyncio.run(check())


@given(_TEXTS, _TEXTS, st.integers(0, 2), st.integers(1, 50_000))
def test_a_segments_line_is_read_as_it_was_written(custom_id: str, text: str, end: int, line: int) -> None:
    result = _result(line, custom_id, text, end)
    assert result.to_line().count(b"\n") == 1
    assert list(read_segment(result.to_line() * 2)) == [result, result]


def test_the_three_ends_of_a_line_are_openais_records() -> None:
    def read(result: Result) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(result.record)
        assert list(record) == ["id", "custom_id", "response", "error"]
        assert record["id"].startswith("batch_req_") and record["custom_id"] == "a"
        return record

    job = "f" * 32
    good = read(answered(1, "a", job, b'{"id": "x",\n"n": 1.50}\n', None))
    assert good["response"] == {"status_code": 200, "request_id": f"req_{job}", "body": {"id": "x", "n": 1.5}}
    assert good["error"] is None
    bad = read(refused(1, "a", job, QueueTimeout("Late.")))
    assert (bad["response"]["status_code"], bad["error"]) == (504, None)
    assert bad["response"]["body"]["error"]["code"] == "queue_timeout"
    for code in ("batch_expired", "batch_cancelled", "request_timeout"):
        gone = read(not_run(1, "a", job, code))
        assert gone["response"] is None and gone["error"]["code"] == code and gone["error"]["message"]


def test_an_answer_passes_byte_for_byte_with_its_reasoning_tokens_counted() -> None:
    body = b'{"n":1.50,"usage":{"completion_tokens_details":{"reasoning_tokens":7}}}'
    result = answered(1, "a", "f" * 32, body, Usage(10, 20, 30, 4))
    assert b'"body":' + body + b"}" in result.record
    assert result.usage == TokenUsage(10, 20, 30, 4, 7)


@asynchronous
async def test_results_are_read_on_from_where_a_reader_stands() -> None:
    """Also where two feeders wrote: then no name is believed."""
    segments = [[_good(n, f"id{n}", "x") for n in range(at, at + 3)] for at in (1, 4, 7)]
    again = [_good(2, "id2", "again"), *segments[1]]
    for second, writer in ((segments[1], ""), (again, "0b"), (segments[1][:2], "0b"), (segments[0], "0b")):
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(f"file://{Path(folder) / 'store'}")
            await _write(store, segments)
            if writer:
                await _write_one(store, 1, second, before=3, writer=writer)
            for after in range(11):
                assert await _ids_after(store, after) == [f"id{n}" for n in range(after + 1, 10)]


@asynchronous
async def test_a_reader_who_goes_on_opens_no_segment_that_he_has_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"file://{Path(folder) / 'store'}")
        await _write(store, [[_good(n, f"id{n}", "x") for n in range(at, at + 3)] for at in (1, 4, 7)])
        first, second, third = await store.list(keys.segments(TENANT, BATCH))
        for key, fewest in ((first, 3), (second, 6), (third, 9)):
            await store.put(key, b"cannot be read\n")
            for after in range(11):
                if after >= fewest:
                    assert await _ids_after(store, after) == [f"id{n}" for n in range(after + 1, 10)]
                else:
                    with pytest.raises(json.JSONDecodeError):
                        await _ids_after(store, after)
