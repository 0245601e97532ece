"""What any process says of the waiting rooms: its first word, the sweep, and how full they are."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from shared import keys
from shared.backend_keys import keys_of
from shared.broker import ticket
from shared.catalogue import Catalogue
from shared.holds import first_hold
from shared.lanes import LANES, Lane
from shared.protocol import PROTOCOL, process_name
from shared.redis import RedisClient, Reply
from shared.room.scripts import (
    ALL,
    DEPTH,
    HELLO,
    OBSERVE,
    SWEEP,
    HelloArguments,
    ModelRow,
    NoArguments,
    SweepArguments,
    SweepRow,
    Swept,
)
from shared.room.wires import EXHAUSTED_WIRE, LOST_WIRE, NO_WORKER_WIRE, NOT_STARTED_WIRE, TIMEOUT_WIRE
from shared.scripting import Scripts, flag

log = logging.getLogger("aqueduct.room")


class OtherProtocol(Exception):
    """Live processes on this Redis speak another protocol: nothing may be started beside them."""


def check_protocol(reply: Reply) -> None:
    """Raise OtherProtocol where the answer to a hello names processes of another protocol."""
    if reply[0] == b"other":
        theirs, names = reply[1].decode(), ", ".join(name.decode() for name in reply[2:])
        raise OtherProtocol(
            f"this Redis is in use by processes that speak protocol {theirs} ({names}); this version speaks protocol "
            f"{PROTOCOL}. Stop them first, or give this one another database (redis_url)."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """One model's queue at a moment."""

    waiting: dict[Lane, int]
    running: int
    workers: int
    oldest_ms: int
    oldest_request_ms: int
    """The same without lines of batches, which may wait for long."""
    ends: int
    """How many ended within the last minute."""
    held: str = ""
    """What holds the whole model (`shared/holds.py`); empty where it moves."""
    state: str = "active"
    """What an operator has set."""
    backends_off: frozenset[str] = frozenset()
    """Keys of the backends that an operator holds."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What metrics read beside a model's depth."""

    places: int | None
    """Of `concurrency: auto`: how many jobs may run at once, as found."""
    found: bytes
    """Of the same: what was found of each backend, as `shared.capacity.read_state` reads it."""
    deviation: dict[Lane, int]
    """Between those that wait: tokens by weight from who has had least to who has had most."""


class Upkeep:
    """The side of the waiting rooms that is everybody's."""

    def __init__(self, client: RedisClient, catalogue: Catalogue, process: str) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._catalogue = catalogue
        self._process = process
        self._run_id = ""
        self._lease_ms = round(catalogue.settings.testing.lease_seconds * 1000)

    async def open(self) -> None:
        """Load every script, make every ticket, and say hello, so that the first request is as fast as the last.

        Raises OtherProtocol, RedisUnavailable or RedisRefused.
        """
        for name in self._catalogue.models:
            ticket(name)
        await self._scripts.load(*ALL)
        await self.hello()

    async def hello(self) -> None:
        """Say that this process is here, and see whether Redis is another server than before. Raises as `open`.

        To be said again after each reconnection: until another server's running set is known to be whole, nothing is
        taken.
        """
        run_id = self._client.run_id
        hello = HelloArguments(
            process=process_name(self._process),
            protocol=str(PROTOCOL),
            run_id=run_id,
            knew_another=flag(self._run_id and self._run_id != run_id),
            lease_ms=self._lease_ms,
        )
        check_protocol(await self._scripts.run(HELLO, hello, map(ModelRow, self._catalogue.models)))
        self._run_id = run_id

    @property
    def is_greeted(self) -> bool:
        """Whether the server that answers now has heard this process's hello."""
        return self._run_id == self._client.run_id

    async def sweep(self) -> Swept | None:
        """Run the recovery clock if this process is elected; None where another is. Raises as `hello`."""
        testing = self._catalogue.settings.testing
        swept = await self._scripts.run(
            SWEEP,
            SweepArguments(
                sweeper=self._process,
                period_ms=round(testing.sweep_seconds * 1000),
                lease_ms=self._lease_ms,
                grace_ms=round(testing.worker_grace_seconds * 1000),
                timeout_wire=TIMEOUT_WIRE,
                lost_wire=LOST_WIRE,
                exhausted_wire=EXHAUSTED_WIRE,
                no_worker_wire=NO_WORKER_WIRE,
                not_started_wire=NOT_STARTED_WIRE,
            ),
            [
                SweepRow(
                    model=name,
                    concurrency=model.asked(model.places),
                    max_wait_ms=round(model.max_wait_seconds * 1000),
                    queue=keys.queue(name),
                    ticket=ticket(name),
                    waits_unserved=flag(model.when_absent == "hold"),
                    backends=keys_of(model.backends),
                )
                for name, model in self._catalogue.models.items()
            ],
        )
        for failure in swept.failures if swept else ():
            log.error("a part of the sweep failed: %s", failure[:300])
        return swept

    async def depth(self) -> dict[str, Depth]:
        """Return what waits and runs, per model."""
        names = list(self._catalogue.settings.models)
        reply = await self._scripts.run(DEPTH, NoArguments(), map(ModelRow, names))
        return {
            name: Depth(
                waiting=dict(zip(LANES, map(int, row[:4]), strict=True)), running=int(row[4]), workers=int(row[5]),
                oldest_ms=int(row[6]), ends=int(row[7]), held=first_hold(row[8].decode()), state=row[9].decode(),
                backends_off=frozenset(row[10].decode().split()), oldest_request_ms=int(row[11]),
            )
            for name, row in zip(names, reply, strict=True)
        }  # fmt: skip

    async def observe(self) -> tuple[list[bytes], dict[str, Observed]]:
        """Return what live processes have told of their present, and what is observed, per model."""
        names = list(self._catalogue.settings.models)
        states, *rows = await self._scripts.run(OBSERVE, NoArguments(), map(ModelRow, names))
        return states, {
            name: Observed(int(row[0]) if row[0] else None, row[1], dict(zip(LANES, map(int, row[2:6]), strict=True)))
            for name, row in zip(names, rows, strict=True)
        }
