"""Random runs: a seed in; whether Redis and the model went together, and if not the fewest steps that show it, out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Final

from shared import keys
from shared.protocol import DAY_MS
from tests.shared.room_cast import APIS, WORKERS, Broken, Step
from tests.shared.room_limits import MODELS
from tests.shared.room_probe import Probe
from tests.shared.room_world import World

WEIGHTS: Final[dict[str, float]] = {
    "admit": 24, "cancel": 2.5, "forget": 4, "peek": 2, "beat": 8, "take": 22, "append": 24, "release": 4, "renew": 9,
    "leave": 0.8, "hang": 1.6, "sweep": 6, "pass_time": 5, "silence": 0.25, "clock_back": 0.3, "remember": 1.2,
    "fall_back": 0.6, "spoil": 0.2, "admit_line": 6, "results": 3, "take_back": 1, "make_room": 5,
    "away": 0.7, "back": 3,
    "set_model": 1.5, "end_jobs": 1, "move_jobs": 1.5,
}  # fmt: skip
MISFORTUNES: Final = ("leave", "hang", "silence", "clock_back", "fall_back", "spoil")


def steps_of(seed: int, count: int) -> list[Step]:
    """Return a run's steps. Runs differ in how fast time passes, how much is asked and how much goes wrong."""
    draw = Random(seed)
    moods = [(MISFORTUNES, (0.0, 1, 1, 3)), (("pass_time",), (0.3, 1, 2)), (("admit",), (0.5, 1, 1.5))]
    weights = dict(WEIGHTS)
    for names, factors in moods:
        factor = draw.choice(factors)
        weights |= {name: weights[name] * factor for name in names}
    chosen = draw.choices([*weights], [*weights.values()], k=count)
    return [Step(name, draw.getrandbits(32)) for name in chosen]


def serve_out(world: World) -> None:
    """Let everybody do their work: whatever waits or runs must end, by tickets and renewals alone."""
    draw = Random(1)
    for model in MODELS:
        world.back_for(model)
        world.set_one(model, "resume")
    for _ in range(90):
        if not any(room.waits or room.running for room in world.model.rooms.values()):
            return
        world.let_pass(1_000)
        for api in APIS:
            world.beat_one(api)
        for worker in WORKERS:
            world.renew_one(worker)
        world.sweep_now(APIS[0])
        for worker in WORKERS:
            for model in MODELS:
                if world.model.rooms[model].tickets:
                    world.take_for(draw, worker, model)
            for _ in range(4):
                world.append_for(draw, worker, [world.some_events(draw, held) for held in world.held[worker]])
    raise Broken(f"still there: {[(job.id, job.state) for job in world.model.jobs.values()]}")


def finish(world: World) -> None:
    """Let everything end: nothing may stay but what is allowed to."""
    for worker in WORKERS:
        world.leave_one(worker)
    for api in APIS:
        world.beat_one(api)  # as each does at once where it meets another server
        world.beat_one(api, gone=True)
    for of_worker in world.held.values():
        of_worker.clear()
    for _ in range(45):  # nobody is judged after a longer silence
        world.let_pass(2_900)
        world.sweep_now(APIS[0])
    for _ in range(4):  # a day: so long the ends of a batch's lines are kept
        world.let_pass(DAY_MS // 3)
        world.sweep_now(APIS[0])
    world.let_pass(1_200_000)
    world.compare(world.probe.look())
    allowed = {keys.AUDIT, keys.SWEPT, keys.RUN, keys.PROCESSES, *map(keys.queue, MODELS), *map(keys.room, MODELS)}
    kept = (keys.PREFIXES["spent"], keys.PREFIXES["usage"])
    left = {key for key in world.probe.look().keys.keys() - allowed if not key.startswith(kept)}
    if left:
        raise Broken(f"left behind: {sorted(left)}")
    counted = sum(counts[0] for counts in world.model.usage.values())
    ended = world.model.accepted - world.model.vanished
    if counted != ended:
        raise Broken(f"{counted} jobs counted, where {ended} have ended")


def play(probe: Probe, steps: Sequence[Step]) -> tuple[int, str] | None:
    """Take steps from an empty Redis on; returns which one broke what, or None."""
    world = World(probe)
    taken = 0
    try:
        world.begin()
        for step in steps:
            world.do(step)
            taken += 1
        serve_out(world)
        finish(world)
    except Broken as broken:
        return taken, str(broken)
    return None


def _kind(text: str) -> str:
    """Return what a failure is about, whatever it happened to."""
    return re.sub(r"[0-9a-f.]{8,}|\d", "", text)[:24]


def shrunk(probe: Probe, steps: Sequence[Step], kind: str, plays: int) -> list[Step]:
    """Return fewer steps that break something still: drops ever smaller pieces while it does."""
    least, size = list(steps), max(1, len(steps) // 2)
    while plays > 0:
        at = 0
        while at < len(least) and plays > 0:
            tried = least[:at] + least[at + size :]
            plays -= 1
            broke = play(probe, tried)
            if broke and _kind(broke[1]) == kind:
                least = tried[: broke[0] + 1]
            else:
                at += size
        if size == 1:
            break
        size = max(1, size // 2)
    return least


def report(probe: Probe, seed: int, steps: Sequence[Step], broke: tuple[int, str], plays: int) -> str:
    """Return what to read of a broken run: the seed, the fewest steps, what differs."""
    fewest = shrunk(probe, steps[: broke[0] + 1], kind=_kind(broke[1]), plays=plays)
    again = play(probe, fewest) or broke
    lines = [f"seed {seed}, step {broke[0]}: {broke[1]}", f"the same in {len(fewest)} steps: {again[1]}"]
    return "\n  ".join([*lines, *map(str, fewest)])


def run_seed(probe: Probe, seed: int, count: int, *, plays: int = 150) -> str | None:
    """Play one run; returns a report when it broke, with the fewest steps that `plays` tries have found."""
    steps = steps_of(seed, count)
    broke = play(probe, steps)
    return None if broke is None else report(probe, seed, steps, broke, plays)
