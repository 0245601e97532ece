"""`FileDesk`: an upload ends once, however many calls end it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.files.desk import FileDesk, Upload
from api.files.ending import UploadEnd, settle_end
from shared.errors import Conflict, InvalidRequest
from shared.files import Files, tenant_folder
from shared.store import Store, open_store
from shared.token_settings import TokenSettings
from tests.support.asynchronous import asynchronous

TOKEN = TokenSettings(name="team-a", sha256="0" * 64)
TENANT = tenant_folder("team-a")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/s")


async def some(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def begun(desk: FileDesk) -> tuple[Upload, list[str]]:
    upload = await desk.begin_upload(TOKEN, size=6, filename="u", purpose="batch", expires_seconds=None)
    return upload, [await desk.add_part(TOKEN, upload, some(data)) for data in (b"abc", b"def")]


@asynchronous
async def test_calls_that_complete_an_upload_at_once_make_one_file(store: Store) -> None:
    desk = FileDesk(store, Files(store))
    for _ in range(10):
        upload, ids = await begun(desk)
        done = await asyncio.gather(*(desk.complete(TOKEN, upload, ids, None) for _ in range(6)))
        assert {one.status for one in done} == {"completed"}
        assert len({one.file["id"] for one in done if one.file}) == 1
        assert await desk.upload(TOKEN, upload.id) == done[0]
    page = await desk.page(TOKEN, purpose=None, after=None, limit=100, newest_first=True)
    assert len(page.files) == 10
    assert len(await store.list("files")) == 20, "a record and its bytes each"
    assert [key for key in await store.list("uploads") if "/parts/" in key] == []


@asynchronous
async def test_of_two_orders_of_the_parts_one_is_taken_and_the_other_is_told(store: Store) -> None:
    desk = FileDesk(store, Files(store))
    upload, ids = await begun(desk)
    calls = [desk.complete(TOKEN, upload, order, None) for order in (ids, ids[::-1])]
    done = await asyncio.gather(*calls, return_exceptions=True)
    (good,) = [one for one in done if isinstance(one, Upload)]
    (bad,) = [one for one in done if isinstance(one, Conflict)]
    assert good.file is not None
    data = b"".join([part async for part in Files(store).content(TENANT, good.file["id"])])
    assert data == (b"abcdef" if done[0] is good else b"defabc")
    assert "completed" in str(bad)


@asynchronous
async def test_a_cancel_and_a_complete_at_once_agree(store: Store) -> None:
    desk = FileDesk(store, Files(store))
    for _ in range(10):
        upload, ids = await begun(desk)
        done = await asyncio.gather(
            desk.complete(TOKEN, upload, ids, None), desk.cancel(TOKEN, upload), return_exceptions=True
        )
        (good,) = [one for one in done if isinstance(one, Upload)]
        (bad,) = [one for one in done if isinstance(one, Exception)]
        assert isinstance(bad, Conflict)
        assert (await desk.upload(TOKEN, upload.id)).status == good.status
        assert len(await Files(store).list(TENANT)) == (good.status == "completed")
        if good.file is not None:
            await Files(store).delete(TENANT, good.file["id"])


@asynchronous
async def test_where_the_process_died_after_the_end_was_settled_the_same_call_goes_on(store: Store) -> None:
    desk = FileDesk(store, Files(store))
    upload, ids = await begun(desk)
    pending = await desk.keep(TOKEN, some(b"abcdef"))
    settled = UploadEnd(ids, pending.record("u", "batch"))
    assert await settle_end(store, TENANT, upload.id, settled) == settled
    with pytest.raises(Conflict, match="completed"):
        await desk.cancel(TOKEN, upload)
    done = await desk.complete(TOKEN, upload, ids, None)
    assert settled.file is not None
    assert done.file == settled.file.public()
    assert await desk.files.get(TENANT, settled.file.id) == settled.file
    assert await Files(store).list(TENANT) != []


@asynchronous
async def test_parts_that_are_not_there_are_told_as_long_as_nothing_has_ended(store: Store) -> None:
    desk = FileDesk(store, Files(store))
    upload, ids = await begun(desk)
    with pytest.raises(InvalidRequest, match="No part"):
        await desk.complete(TOKEN, upload, [*ids, "part_" + "0" * 32], None)
    assert (await desk.complete(TOKEN, upload, ids, None)).status == "completed"
