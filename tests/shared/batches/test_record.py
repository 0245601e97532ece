"""A batch's record: which status follows which, what is written and read back, and what the caller sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Batch

from shared.batches.record import (
    ENDED,
    MOVES,
    BatchRecord,
    Counts,
    ForbiddenMove,
    Status,
    TokenUsage,
    moved,
    public,
)
from shared.batches.window import seconds_of, window_problem


def _record(**more: object) -> BatchRecord:
    given: dict[str, object] = {
        "id": "batch_" + "0" * 32,
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-1",
        "completion_window": "24h",
        "created_at": 1000,
        "expires_at": 87_400,
        "token": "team-a",
    }
    return BatchRecord(**{**given, **more})  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(Status), max_size=8))
def test_only_the_moves_of_the_table_are_made_and_each_leaves_its_time(statuses: list[Status]) -> None:
    record = _record()
    for now, status in enumerate(statuses, start=2000):
        if status in MOVES[record.status]:
            record = moved(record, status, now + 0.9)
            assert record.status is status
            assert getattr(record, f"{status}_at") == now
        else:
            with pytest.raises(ForbiddenMove):
                moved(record, status, now)
    assert record.has_ended == (record.status in ENDED)


def test_a_record_is_read_as_it_was_written_and_members_of_a_later_version_are_left_out() -> None:
    record = _record(
        status=Status.EXPIRED,
        counts=Counts(3, 1, 2),
        usage=TokenUsage(1, 2, 3, 4, 5),
        metadata={"a": "b"},
        errors=({"code": "x", "message": "y", "param": None, "line": 1},),
    )
    text = record.to_json()
    assert BatchRecord.from_json(text) == record
    assert BatchRecord.from_json(text[:-1] + b',"later":1}') == record


def test_what_the_caller_sees_is_openais_object_in_every_member() -> None:
    record = _record(usage=TokenUsage(10, 5, 15, 2, 1), counts=Counts(3, 1, 2))
    shown = public(record)
    batch = Batch.model_validate(shown)
    assert set(shown) == set(Batch.model_fields)
    assert batch.usage is not None and batch.usage.input_tokens_details.cached_tokens == 2
    assert shown["output_file_id"] is None and shown["errors"] is None
    assert "token" not in shown


def test_newer_counts_and_a_cancel_are_shown_until_the_end() -> None:
    live = Counts(3, 2, 0)
    running = moved(_record(counts=Counts(3)), Status.IN_PROGRESS, 1)
    shown = public(running, live=live, cancel_since=1500)
    assert shown["request_counts"] == {"total": 3, "completed": 2, "failed": 0}
    assert (shown["status"], shown["cancelling_at"]) == ("cancelling", 1500)
    ended = moved(moved(running, Status.FINALIZING, 2), Status.COMPLETED, 3)
    shown = public(ended, live=live, cancel_since=1500)
    assert shown["request_counts"]["completed"] == 0
    assert (shown["status"], shown["cancelling_at"]) == ("completed", None)


@pytest.mark.parametrize(
    ("window", "shortest", "is_good"),
    [
        ("24h", "1h", True), ("60m", "1h", True), ("59m", "1h", False), ("7d", "1h", True), ("8d", "1h", False),
        ("168h", "1h", True), ("5s", "1s", True), ("3600s", "1h", False), ("5s", "1h", False), ("", "1h", False),
        ("0h", "1h", False), ("24H", "1h", False), ("24h ", "1h", False), ("-1h", "1h", False), ("1.5h", "1h", False),
        ("٢٤h", "1h", False), ("1m", "1m", True), ("60s", "1m", False),
    ],
)  # fmt: skip
def test_windows_from_the_smallest_to_seven_days(window: str, shortest: str, is_good: bool) -> None:
    assert (window_problem(window, shortest) is None) == is_good


def test_a_span_in_seconds() -> None:
    assert [seconds_of(text) for text in ("5s", "2m", "3h", "7d", "x")] == [5, 120, 10_800, 604_800, None]
