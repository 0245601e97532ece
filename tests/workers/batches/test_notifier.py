"""How often a process looks for webhooks where thousands wait for another try."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from shared.background import Background
from shared.batches import keys
from shared.catalogue import Catalogue
from shared.files import tenant_folder
from shared.redis import RedisClient
from shared.redis.bulk import Bulk
from shared.room.lines import Lines
from shared.room.scripts import ALL
from shared.scripting import Scripts
from shared.store import Store, open_store
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer, free_port
from tests.support.rooms import settings_of
from workers.batches.notifier import Notifier

SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()


class Counting(Store):
    """A store that knows how often it was listed."""

    lists = 0

    async def list(self, prefix: str) -> list[str]:
        self.lists += 1
        return await super().list(prefix)


@asynccontextmanager
async def lines_on(redis: RedisServer, catalogue: Catalogue) -> AsyncIterator[Lines]:
    client, bulk = RedisClient(redis.url, "test"), Bulk(redis.url, "test")
    await client.open()
    await Scripts(client).load(*ALL)
    try:
        yield Lines(client, bulk, catalogue, "test")
    finally:
        await bulk.close()
        await client.close()


@asynchronous
async def test_thousands_that_wait_for_another_try_are_not_looked_for_all_the_time(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    store = Counting(open_store(f"file://{tmp_path}/store")._backing)
    now = time.time()
    for n in range(100):  # each due at a moment of its own
        notice = {
            "batch_id": f"batch_{n:032x}",
            "type": "batch.completed",
            "ended_at": int(now),
            "due_at": now + n / 25,
        }
        await store.put(keys.notice(tenant_folder("a"), f"batch_{n:032x}"), orjson.dumps(notice))
    hook = {"url": f"http://127.0.0.1:{free_port()}/", "secret": SECRET}
    tokens = [{"name": "a", "sha256": "0" * 64, "webhook": hook}]
    catalogue = Catalogue(settings_of({"m": {}}, own_redis.url, tokens=tokens))
    background = Background()
    async with lines_on(own_redis, catalogue) as lines:
        notifier = Notifier(store, lines, catalogue, background)
        await asyncio.sleep(4)
        await background.close()
        notifier.close()
    assert 1 < store.lists <= 12
