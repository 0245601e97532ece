"""The scripts against the model: some random runs, as in `python -m tests.chaos scripts`, which plays many more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.shared.room_probe import Probe
from tests.shared.room_runs import run_seed
from tests.support.processes import RedisServer

STEPS = 300
SEEDS = (3, 8, 9, 17, 20, 27, 38, 46, 61, 65, 85, 100)
"""Chosen from a hundred so that everything rare happens in some of them."""
PLAYS = 30
"""So often at most is a broken run tried with fewer steps."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    folder = tmp_path_factory.mktemp("model-redis")
    with RedisServer(folder, settings=("appendonly no",)) as server, server.client() as client:
        yield client


@pytest.fixture
def probe(client: redis.Redis) -> Probe:
    return Probe(client)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_the_scripts_do_as_the_model_says(probe: Probe, seed: int) -> None:
    assert run_seed(probe, seed, STEPS, plays=PLAYS) is None


@pytest.mark.parametrize("seed", [5038, 251219354, 251219369, 251219471])
def test_what_broke_once_holds(probe: Probe, seed: int) -> None:
    """Large jobs set aside of a group; full, held models; heads that were lost; promises and a clock set back."""
    assert run_seed(probe, seed, 400) is None


def test_the_clock_by_which_older_servers_are_tried_is_as_good(client: redis.Redis) -> None:
    assert run_seed(Probe(client, moves_ms=0), SEEDS[0], STEPS, plays=PLAYS) is None
