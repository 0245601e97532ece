"""What a token may store, however many requests bring it at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.files.desk import FileDesk
from shared.errors import StorageLimit
from shared.files import Files
from shared.store import open_store
from shared.token_settings import TokenSettings
from tests.support.asynchronous import asynchronous

LIMITED = TokenSettings(name="a", sha256="0" * 64, max_stored_bytes=1000)


def desk_in(folder: Path) -> FileDesk:
    store = open_store(f"file://{folder}/store")
    return FileDesk(store, Files(store))


async def parts(size: int, go: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"x"
    await go.wait()
    yield b"x" * (size - 1)


@asynchronous
async def test_requests_at_the_same_time_share_what_room_there_is(tmp_path: Path) -> None:
    desk, first, second = desk_in(tmp_path), asyncio.Event(), asyncio.Event()
    one = asyncio.create_task(desk.keep(LIMITED, parts(600, first)))
    two = asyncio.create_task(desk.keep(LIMITED, parts(600, second)))
    await asyncio.sleep(0.1)  # both have seen an empty store
    first.set()
    await one
    second.set()
    with pytest.raises(StorageLimit):
        await two
    kept = await desk.keep(LIMITED, parts(400, second))  # what was refused takes no room
    await kept.drop()


@asynchronous
async def test_what_has_failed_on_its_way_takes_no_room(tmp_path: Path) -> None:
    desk, go = desk_in(tmp_path), asyncio.Event()
    go.set()
    for _ in range(3):
        with pytest.raises(StorageLimit):
            await desk.keep(LIMITED, parts(1001, go))
    await desk.keep(LIMITED, parts(1000, go))
