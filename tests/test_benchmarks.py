"""What measures: answers that are not right are told, and figures are held to what they should be."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.client import Exchange
from benchmarks.growth import written
from benchmarks.load import spread
from benchmarks.processes import ROOT, Child, LoadGenerator
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


def test_a_stream_that_came_in_one_piece_was_silent_until_then() -> None:
    exchange = Exchange(3)
    exchange.begun_at, exchange.first_at, exchange.last_at, exchange.ended_at = 1.0, 3.0, 3.0, 3.5
    assert exchange.longest_silence == 2.5
    exchange.last_at, exchange.longest_gap = 3.2, 0.2
    assert exchange.longest_silence == 0.2


def test_a_target_is_met_up_to_its_bound_and_neither_met_nor_missed_without_a_figure() -> None:
    assert Aim("", 50.0, "<=", 50, "ms").met == "yes"
    assert Aim("", 50.1, "<=", 50, "ms").met == "NO"
    assert Aim("", 1.5, ">=", 1.5, "of a peer").met == "yes"
    assert Aim("", 1.49, ">=", 1.5, "of a peer").met == "NO"
    assert Aim("", None, ">=", 1.5, "of a peer").met == "-"
    assert Aim("", spread([])["p50"], "<=", 50, "ms").met == "NO"


def test_a_curve_is_written_with_how_its_cost_stands_to_the_first_of_its_kind(tmp_path: Path) -> None:
    points: list[dict[str, Any]] = [
        {"streams": 1, "target": "direct", "cost": None},
        {"streams": 1, "target": "aqueduct", "cost": 20.0},
        {"streams": 2, "target": "aqueduct", "cost": 30.0},
    ]
    written(tmp_path / "curves", "streams", points, "cost", by="target")
    rows = list(csv.DictReader((tmp_path / "curves/streams.csv").read_text().splitlines()))
    assert [row["times"] for row in rows] == ["", "1.0", "1.5"]
    assert json.loads((tmp_path / "curves/streams.json").read_text())[2]["times"] == 1.5


_ALONE = """
import socket
from benchmarks import lone_network
from benchmarks.processes import BenchmarkError
try:
    lone_network.enter()
except BenchmarkError as error:
    assert "leave it out of --peer" in str(error)
else:
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    with socket.create_server(("", 0)) as server:
        socket.create_connection(("127.0.0.1", server.getsockname()[1])).close()
"""


def test_what_listens_on_every_address_runs_in_a_network_that_has_loopback_alone_or_not_at_all() -> None:
    subprocess.run([sys.executable, "-c", _ALONE], check=True, cwd=ROOT, timeout=30)
