"""What travels of a job: written here, read by another version."""

from __future__ import annotations

import orjson

from shared.jobs import JobSpec


def test_a_group_is_written_only_where_there_is_one() -> None:
    spec = JobSpec(tenant="a", public_model="m", options={"x": 1}, tier="flex")
    assert b"group" not in spec.to_json()
    assert JobSpec.from_json(spec.to_json()) == spec
    assert JobSpec.from_json(spec.to_json()).group == ""
    member = spec.within("team")
    assert orjson.loads(member.to_json()) == {**orjson.loads(spec.to_json()), "group": "team"}
    assert JobSpec.from_json(member.to_json()) == member
    assert member.group == "team"
