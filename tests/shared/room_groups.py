"""What the model says of groups: only the head of each has a tag in the lane, the group's; others stand at the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.shared.room_state import Job, Room

SINCE: Final = ":since"
"""Beside a lane's tags: when the first group was charged, as its clock is counted now."""


def head_of(room: Room, group: str) -> str | None:
    """Return who of a group goes next."""
    members = room.members.get(group, {})
    return min(members, key=lambda job_id: (members[job_id], job_id), default=None)


def _finish(job: Job) -> str:
    return "/" + job.asked.group


def join(room: Room, job: Job, tag: float, *, was_first: bool) -> None:
    """Let a job stand in line."""
    lane, members, place = room.lanes[job.lane], room.members.setdefault(job.group, {}), math.inf
    head = head_of(room, job.group)
    if head is None:
        clock = room.tags[job.lane].get(":clock", 0.0)
        finish = room.tags[job.lane].get(_finish(job), clock)
        place = min(clock, finish) if was_first else max(clock, finish)
        if job.group not in room.groups:
            room.groups[job.group] = job.asked.group_weight
            room.is_grouped = True
    elif (tag, job.id) < (members[head], head) and head in lane:
        place, lane[head] = lane[head], math.inf
    members[job.id] = tag
    lane[job.id] = place


def part(room: Room, job: Job, place: float, cost: float, now: float) -> None:
    """Take a job that stood at this place out of its group."""
    members, lane, tags = room.members[job.group], room.lanes[job.lane], room.tags[job.lane]
    members.pop(job.id, None)
    if place == math.inf:
        return
    if cost:
        tags.setdefault(SINCE, now)
    place += cost / job.asked.group_weight
    while (head := head_of(room, job.group)) is not None:
        if head in lane:
            lane[head] = place
            if cost:
                room.member_tags[job.group][":clock"] = job.tag
            return
        del members[head]
    room.member_tags.pop(job.group, None)
    tags[_finish(job)] = place


def charge(room: Room, job: Job, tokens: float) -> None:
    """Charge a group for more, or less."""
    tags = room.tags[job.lane]
    if SINCE not in tags or job.taken is None or job.taken < tags[SINCE]:
        return
    head, moved = head_of(room, job.group), tokens / job.asked.group_weight
    if head is not None:
        if head in room.lanes[job.lane]:
            room.lanes[job.lane][head] += moved
    elif _finish(job) in tags:
        tags[_finish(job)] += moved


def tend(room: Room, is_known: dict[str, Job | None]) -> None:
    """See to it that each group has its head in line; `is_known` are the heads' records."""
    for group in list(room.groups):
        head = head_of(room, group)
        if head is None:
            del room.groups[group]
            continue
        job = is_known[head]
        if job is None or math.isinf(room.lanes[group.partition(":")[0]].get(head, math.inf)):
            room.met_lost = True
        else:
            room.groups[group] = job.asked.group_weight
    if not room.groups:
        room.is_grouped = False


def regroup(room: Room, lane: str, jobs: list[Job]) -> None:
    """Put those of a lane that are in groups in line anew."""
    of_group: dict[str, list[Job]] = {}
    for job in jobs:
        if job.group:
            of_group.setdefault(job.group, []).append(job)
    for group, ids in of_group.items():
        place = min(room.lanes[lane][job.id] for job in ids)
        if place == math.inf:
            place = room.tags[lane].get(":clock", 0.0)
        room.members[group] = {job.id: job.tag for job in ids}
        room.lanes[lane].update({job.id: math.inf for job in ids})
        head = head_of(room, group)
        assert head is not None
        room.lanes[lane][head] = place
