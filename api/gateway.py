"""What an API process is made of: Redis connections, waiting rooms, relays and tokens, opened and closed together."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from api.dispatch import Canceller, Dispatcher
from api.relay import RelayHub
from api.routes.chat import ChatCompletions
from api.served import ServedModels
from api.tokens import TokenTable
from shared import keys
from shared.redis import RedisClient, RedisRefused, RedisUnavailable, Subscriber
from shared.room import Rooms
from shared.settings import Settings

log = logging.getLogger("aqueduct.api")

BEAT_SECONDS = 2.0


class Gateway:
    """The parts of one API process. Use `open_gateway`."""

    def __init__(self, settings: Settings, client: RedisClient) -> None:
        self.settings = settings
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self.client = client
        self.rooms = Rooms(client, settings)
        testing = settings.testing
        self.relays = RelayHub(
            self.rooms, silence_seconds=testing.silence_seconds, drop_live_events=testing.drop_live_events
        )
        self.tokens = TokenTable(settings.tokens, settings.public_names())
        self.canceller = Canceller(self.rooms, self.owner)
        self.dispatcher = Dispatcher(self.rooms, settings, self.owner)
        self.served = ServedModels(self.rooms)
        self.chat = ChatCompletions(
            settings=settings.api,
            tokens=self.tokens,
            dispatcher=self.dispatcher,
            relays=self.relays,
            canceller=self.canceller,
        )

    async def beat_forever(self) -> None:
        """Say every 2 s that this process lives; its jobs are cancelled 8 s after the last word."""
        while True:
            try:
                await self.rooms.beat(self.owner)
            except (RedisUnavailable, RedisRefused):
                await asyncio.sleep(0.5)
                continue
            await asyncio.sleep(BEAT_SECONDS)

    async def sweep_forever(self) -> None:
        """Take part in the election for the recovery clock."""
        while True:
            await asyncio.sleep(self.settings.testing.sweep_seconds)
            try:
                swept = await self.rooms.sweep(self.owner)
            except (RedisUnavailable, RedisRefused):
                continue
            if swept and any(swept[1:4]):
                log.info("swept", extra=dict(zip(("reclaimed", "expired", "orphaned"), swept[1:4], strict=True)))


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """Open the connections and background tasks of an API process; close them in reverse.

    Raises RedisUnavailable when Redis does not answer within 10 s.
    """
    async with AsyncExitStack() as stack:
        client = RedisClient(settings.redis, "commands")
        await client.open()
        stack.push_async_callback(client.close)
        gateway = Gateway(settings, client)
        await gateway.rooms.load()
        await gateway.rooms.beat(gateway.owner)
        subscriber = Subscriber(
            settings.redis, [keys.events(gateway.owner)], gateway.relays.on_message, gateway.relays.on_subscribed
        )
        await subscriber.open()
        stack.push_async_callback(subscriber.close)
        background = (
            gateway.beat_forever(),
            gateway.sweep_forever(),
            gateway.relays.recover_forever(),
            gateway.canceller.run_forever(),
            gateway.tokens.refresh_forever(client.call),
        )
        tasks = [_background(job) for job in background]
        try:
            yield gateway
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            try:
                await gateway.canceller.drain()
                await gateway.rooms.beat(gateway.owner, gone=True)
            except (RedisUnavailable, RedisRefused):
                log.warning("left without telling Redis; the sweep clears up")


def _background(job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a loop for the life of the process; should it ever fail, the process must not go on without it."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("a background task failed; exiting so that a supervisor restarts", exc_info=task.exception())
            os._exit(1)

    task = asyncio.get_running_loop().create_task(job)
    task.add_done_callback(ended)
    return task
