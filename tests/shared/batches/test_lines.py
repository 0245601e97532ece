"""Lines of a batch's input: every fault is found with its line, and nothing but faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.batches.lines import MAX_FAULTS, MAX_LINE_BYTES, CheckedInput, CheckedLine, InputCheck, read_lines

ENDPOINT = "/v1/chat/completions"
MODELS = {"demo": "demo", "fast": "demo", "other": "other"}


def _line(custom_id: str, /, **changes: Any) -> dict[str, Any]:
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {"model": "demo", "messages": []}}
    return {name: value for name, value in {**line, **changes}.items() if value is not ...}


def _with_body(**changes: Any) -> dict[str, Any]:
    body = {"model": "demo", "messages": [], **changes}
    return {name: value for name, value in body.items() if value is not ...}


async def _parts(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def _check(data: bytes, *, size: int = 65_536, max_lines: int = 50_000) -> CheckedInput:
    return asyncio.run(InputCheck(ENDPOINT, MODELS.get, max_lines=max_lines).run(_parts(data, size)))


def _codes(data: bytes, **more: Any) -> list[tuple[str, str | None, int | None]]:
    return [(fault.code, fault.param, fault.line) for fault in _check(data, **more).faults]


FAULTS: list[tuple[bytes | dict[str, Any], list[tuple[str, str | None]]]] = [
    (b"{", [("invalid_json_line", None)]),
    (b"[]", [("invalid_json_line", None)]),
    (b"\xff", [("invalid_json_line", None)]),
    (b'{"custom_id":1e999}', [("invalid_json_line", None)]),
    (b'{"custom_id":"a","custom_id":"b"}', [("invalid_json_line", None)]),
    (_line("x", custom_id=...), [("missing_required_parameter", "custom_id")]),
    (_line("x", method=...), [("missing_required_parameter", "method")]),
    (_line("x", url=...), [("missing_required_parameter", "url")]),
    (_line("x", body=...), [("missing_required_parameter", "body")]),
    (_line("x", body=_with_body(model=...)), [("missing_required_parameter", "body.model")]),
    (_line("x", custom_id=7), [("invalid_type", "custom_id")]),
    (_line("x", custom_id=""), [("invalid_value", "custom_id")]),
    (_line("x" * 513), [("invalid_value", "custom_id")]),
    (_line("x", method=None), [("invalid_type", "method")]),
    (_line("x", url=["a"]), [("invalid_type", "url")]),
    (_line("x", body="text"), [("invalid_type", "body")]),
    (_line("x", body=_with_body(model=3)), [("invalid_type", "body.model")]),
    (_line("good"), [("duplicate_custom_id", "custom_id")]),
    (_line("x", url="/v1/embeddings"), [("url_mismatch", "url")]),
    (_line("x", method="GET"), [("invalid_method", "method")]),
    (_line("x", body=_with_body(model="other")), [("model_mismatch", "body.model")]),
    (_line("x", body=_with_body(model="gone")), [("model_not_found", "body.model")]),
    (_line("x", body=_with_body(stream=True)), [("invalid_value", "body.stream")]),
    ({}, [("missing_required_parameter", name) for name in ("custom_id", "method", "url", "body")]),
    (
        _line("x", method="PUT", url="/x", body={"stream": 1}),
        [
            ("invalid_method", "method"), ("url_mismatch", "url"),
            ("missing_required_parameter", "body.model"), ("invalid_value", "body.stream"),
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), FAULTS)
def test_each_fault_has_its_code_its_member_and_its_line(
    line: bytes | dict[str, Any], expected: list[tuple[str, str | None]]
) -> None:
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    data = json.dumps(_line("good")).encode() + b"\n\r\n" + raw + b"\n"
    assert _codes(data) == [(code, param, 3) for code, param in expected]


@given(st.lists(st.sampled_from([0, *range(len(FAULTS))]), max_size=12), st.integers(1, 300), st.booleans())
def test_all_faults_are_told_however_the_file_arrives(places: list[int], size: int, has_last_end: bool) -> None:
    """Good and bad lines in any order: the faults are those of each bad line, by its own number."""
    lines, expected = [json.dumps(_line("good")).encode()], []
    for number, place in enumerate(places, start=2):
        bad, faults = FAULTS[place]
        unique = {**bad, "custom_id": f"n{number}"} if isinstance(bad, dict) and bad.get("custom_id") == "x" else bad
        lines.append(unique if isinstance(unique, bytes) else json.dumps(unique).encode())
        expected += [(code, param, number) for code, param in faults]
    data = b"\n".join(lines) + (b"\n" if has_last_end else b"")
    assert _codes(data, size=size) == expected[:MAX_FAULTS]


@given(st.lists(st.text(alphabet="ab \t\r\n{é", max_size=8), max_size=20), st.integers(1, 9))
def test_lines_are_those_of_the_text_in_whatever_parts_it_comes(texts: list[str], size: int) -> None:
    data = "\n".join(texts).encode()
    expected = [
        (number, stripped)
        for number, line in enumerate(data.split(b"\n"), start=1)
        if (stripped := line.strip(b" \t\r"))
    ]

    async def read() -> list[tuple[int, bytes]]:
        return [pair async for pair in read_lines(_parts(data, size))]

    assert asyncio.run(read()) == expected


def test_a_byte_order_mark_an_alias_and_a_stream_of_false_are_no_faults() -> None:
    second = _line("b", body=_with_body(model="fast", stream=False, service_tier="priority"))
    found = _check(b"\xef\xbb\xbf" + json.dumps(_line("a")).encode() + b"\n" + json.dumps(second).encode())
    assert (found.faults, found.count, found.model) == ([], 2, "demo")


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\t\n"])
def test_a_file_without_a_line_is_empty(data: bytes) -> None:
    assert _codes(data) == [("empty_file", None, None)]


def test_lines_past_the_limit_are_one_fault_and_the_rest_is_not_read() -> None:
    data = b"\n".join(json.dumps(_line(str(n))).encode() for n in range(5))
    assert _codes(data, max_lines=5) == []
    assert _codes(data, max_lines=3) == [("too_many_tasks", None, 4)]


def test_a_hundred_faults_are_told_and_no_more() -> None:
    found = _check(b"{\n" * 500)
    assert len(found.faults) == MAX_FAULTS and found.count <= MAX_FAULTS + 1


def test_a_line_without_an_end_is_not_kept_in_memory() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(MAX_LINE_BYTES // 1024**2 + 40):
            yield b"x" * 1024**2

    async def sizes() -> list[int]:
        return [len(line) async for _, line in read_lines(parts())]

    assert asyncio.run(sizes()) == [MAX_LINE_BYTES + 1]


def test_a_good_line_is_handed_on_whole() -> None:
    line = InputCheck(ENDPOINT, MODELS.get, max_lines=1).add(7, json.dumps(_line("ü")).encode())
    assert line == CheckedLine(7, "ü", {"model": "demo", "messages": []}, "demo")
