"""Everything Redis holds in; where it is not what the model says, or breaks a rule by itself, out in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from shared import keys
from shared.events import frames
from shared.protocol import PROMISE_KEPT_S
from tests.shared.room_groups import SINCE
from tests.shared.room_model import Model
from tests.shared.room_probe import Seen, Shown
from tests.shared.room_state import LANES, Job, Room, nonce_of

NAMES: Final = keys.PREFIXES
ANY: Final = -2.0
"""Whatever lifetime it has."""
Wanted = tuple[Any, float | None]
"""A value, and until when (the model's clock); None for ever."""


def differences(model: Model, seen: Seen, moved: int) -> list[str]:
    """Return where Redis is not as the model says; `moved` is by how much the model's clock is ahead."""
    wanted = dict(_wanted(model, moved))
    seen = replace(seen, keys=_with_windows_whole(_with_usage_summed(seen.keys)))
    problems = [f"{key} is missing" for key in wanted.keys() - seen.keys.keys() if wanted[key][0] != {}]
    for key, shown in seen.keys.items():
        if key == keys.AUDIT:
            continue
        if key not in wanted:
            problems.append(f"{key} should not be: {shown}")
            continue
        value, until = wanted[key]
        got = _normal(key, shown, model.second - seen.now // 1000)
        if got != value:
            problems.append(f"{key} is {got}, should be {value}")
        if until != ANY:
            left = -1 if until is None else round(until - moved - seen.ttl_now)
            if left != shown.left_ms:
                problems.append(f"{key} has {shown.left_ms} ms to live, should have {left}")
    return problems


def _with_usage_summed(shown: Mapping[str, Shown]) -> dict[str, Shown]:
    """Return the keys, those of the hours of usage as one."""
    sums: dict[str, list[float]] = {}
    for key, hour in shown.items():
        if key.startswith(NAMES["usage"]):
            for name, packed in hour.value.items():
                counts = [float(number) for number in packed.split(" ")]
                sums[name] = [old + new for old, new in zip(sums.get(name, [0] * len(counts)), counts, strict=True)]
    others = {key: one for key, one in shown.items() if not key.startswith(NAMES["usage"])}
    return {**others, NAMES["usage"]: Shown("hash", 0, sums)} if sums else others


def _with_windows_whole(shown: Mapping[str, Shown]) -> dict[str, Shown]:
    """Return the keys, a subject's minute as part of its window, with the last second as one of all."""
    out = dict(shown)
    for key, minute in shown.items():
        if key.startswith(NAMES["minute"]):
            at, requests, tokens, _, own_requests, own_tokens = out.pop(key).value.split(" ")
            name = NAMES["seconds"] + key.removeprefix(NAMES["minute"])
            seconds = out[name].value if name in out else {}
            place = int(at) % 61
            if f"r{place}" in seconds or f"t{place}" in seconds:
                raise AssertionError(f"{name} tells of the last second too: {seconds}")
            whole = {"at": at, "r": requests, "t": tokens, f"r{place}": own_requests, f"t{place}": own_tokens}
            out[name] = Shown("hash", minute.left_ms, {**seconds, **whole})
    return out


def _wanted(model: Model, moved: int) -> Iterator[tuple[str, Wanted]]:
    for job in model.jobs.values():
        yield keys.job(job.id), (_record(job, moved), job.expires)
    for job_id, log in model.logs.items():
        yield keys.log(job_id), (log.events, log.expires)
    for job_id, until in model.bodies.items():
        yield keys.body(job_id), ("large", until)
    for key, kept in model.idempotency.items():
        yield key, (kept.value, kept.expires)
    for batch, (ids, until) in model.results.items():
        if ids:
            yield keys.results(batch), (ids, until)
    yield from _of_limits(model, moved)
    if model.usage:
        yield NAMES["usage"], (model.usage, ANY)
    yield from _of_processes(model, moved)
    for name, room in model.rooms.items():
        yield from _of_room(model, name, room, moved)


def _of_limits(model: Model, moved: int) -> Iterator[tuple[str, Wanted]]:
    for prefix, ends_of, expire in (
        ("token_jobs", model.token_jobs, model.token_jobs_expire),
        ("subject_waits", model.subject_waits, model.subject_waits_expire),
    ):
        for subject, ends in ends_of.items():
            if ends:
                yield NAMES[prefix] + subject, (_times(ends, moved), expire[subject])
    for subject, window in model.windows.items():
        wanted = {name: number for name, number in model.seconds_of(subject) if number}
        yield NAMES["seconds"] + subject, ({"at": window.at, **wanted}, window.expires)
    for key, promises in model.promises.items():
        yield NAMES["promise"] + key, (promises.places, promises.expires)
    for subject, (used, expires) in model.budgets.items():
        yield NAMES["spent"] + subject, (used, expires)


def _of_processes(model: Model, moved: int) -> Iterator[tuple[str, Wanted]]:
    for owner, ids in model.owned.items():
        if ids:
            yield NAMES["owned"] + owner, (ids, ANY)
    for owner, until in model.alive.items():
        yield NAMES["owner"] + owner, ("1", until)
    for name, kept in model.singles.items():
        yield f"aq2:{name}", (kept.value, kept.expires)
    if model.owners:
        yield keys.OWNERS, (model.owners, None)
    if model.processes:
        yield keys.PROCESSES, (_times(model.processes, moved), None)
    if model.swept is not None:
        yield keys.SWEPT, (model.swept - moved, model.swept_expires)


def _record(job: Job, moved: int) -> dict[str, Any]:
    return {
        "owners": sorted(job.owners),
        "state": job.state,
        "attempt": job.attempt,
        "tries": job.tries,
        "cancelled": job.is_cancelled,
        "tag": job.tag,
        "deadline": job.deadline - moved,
        "taken": job.taken and job.taken - moved,
        "spec": job.has_spec,
    }


def _of_room(model: Model, name: str, room: Room, moved: int) -> Iterator[tuple[str, Wanted]]:
    counts = model.counters(name)
    tenants = {key[1:]: number for key, number in counts.items() if key.startswith("@")}
    for lane in LANES:
        if room.lanes[lane]:
            yield keys.lane(lane, name), (room.lanes[lane], ANY)
        if room.tags[lane]:
            tags = {field: at - moved if field == SINCE else at for field, at in room.tags[lane].items()}
            yield f"{NAMES['tags']}{lane}:{name}", (tags, ANY)
    for prefix, groups in (("members", room.members), ("member_tags", room.member_tags)):
        yield from ((f"{NAMES[prefix]}{group}:{name}", (values, ANY)) for group, values in groups.items() if values)
    if room.groups:
        yield NAMES["groups"] + name, (room.groups, ANY)
    for prefix, times in (("waits", room.waits), ("running", room.running)):
        if times:
            yield NAMES[prefix] + name, (_times(times, moved), ANY)
    if room.batch_running:
        yield NAMES["batch_running"] + name, (room.batch_running, ANY)
    if tenants:
        yield NAMES["tenants"] + name, (tenants, ANY)
    if room.workers:
        yield keys.workers(name), (_times(room.workers, moved), room.workers_expire)
    if room.awake > model.ttl_now:
        yield NAMES["awake"] + name, ("1", room.awake)
    if room.tickets:
        yield keys.queue(name), (room.tickets, None)
    yield keys.room(name), (_counts(room, counts, moved), ANY)


_MEANS = {"every_ms", "busy_ends", "busy_ms", *(f"ends:{slot}" for slot in range(4))}
"""Of a room: what is told to people, and decides nothing but a Retry-After."""


_WORDS = {"state", "held"}


def _counts(room: Room, counts: Mapping[str, float], moved: int) -> dict[str, float | str]:
    wanted: dict[str, float | str] = {key: float(number) for key, number in counts.items() if not key.startswith("@")}
    wanted |= {f"pass:{lane}" if lane else "pass": at for lane, at in room.passes.items()}
    for name in ("left_at", "unserved", "ended_at"):
        at = getattr(room, name)
        if at is not None and at > 0:
            wanted[name] = at - moved
    if room.met_lost:
        wanted["lost"] = 1
    if room.held or room.state != "active":
        wanted["held"] = " ".join(["paused"] * (room.state != "active") + ["starting"] * room.held)
    if room.state != "active":
        wanted["state"] = room.state
    if room.is_grouped:
        wanted["grouped"] = 1
    return {key: value for key, value in wanted.items() if value}


def _times(times: Mapping[str, float], moved: int) -> dict[str, float]:
    return {name: at - moved for name, at in times.items()}


def _window(value: Mapping[str, str], moved_s: int) -> dict[str, int]:
    """Return a window's fields by the second that they are of, without zeros and what counts no more."""
    at, out = int(value["at"]) + moved_s, dict[str, int]()
    for name, text in value.items():
        if name in ("r", "t"):
            out[name] = int(text)
        elif name[0] in "rt":
            out[f"{name[0]}@{at - (int(value['at']) - int(name[1:])) % 61}"] = int(text)
        elif name[0] == "p" and int(name[1:]) + moved_s + PROMISE_KEPT_S >= at:
            out[f"p@{int(name[1:]) + moved_s}"], out[f"pt@{int(name[1:]) + moved_s}"] = map(int, text.split())
    return {"at": at, **{name: number for name, number in out.items() if number}}


def _spent(value: str) -> dict[str, int]:
    """Return what budgets have counted, as the model names it: of days and of months."""
    numbers, out = [int(one) for one in value.split(" ")], dict[str, int]()
    for period, tokens, slot_ms in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        name = f"d{period}" if period > 0 else f"m{-period}"
        if f"{name}t" in out:
            raise AssertionError(f"{name} is counted twice: {value}")
        out |= {f"{name}t": tokens, f"{name}s": slot_ms}
    return out


def _normal(key: str, shown: Shown, moved_s: int) -> Any:
    value = shown.value
    if key.startswith(NAMES["seconds"]):
        return _window(value, moved_s)
    if key.startswith(NAMES["promise"]):
        return tuple((int(due) + moved_s, int(tokens)) for due, tokens in (one.split(":") for one in value.split()))
    if key.startswith(NAMES["spent"]):
        return _spent(value)
    if key.startswith(NAMES["job"]):
        return {
            "owners": sorted(value["owners"].split()),
            "state": value["state"],
            "attempt": value["attempt"],
            "tries": int(value["tries"]),
            "cancelled": value["cancelled"] == "1",
            "tag": float(value["tag"]),
            "deadline": float(value["deadline"]),
            "taken": float(value["taken"]) if "taken" in value else None,
            "spec": bool(value.get("spec")),
        }
    if key.startswith(NAMES["room"]):
        told = {name: " ".join(sorted(value[name].split())) for name in value.keys() & _WORDS}
        numbers = {name: float(number) for name, number in value.items() if name not in _MEANS | _WORDS}
        return {name: number for name, number in numbers.items() if number} | told
    if key.startswith((NAMES["tags"], NAMES["tenants"], NAMES["groups"], NAMES["member_tags"])):
        return {name: float(number) for name, number in value.items()}
    if key.startswith("aqueduct."):
        return len(value)
    return float(value) if key == keys.SWEPT else value


def heard(seen: Seen) -> list[tuple[str, ...]]:
    """Return what was published, as `Rooms.told` has it."""
    out = list[tuple[str, ...]]()
    for channel, message in seen.published:
        name = channel.decode()
        if name == keys.CONTROL:
            out += [("", job_id) for job_id in message.decode().split(" ")]
            continue
        if name == keys.CROWD:
            out.append(("crowd", message.decode()))
            continue
        for job_id, nonce, number, event in frames(message):
            told = (job_id.decode(), nonce.decode(), str(number), (event or b"").decode())
            out.append((name.removeprefix(NAMES["events"]), *told))
    return out


# Rules that need no model -------------------------------------------------------------------------------------------


def broken_rules(seen: Seen, models: Mapping[str, Any]) -> list[str]:
    """Return which rules the keys break by themselves, whatever was done before."""
    problems = list[str]()
    jobs = {
        key.removeprefix(NAMES["job"]): shown.value for key, shown in seen.keys.items() if key.startswith(NAMES["job"])
    }
    for key, shown in seen.keys.items():
        if key.startswith(NAMES["log"]):
            problems += _broken_log(key, shown.value, jobs.get(key.removeprefix(NAMES["log"])))
    places = defaultdict[str, list[str]](list)
    for name, limits in models.items():
        running = _ids(seen, keys.running(name))
        if len(running) > limits.concurrency:
            problems.append(f"{len(running)} run of {name}")
        for job_id in running:
            places[job_id].append("running")
        waits, in_lanes = _ids(seen, NAMES["waits"] + name), list[str]()
        for lane in LANES:
            in_lanes += _ids(seen, keys.lane(lane, name))
        for job_id in in_lanes:
            places[job_id].append("waiting")
        if any(job_id in jobs for job_id in {*waits} ^ {*in_lanes}):
            problems.append(f"{name}: waits {waits} are not the lanes' {in_lanes}")
    for job_id, record in jobs.items():
        expected = [] if record["state"] == "ended" else [record["state"]]
        if places.get(job_id, []) != expected:
            problems.append(f"{job_id} is {record['state']}, and stands in {places.get(job_id)}")
    return problems


def _ids(seen: Seen, key: str) -> list[str]:
    return [*seen.keys[key].value] if key in seen.keys else []


def _broken_log(key: str, events: list[str], record: Mapping[str, str] | None) -> list[str]:
    problems = list[str]()
    own = [event for event in events if not event.startswith("E")]
    nonces = {event[1:].partition(".")[0] for event in own}
    if len(nonces) > 1 or [int(event.partition(".")[2]) for event in own] != [*range(len(own))]:
        problems.append(f"{key} is not whole of one attempt: {events}")
    if record is not None and nonces and nonces != {nonce_of(record["attempt"])}:
        problems.append(f"{key} is of {nonces}, its record of {record['attempt']}")
    endings = [event for event in events if event[0] in "DE"]
    if len(endings) > 1 or (endings and events[-1] != endings[0]):
        problems.append(f"{key} ends more than once, or goes on: {events}")
    if record is not None and (record["state"] == "ended") != bool(endings):
        problems.append(f"{key} of a job that is {record['state']}: {events}")
    return problems
