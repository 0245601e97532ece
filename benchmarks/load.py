"""The load generator, a process of its own: `python -m benchmarks.load`.

In: one JSON object a line, `{"op": "plain" | "streams" | "burst" | "crowd" | "cancel", "target": {…}, …}`, the keyword
arguments of the method of that name. Out, a line each: `{"event": "window"}` at the begin and at the end of the time
that counts (so that the parent reads the CPU clocks then), and `{"event": "result", …}`. All contents are verified.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import math
import random
import sys
import time
from collections import Counter as Tally
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import uvloop

from benchmarks.client import Connection, Counter, Exchange, chat_request

Ask = Callable[[int, int], tuple[bytes, int]]
"""A client's number, and how many requests it has had, to its next request and the tokens that this asks for."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p99, mean and maximum of seconds, in ms."""
    if not values:
        return {"p50": math.nan, "p99": math.nan, "mean": math.nan, "max": math.nan}
    ordered = sorted(values)
    return {
        "p50": ordered[len(ordered) // 2] * 1000,
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
        "mean": sum(ordered) / len(ordered) * 1000,
        "max": ordered[-1] * 1000,
    }


def say(**message: Any) -> None:
    """Write a line to the parent."""
    print(json.dumps(message), flush=True)


def _streams(target: dict[str, Any], model: str, tokens: int, staggered_clients: int) -> Ask:
    """Return what asks for streams of so many tokens; of so many clients each begins with one of another length."""
    requests = [(chat_request(target, model, tokens=length, stream=True), length) for length in range(1, tokens + 1)]
    if not staggered_clients:
        return lambda _index, _number: requests[-1]
    return lambda index, number: requests[-1 if number else index * tokens // staggered_clients]


class Load:
    """The operations; each opens its connections first, outside the time that counts."""

    def __init__(self) -> None:
        self._counter = Counter()

    async def _connect(self, target: dict[str, Any], number: int, counter: Counter | None = None) -> list[Connection]:
        counter = counter or self._counter
        loop = asyncio.get_running_loop()
        connections: list[Connection] = []
        for start in range(0, number, 50):  # more at once would overflow the peer's accept queue
            made = await asyncio.gather(
                *(
                    loop.create_connection(lambda: Connection(counter), target["host"], target["port"])
                    for _ in range(min(50, number - start))
                )
            )
            connections += [protocol for _, protocol in made]
        return connections

    async def _reconnected(self, target: dict[str, Any], connection: Connection) -> Connection:
        return connection if connection.usable else (await self._connect(target, 1))[0]

    async def _window(self, warmup_seconds: float, seconds: float) -> tuple[float, float, int]:
        await asyncio.sleep(warmup_seconds)
        begin, chunks = time.monotonic(), self._counter.chunks
        say(event="window")
        await asyncio.sleep(seconds)
        end = time.monotonic()
        say(event="window")
        return begin, end, self._counter.chunks - chunks

    async def _closed_loop(
        self,
        target: dict[str, Any],
        *,
        ask: Ask,
        clients: int,
        warmup_seconds: float,
        seconds: float,
        ramp_seconds: float,
        pause_seconds: float,
        drain_seconds: float,
    ) -> tuple[list[Exchange], tuple[float, float, int], int]:
        """Run `clients` loops until the window's end; returns the exchanges, the window and how many hung."""
        connections = await self._connect(target, clients)
        exchanges: list[Exchange] = []
        ends_at = time.monotonic() + warmup_seconds + seconds

        async def client(index: int, connection: Connection) -> None:
            await asyncio.sleep(ramp_seconds * index / clients)
            for number in itertools.count():
                if time.monotonic() >= ends_at:
                    break
                connection = await self._reconnected(target, connection)
                exchange = await connection.request(*ask(index, number))
                exchanges.append(exchange)
                if pause_seconds:
                    await asyncio.sleep(random.uniform(0.5, 1.5) * pause_seconds)
                elif exchange.status != 200:
                    await asyncio.sleep(0.05)
            connection.close()

        tasks = [asyncio.ensure_future(client(*pair)) for pair in enumerate(connections)]
        window = await self._window(warmup_seconds, seconds)
        _, hung = await asyncio.wait(tasks, timeout=drain_seconds)
        for task in hung:
            task.cancel()
        for connection in connections:
            connection.close()
        for task in tasks:
            if task not in hung and (error := task.exception()):
                raise error
        return exchanges, window, len(hung)

    async def plain(
        self,
        target: dict[str, Any],
        *,
        model: str,
        clients: int,
        seconds: float,
        tokens: int = 16,
        warmup_seconds: float = 0.5,
        body_bytes: int = 0,
        pause_seconds: float = 0,
        models: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Closed loop of plain requests; `models` are asked in turns, instead of `model`."""
        requests = [
            (chat_request(target, name, tokens=tokens, stream=False, body_bytes=body_bytes), tokens)
            for name in models or [model]
        ]
        exchanges, (begin, end, _), hung = await self._closed_loop(
            target, ask=lambda index, number: requests[(index + number) % len(requests)], clients=clients,
            warmup_seconds=warmup_seconds, seconds=seconds, ramp_seconds=0, pause_seconds=pause_seconds,
            drain_seconds=10,
        )  # fmt: skip
        errors = Tally(filter(None, (exchange.verify_plain() for exchange in exchanges)))
        if hung:
            errors["no end"] = hung
        good = [e for e in exchanges if begin <= e.ended_at < end and e.status == 200]
        return {
            "requests": len(good),
            "requests_per_second": len(good) / (end - begin),
            "latency_ms": spread([e.ended_at - e.begun_at for e in good]),
            "errors": dict(errors),
        }

    async def streams(
        self,
        target: dict[str, Any],
        *,
        model: str,
        clients: int,
        seconds: float,
        tokens: int,
        warmup_seconds: float = 0.5,
        ramp_seconds: float = 0,
        drain_seconds: float = 15,
        staggered: bool = False,
    ) -> dict[str, Any]:
        """Closed loop of streams, the clients' first ones spread over `ramp_seconds`.

        `staggered`: the first ones are of all lengths, so that ends and begins are spread evenly from then on.
        """
        ask = _streams(target, model, tokens, clients if staggered else 0)
        exchanges, (begin, end, chunks), hung = await self._closed_loop(
            target, ask=ask, clients=clients, warmup_seconds=warmup_seconds, seconds=seconds,
            ramp_seconds=ramp_seconds, pause_seconds=0, drain_seconds=drain_seconds,
        )  # fmt: skip
        return self._stream_result(exchanges, (begin, end), chunks, hung)

    @staticmethod
    def _stream_result(
        exchanges: list[Exchange], window: tuple[float, float], chunks: int, hung: int
    ) -> dict[str, Any]:
        begin, end = window
        errors = Tally(filter(None, (exchange.verify_stream() for exchange in exchanges)))
        if hung:
            errors["no end"] = hung
        begun = [e for e in exchanges if begin <= e.begun_at < end and e.first_at]
        most = max((e.tokens for e in exchanges), default=0)  # those that began with less may lack a silence
        return {
            "streams": sum(begin <= e.ended_at < end for e in exchanges),
            "verified": len(exchanges) - sum(errors.values()) + hung,
            "chunks": chunks,
            "chunks_per_second": chunks / (end - begin),
            "first_ms": spread([e.first_at - e.begun_at for e in begun]),
            "stall_ms": spread([e.longest_silence for e in exchanges if e.ended_at >= begin and e.tokens == most]),
            "errors": dict(errors),
        }

    async def burst(self, target: dict[str, Any], *, model: str, clients: int, tokens: int) -> dict[str, Any]:
        """All clients send one stream's request at the same moment."""
        connections = await self._connect(target, clients)
        await asyncio.sleep(0.3)
        request = chat_request(target, model, tokens=tokens, stream=True)
        chunks = self._counter.chunks
        say(event="window")
        begin = time.monotonic()
        done, hung = await asyncio.wait([one.request(request, tokens) for one in connections], timeout=60)
        end = time.monotonic()
        say(event="window")
        for connection in connections:
            connection.close()
        exchanges = [future.result() for future in done]
        result = self._stream_result(exchanges, (begin - 1, end + 1), self._counter.chunks - chunks, len(hung))
        first = [exchange.first_at - begin for exchange in exchanges if exchange.first_at]
        return {**result, "first_ms": spread(first)}

    async def crowd(
        self, target: dict[str, Any], *, model: str, others: int, others_tokens: int, clients: int, tokens: int,
        settle_seconds: float,
    ) -> dict[str, Any]:  # fmt: skip
        """`clients` streams that all begin at one moment, while `others` flow; the window ends with their first tokens.

        `gap_ms` is of the others' pauses until then, `gap_after_ms` of those in the second that follows.
        """
        flow = Counter()
        ending = asyncio.Event()
        exchanges: list[Exchange] = []
        ask = _streams(target, model, others_tokens, others)

        async def other(index: int, connection: Connection) -> None:
            await asyncio.sleep(settle_seconds / 2 * index / others)
            for number in itertools.count():
                if ending.is_set() or not connection.usable:
                    break
                exchanges.append(await connection.request(*ask(index, number)))
            connection.close()

        connected = await self._connect(target, others, flow)
        connections = await self._connect(target, clients)
        tasks = [asyncio.ensure_future(other(*pair)) for pair in enumerate(connected)]
        await asyncio.sleep(settle_seconds)
        loop = asyncio.get_running_loop()
        firsts = [loop.create_future() for _ in connections]
        request = chat_request(target, model, tokens=tokens, stream=True)
        gaps: list[tuple[float, float]] = []
        flow.gaps = gaps
        say(event="window")
        begin, chunks = time.monotonic(), flow.chunks + self._counter.chunks
        answers = [one.request(request, tokens, first=first) for one, first in zip(connections, firsts, strict=True)]
        await asyncio.wait(firsts, timeout=30)
        # However soon they came, each of the others has had the time for some pauses.
        await asyncio.sleep(max(0.0, begin + 0.4 - time.monotonic()))
        end, chunks = time.monotonic(), flow.chunks + self._counter.chunks - chunks
        say(event="window")
        await asyncio.sleep(1)
        flow.gaps = None
        ending.set()
        everything: list[asyncio.Future[Any]] = [*answers, *tasks]
        done, hung = await asyncio.wait(everything, timeout=60)
        for late in hung:
            late.cancel()
        for connection in (*connected, *connections):
            connection.close()
        burst = [future.result() for future in answers if future in done]
        result = self._stream_result([*burst, *exchanges], (begin - 1, end + 1), chunks, len(hung))
        first = [exchange.first_at - begin for exchange in burst if exchange.first_at]
        return {
            **result,
            "first_ms": spread(first),
            "gap_ms": spread([gap for at, gap in gaps if at <= end]),
            "gap_after_ms": spread([gap for at, gap in gaps if at > end]),
        }

    async def cancel(
        self, target: dict[str, Any], *, model: str, clients: int, seconds: float, tokens: int = 100_000
    ) -> dict[str, Any]:
        """Open paced streams, then close their connections at random moments; returns when each was closed."""
        loop = asyncio.get_running_loop()
        connections = await self._connect(target, clients)
        firsts = [loop.create_future() for _ in connections]
        for index, connection in enumerate(connections):
            connection.request(
                chat_request(target, model, tokens=tokens, stream=True, tag=f"n{index}"), tokens, first=firsts[index]
            )
            if index % 10 == 9:
                await asyncio.sleep(0.02)
        await asyncio.wait(firsts, timeout=30)
        missing = sum(not first.done() for first in firsts)
        say(event="window")
        closed: dict[str, float] = {}
        order = list(enumerate(connections))
        random.shuffle(order)
        pause = seconds / clients
        for index, connection in order:
            await asyncio.sleep(random.uniform(0, 2 * pause))
            connection.close()
            closed[f"n{index}"] = time.monotonic()
        await asyncio.sleep(1.5)
        say(event="window")
        return {"closed": closed, "errors": {"no first token": missing} if missing else {}}


async def serve() -> None:
    """Read commands until standard input ends."""
    load = Load()
    loop = asyncio.get_running_loop()
    # The collector's pauses would count as the gateway's; what is kept of an answer has no cycles.
    gc.disable()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        gc.collect()
        command = json.loads(line)
        operation = getattr(load, command.pop("op"))
        begin = time.process_time()
        running: Coroutine[Any, Any, dict[str, Any]] = operation(command.pop("target"), **command)
        try:
            result = await running
        except (OSError, ConnectionError) as error:
            result = {"errors": {f"{type(error).__name__}: {error}": 1}, "failed": True}
        say(event="result", load_cpu_seconds=time.process_time() - begin, **result)


if __name__ == "__main__":
    uvloop.run(serve())
