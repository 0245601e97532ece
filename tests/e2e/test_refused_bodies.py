"""What a refused request brought is gone from Redis when its refusal leaves."""

from __future__ import annotations

from shared import keys
from tests.conftest import MakeSystem
from tests.support.calls import Call
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.relay import Relay

BODY_BYTES = 10 * 1024 * 1024
TOKENS = {"one-a-minute": {"requests_per_minute": 1}}


def bodies_in(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return list(client.scan_iter(keys.PREFIXES["body"] + "*"))


def used_bytes(server: RedisServer) -> int:
    with server.client() as client:
        found: dict[str, int] = client.info("memory")
    return found["used_memory"]


def test_a_refused_body_leaves_nothing(make_system: MakeSystem, own_redis: RedisServer) -> None:
    system = make_system(models={"demo": model("tokens=2")}, tokens=TOKENS)
    token = system.tokens["one-a-minute"]
    Call(system, "demo", "first", stream=False, token=token).wait().assert_complete(2)
    before = used_bytes(own_redis)
    for number in range(3):
        refused = Call(system, "demo", str(number) * BODY_BYTES, stream=False, token=token).wait()
        assert refused.assert_one_error()["code"] == "rate_limit_exceeded"
        assert not bodies_in(own_redis)
    assert used_bytes(own_redis) - before < BODY_BYTES / 2


def test_bodies_that_were_stored_before_their_refusal_leave_nothing_either(
    make_system: MakeSystem, own_redis: RedisServer
) -> None:
    """All three are told that there is room while the first is still on its way into Redis; one gets in."""
    with Relay(own_redis.port) as line:
        system = make_system(redis_url=line.through(own_redis.url), models={"demo": model("tokens=2")}, tokens=TOKENS)
        line.bytes_per_second = 20e6
        token = system.tokens["one-a-minute"]
        calls = [Call(system, "demo", str(number) * BODY_BYTES, stream=False, token=token) for number in range(3)]
        assert sorted(call.wait().status for call in calls) == [200, 429, 429]
        assert not bodies_in(own_redis)
        assert line.carried_bytes > 2 * BODY_BYTES, "the refused bodies were never on their way"
