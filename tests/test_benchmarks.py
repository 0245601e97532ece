"""What measures: answers that are not right are told, and figures are held to what they should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.client import Exchange
from benchmarks.load import spread
from benchmarks.processes import Child, LoadGenerator
from benchmarks.targets import Aim


@pytest.fixture
def target(tmp_path: Path) -> Iterator[dict[str, Any]]:
    backend = Child.python("benchmarks.backend", log_file=tmp_path / "backend.log", talks=True)
    yield {"host": "127.0.0.1", "port": backend.read_line()["port"], "path": "/v1", "token": "none"}
    backend.stop()


@pytest.fixture
def load(tmp_path: Path) -> Iterator[LoadGenerator]:
    generator = LoadGenerator(tmp_path / "load.log")
    yield generator
    generator.stop()


def test_a_crowd_is_measured_while_others_flow_and_every_answer_is_read(
    target: dict[str, Any], load: LoadGenerator
) -> None:
    windows: list[None] = []
    command = {
        "op": "crowd", "target": target, "model": "bench?token_seconds=0.02", "others": 10, "others_tokens": 20,
        "clients": 15, "tokens": 5, "settle_seconds": 0.5,
    }  # fmt: skip
    result = load.run(command, lambda: windows.append(None))
    assert result["errors"] == {}
    assert result["verified"] >= 10 + 15
    assert len(windows) == 2
    assert result["gap_ms"]["p50"] > 0
    assert result["first_ms"]["max"] > 0


def test_staggered_streams_are_verified_by_the_length_that_each_asked_for(
    target: dict[str, Any], load: LoadGenerator
) -> None:
    command = {
        "op": "streams", "target": target, "model": "bench?token_seconds=0.01", "clients": 7, "tokens": 10,
        "seconds": 0.3, "warmup_seconds": 0.2, "staggered": True,
    }  # fmt: skip
    result = load.run(command, lambda: None)
    assert result["errors"] == {}
    assert result["verified"] >= 7


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (["0", " 1", " 2"], ""),
        (["0", " 2", " 1"], "altered content"),
        (["0", " 1"], "altered content"),
        (["0", " 1", " 2", " 3"], "altered content"),
    ],
)
def test_a_stream_is_wrong_unless_it_is_complete_in_order_and_unaltered(contents: list[str], problem: str) -> None:
    exchange = Exchange(3)
    exchange.status = 200
    exchange.pieces = [f'data: {{"id":"a","content":"{one}"}}\n\n'.encode() for one in contents]
    exchange.pieces.append(b"data: [DONE]\n\n")
    assert exchange.verify_stream() == problem


def test_a_target_is_met_up_to_its_bound_and_neither_met_nor_missed_without_a_figure() -> None:
    assert Aim("", 50.0, "<=", 50, "ms").met == "yes"
    assert Aim("", 50.1, "<=", 50, "ms").met == "NO"
    assert Aim("", 1.5, ">=", 1.5, "of a peer").met == "yes"
    assert Aim("", 1.49, ">=", 1.5, "of a peer").met == "NO"
    assert Aim("", None, ">=", 1.5, "of a peer").met == "-"
    assert Aim("", spread([])["p50"], "<=", 50, "ms").met == "NO"
