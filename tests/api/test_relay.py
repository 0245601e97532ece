"""A reader gets every event once and in order, from live messages, from the log, or from both (`api/relay.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from api.exchange import ClientGone
from api.relay import MAX_BUFFERED_BYTES, Relay
from api.relay_hub import RelayHub
from shared import keys
from shared.errors import Draining
from shared.jobs import TakenJob
from shared.redis import Subscriber
from shared.room.admission import Missed
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

END = b"D1 1 1 1\n"
NONCE, OTHER = b"0123456789ab", b"fedcba987654"


class Reader:
    """A relay hub on a real subscription, one job, and the worker's hand that writes its events."""

    def __init__(self, bench: Bench, hub: RelayHub, relay: Relay, job: TakenJob) -> None:
        self.bench, self.hub, self.relay, self.job = bench, hub, relay, job
        self.written: list[bytes] = []

    async def write(self, *events: bytes) -> None:
        end = 1.0 if events[-1] == END else None
        assert await self.bench.append(self.job, *events, at=len(self.written), end=end) == "o"
        self.written += events

    async def read_all(self, pause_seconds: float = 0) -> list[bytes]:
        read: list[bytes] = []
        async with asyncio.timeout(20):
            while not self.relay.is_over:
                read += await self.relay.next(5)
                await asyncio.sleep(pause_seconds)
        return read


@asynccontextmanager
async def open_reader(
    server: RedisServer, *, silence_seconds: float = 0.2, drop_live_events: bool = False
) -> AsyncIterator[Reader]:
    async with open_bench(server.url) as bench:
        hub = RelayHub(bench.admissions, silence_seconds=silence_seconds, drop_live_events=drop_live_events)
        subscriber = Subscriber(server.url, [keys.events("api")], hub.on_message, hub.on_subscribed)
        await subscriber.open()
        recovery = asyncio.create_task(hub.recover_forever())
        job_id = await bench.admit()
        relay = hub.open(job_id)
        relay.asked()
        relay.accepted()
        (job,) = await bench.take()
        try:
            yield Reader(bench, hub, relay, job)
        finally:
            hub.close(relay)
            recovery.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await recovery
            await subscriber.close()


def chunk(number: int, size: int = 6) -> bytes:
    return b"C" + str(number).zfill(size).encode()


@pytest.mark.parametrize("drop_live_events", [False, True], ids=["live", "log-alone"])
def test_all_events_arrive_once_and_in_order(module_redis: RedisServer, drop_live_events: bool) -> None:
    async def scenario() -> None:
        async with open_reader(module_redis, drop_live_events=drop_live_events) as reader:
            reading = asyncio.create_task(reader.read_all())
            for number in range(300):
                await reader.write(chunk(number))
            await reader.write(END)
            assert await reading == reader.written

    asyncio.run(scenario())


@asynchronous
async def test_events_that_come_while_the_log_is_read_are_neither_doubled_nor_lost(module_redis: RedisServer) -> None:
    chance = random.Random(3)
    # With this little silence the log is read all the time, between and during live messages.
    async with open_reader(module_redis, silence_seconds=0.002) as reader:
        reading = asyncio.create_task(reader.read_all())
        for number in range(600):
            await reader.write(chunk(number))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.004)
            if chance.random() < 0.2:
                reader.hub.on_subscribed()
        await reader.write(END)
        assert await reading == reader.written


@asynchronous
async def test_lost_messages_are_fetched_from_the_log(module_redis: RedisServer) -> None:
    chance = random.Random(5)
    async with open_reader(module_redis) as reader:
        reading = asyncio.create_task(reader.read_all())
        for number in range(200):
            # As if Redis had dropped every third message to this process.
            reader.hub._drop_live_events = chance.random() < 0.33
            await reader.write(chunk(number))
        reader.hub._drop_live_events = True
        await reader.write(END)
        assert await reading == reader.written


@asynchronous
async def test_events_too_large_for_a_message_come_from_the_log(module_redis: RedisServer) -> None:
    async with open_reader(module_redis) as reader:
        reading = asyncio.create_task(reader.read_all())
        await reader.write(chunk(0), b"C" + b"x" * 100_000, chunk(1))
        await reader.write(END)
        assert await reading == reader.written


@asynchronous
async def test_a_slow_reader_holds_little_and_still_gets_everything(module_redis: RedisServer) -> None:
    async with open_reader(module_redis) as reader:
        held: list[int] = []
        for number in range(80):
            await reader.write(chunk(number, 60_000))
            held.append(reader.relay._buffered_bytes)
        await reader.write(END)
        assert max(held) <= MAX_BUFFERED_BYTES + 60_001
        assert await reader.read_all(0.01) == reader.written


@asynchronous
async def test_a_lost_record_ends_the_reading_in_one_error(module_redis: RedisServer) -> None:
    async with open_reader(module_redis) as reader:
        await reader.write(chunk(0))
        reading = asyncio.create_task(reader.read_all())
        await asyncio.sleep(0)
        await reader.bench.redis("FLUSHALL")
        *before, last = await reading
        assert before == [chunk(0)]
        assert last.startswith(b"E")
        assert b"job_lost" in last


def a_relay(hub_event: asyncio.Event | None = None) -> Relay:
    """Return a relay whose job was accepted, fed by hand."""
    relay = Relay("a" * 32, hub_event or asyncio.Event())
    relay.asked()
    relay.accepted()
    return relay


@asynchronous
async def test_what_was_handed_on_is_never_joined_with_another_attempts_words(module_redis: RedisServer) -> None:
    relay = a_relay()
    relay.feed(NONCE, 0, b"S1")
    relay.feed(NONCE, 1, chunk(1))
    assert await relay.next(1) == (b"S1", chunk(1))
    relay.feed(OTHER, 0, b"S1")
    relay.feed(OTHER, 1, chunk(7))
    relay.feed(OTHER, 2, chunk(8))
    (last,) = await relay.next(1)
    assert last.startswith(b"E")
    assert b"job_lost" in last
    assert relay.is_over
    assert relay.may_run  # so that the other attempt is cancelled


@asynchronous
async def test_another_attempt_replaces_what_nobody_has_seen(module_redis: RedisServer) -> None:
    relay = a_relay()
    relay.feed(NONCE, 0, b"S1")
    relay.feed(OTHER, 0, b"S2")
    relay.feed(OTHER, 1, END)
    assert await relay.next(1) == (b"S2", END)
    assert relay.is_over


@pytest.mark.parametrize("state", [b"waiting", b"running"])
@asynchronous
async def test_a_job_that_waits_again_after_its_words_were_handed_on_is_lost(
    module_redis: RedisServer, state: bytes
) -> None:
    relay = a_relay()
    relay.feed(NONCE, 0, b"S1")
    early = relay.question()
    await relay.next(1)
    asked = relay.question()
    relay.take_missed(early, Missed(b"waiting", b"-" * 12, 0, ()))  # asked before anything was handed on
    assert not relay.is_closed
    relay.take_missed(asked, Missed(state, b"-" * 12 if state == b"waiting" else OTHER, 0, ()))
    (last,) = await relay.next(1)
    assert b"job_lost" in last


@asynchronous
async def test_an_attempts_error_ends_it_wherever_it_stands(module_redis: RedisServer) -> None:
    """Redis fell back by a moment: the error of the same attempt stands where a lost event stood."""
    relay = a_relay()
    for number in range(5):
        relay.feed(NONCE, number, chunk(number))
    await relay.next(1)
    relay.feed(NONCE, 2, chunk(2))
    relay.feed(NONCE, 2, b"E{}")
    assert await relay.next(1) == (b"E{}",)
    assert relay.is_over


@asynchronous
async def test_nothing_follows_the_last_event(module_redis: RedisServer) -> None:
    relay = a_relay()
    asked = relay.question()
    for number, event in enumerate((b"S1", chunk(1), END)):
        relay.feed(NONCE, number, event)
    relay.feed(NONCE, 3, b"E{}")
    for _ in range(2):  # a slow reader has not taken the end when its record is gone
        relay.take_missed(asked, Missed(b"", b"-" * 12, 0, ()))
    assert not relay.wants_log(1e9)
    assert await relay.next(1) == (b"S1", chunk(1), END)
    assert relay.is_over
    assert not relay.may_run


@asynchronous
async def test_an_event_that_overtakes_the_logs_answer_is_read_at_once(module_redis: RedisServer) -> None:
    relay = a_relay()
    relay.fall_behind()
    asked = relay.question()
    relay.feed(NONCE, 2, END)  # live, while Redis is asked
    relay.take_missed(asked, Missed(b"running", NONCE, 2, (b"S1", chunk(1))))
    assert relay.wants_log(-1)  # behind, not only silent
    relay.take_missed(relay.question(), Missed(b"ended", NONCE, 3, (END,)))
    assert await relay.next(1) == (b"S1", chunk(1), END)


@asynchronous
async def test_what_was_lost_stays_told_though_another_attempt_speaks(module_redis: RedisServer) -> None:
    relay = a_relay()
    relay.feed(NONCE, 0, b"S1")
    relay.lose("gone")
    relay.feed(OTHER, 0, b"S2")
    *_, last = await relay.next(1)
    assert b"job_lost" in last
    assert relay.is_over


@asynchronous
async def test_what_was_missed_before_the_admission_was_answered_is_read_at_once(module_redis: RedisServer) -> None:
    for missed in ("a large event", "a reconnection"):
        wanted = asyncio.Event()
        relay = Relay("a" * 32, wanted)
        relay.asked()
        if missed == "a large event":
            relay.feed(NONCE, 0, None)
        else:
            relay.fall_behind()
        relay.accepted()
        assert wanted.is_set()
        assert relay.wants_log(-1)


@asynchronous
async def test_who_comes_after_the_grace_of_a_shutdown_is_told_at_once(module_redis: RedisServer) -> None:
    async with open_reader(module_redis) as reader:
        reader.hub.cut_off(Draining)
        late = reader.hub.open("b" * 32)
        for relay in (late, reader.relay):
            with pytest.raises(Draining):
                await relay.next(1)
        reader.hub.close(late)


@asynchronous
async def test_a_client_that_left_ends_the_wait_at_once(module_redis: RedisServer) -> None:
    async with open_reader(module_redis) as reader:
        waiting = asyncio.create_task(reader.relay.next(None))
        await asyncio.sleep(0)
        reader.relay.hang_up()
        with pytest.raises(ClientGone):
            await asyncio.wait_for(waiting, 1)
        assert not reader.relay.is_over


@asynchronous
async def test_a_reader_that_is_cut_off_gets_what_was_ready_first(module_redis: RedisServer) -> None:
    async with open_reader(module_redis) as reader:
        reader.relay.feed(NONCE, 0, chunk(0))
        reader.hub.cut_off(Draining)
        assert await reader.relay.next(1) == (chunk(0),)
        with pytest.raises(Draining):
            await reader.relay.next(1)


@asynchronous
async def test_chunks_go_straight_on_while_the_reader_waits_and_never_overtake(module_redis: RedisServer) -> None:
    async with open_reader(module_redis) as reader:
        sent: list[bytes] = []
        refuses = random.Random(5)

        def sink(data: bytes) -> bool:
            if refuses.random() < 0.2:  # a slow client's socket
                return False
            sent.append(b"C" + data)
            return True

        async def read() -> None:
            while not reader.relay.is_over:
                ready = await reader.relay.next(5)
                reader.relay.pass_on_to(sink)
                await asyncio.sleep(refuses.random() * 0.003)  # what is in the reader's hands goes first
                sent.extend(ready)

        reading = asyncio.create_task(read())
        for number in range(400):
            await reader.write(chunk(number))
        await reader.write(END)
        await asyncio.wait_for(reading, 10)
        assert sent == reader.written


@asynchronous
async def test_silence_is_told_at_the_limit_after_the_last_chunk_that_was_passed_on(module_redis: RedisServer) -> None:
    async with open_reader(module_redis, silence_seconds=10) as reader:
        passed: list[float] = []
        loop = asyncio.get_running_loop()

        def sink(data: bytes) -> bool:
            passed.append(loop.time())
            return True

        reader.relay.pass_on_to(sink)
        waiting = asyncio.create_task(reader.relay.next(0.5))
        await asyncio.sleep(0)
        for number in range(5):
            await reader.write(chunk(number))
            await asyncio.sleep(0.15)
        assert await asyncio.wait_for(waiting, 5) == ()
        assert len(passed) == 5
        assert 0.45 < loop.time() - passed[-1] < 1.5


def test_a_limit_of_no_whole_milliseconds_holds_on_the_servers_loop() -> None:
    """Its timers below half a millisecond are of another kind."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(30):
            relay = Relay("a" * 32, asyncio.Event())

            async def read(relay: Relay = relay) -> None:
                await relay.next(0.0333333)
                assert await relay.next(0.0333333) == ()

            began = loop.time()
            reading = asyncio.create_task(read())
            while loop.time() < began + 0.0329:  # noqa: ASYNC110 - the moment must be hit
                await asyncio.sleep(0)
            relay.feed(NONCE, 0, b"S1")  # just before the limit, when the timer has been set anew
            await asyncio.wait_for(reading, 2)
            relay.stop()

    uvloop.run(scenario())
