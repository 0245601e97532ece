"""The chaos suite's judge: what is wrong with an answer cannot hide from it."""

from __future__ import annotations

import json

import pytest

from tests.chaos.answers import Answer, expected_content
from tests.chaos.stand import Episode
from tests.chaos.table import recovery_seconds

DONE = b"data: [DONE]\n\n"


def chunk(content: str = "", *, finish: str | None = None, chunk_id: str = "chatcmpl-1") -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": chunk_id, "choices": [choice]}).encode() + b"\n\n"


END = chunk(finish="stop")
ERROR = b'data: {"error": {"code": "job_lost"}}\n\n'


def streamed(*parts: bytes) -> Answer:
    answer = Answer(marker="r1a1", model="m", stream=True, sent_at=0.0, expected=expected_content("r1a1", 3))
    for part in parts:
        answer.feed(part)
    answer.end_stream()
    return answer


def test_a_right_answer_is_complete_however_its_bytes_come() -> None:
    whole = b": queued, 3 ahead\n\n" + chunk("r1a1 ") + chunk("0 ") + chunk("1 ") + chunk("2 ") + END + DONE
    for size in (1, 7, len(whole)):
        answer = streamed(*(whole[start : start + size] for start in range(0, len(whole), size)))
        assert (answer.verdict, answer.is_altered, answer.is_doubled) == ("completed", False, False)


@pytest.mark.parametrize(
    "parts",
    [
        (chunk("r1a1 0 2 "), END, DONE),
        (chunk("r1a1 0 1 "), END, DONE),
        (chunk("r1a1 0 1 2 2 "), END, DONE),
        (chunk("r2a1 0 1 2 "), END, DONE),
        (chunk("r1a1 0 "), chunk("1 2 ", chunk_id="chatcmpl-2"), END, DONE),
        (chunk("r1a1 1 "), ERROR, DONE),
    ],
    ids=["gap", "end-missing", "repeat", "another's", "two-answers-mixed", "gap-before-error"],
)
def test_altered_text_is_seen(parts: tuple[bytes, ...]) -> None:
    assert streamed(*parts).is_altered


@pytest.mark.parametrize(
    "parts",
    [
        (chunk("r1a1 0 1 2 "), END, DONE, DONE),
        (chunk("r1a1 0 "), chunk("r1a1 0 1 2 "), END, DONE),
        (chunk("r1a1 0 1 2 "), END, END, DONE),
        (chunk("r1a1 0 "), ERROR, chunk("1 "), DONE),
        (chunk("r1a1 0 "), ERROR, ERROR, DONE),
    ],
    ids=["two-ends", "run-twice", "two-finishes", "text-after-error", "two-errors"],
)
def test_a_second_answer_is_seen(parts: tuple[bytes, ...]) -> None:
    assert streamed(*parts).is_doubled


def test_a_splice_of_two_runs_is_seen_though_no_number_is_missing() -> None:
    spliced = streamed(chunk("r1a1 "), chunk("0.aaaaaa "), chunk("1.bbbbbb "), chunk("2.bbbbbb "), END, DONE)
    assert (spliced.verdict, spliced.is_altered, spliced.is_spliced) == ("completed", False, True)
    whole = streamed(chunk("r1a1 "), chunk("0.aaaaaa "), chunk("1.aaaaaa "), chunk("2.aaaaaa "), END, DONE)
    assert (whole.is_altered, whole.is_spliced) == (False, False)


@pytest.mark.parametrize("parts", [(chunk("r1a1 0 "),), (chunk("r1a1 0 1 2 "), END), (DONE,)])
def test_a_stream_without_its_end_is_lost(parts: tuple[bytes, ...]) -> None:
    assert streamed(*parts).verdict == "lost"


def test_recovery_is_the_longest_silence_after_the_harm() -> None:
    quick = Answer(marker="a", model="m", stream=True, sent_at=1, expected="", ended_at=9, progress_at=[2, 5.5, 9])
    slow = Answer(marker="b", model="m", stream=False, sent_at=2, expected="", ended_at=12, progress_at=[12])
    later = Answer(marker="c", model="m", stream=False, sent_at=6, expected="", ended_at=99, progress_at=[99])
    assert recovery_seconds([quick, slow, later], [Episode(3, 5)]) == 7
