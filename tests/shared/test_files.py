"""`Files`: ends are kept to, and what nobody owns any more is cleared away."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.files import Files, tenant_folder
from shared.store import open_store
from tests.support.asynchronous import asynchronous

TENANT = tenant_folder("team-a")


async def some(data: bytes) -> AsyncIterator[bytes]:
    yield data


@asynchronous
async def test_past_its_end_a_file_is_gone_and_its_bytes_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(open_store(f"file://{tmp_path}/s"))
    short = await files.create(TENANT, "a", "batch", some(b"x"), expires_seconds=3600)
    met = await files.create(TENANT, "m", "batch", some(b"x"), expires_seconds=3600)
    long = await files.create(TENANT, "b", "user_data", some(b"x"))
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    assert [one.id for one in await files.list(TENANT)] == [long.id]
    assert await files.get(TENANT, met.id) is None
    assert await files.sweep() == 1
    assert await files.get(TENANT, short.id) is None
    left = await files._store.list("")
    assert len(left) == 3
    assert all(long.id in name for name in left)


@asynchronous
async def test_files_that_others_have_put_there_harm_no_list_and_no_sweep(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/s")
    files = Files(store)
    made = await files.create(TENANT, "b", "user_data", some(b"x"))
    others = ("listed-files/README", f"listed-files/{TENANT}/.nfs0001", f"listed-files/{TENANT}/a/b", "files/.DS_Store")
    for name in others:
        await store.put(name, b"")
    _age(tmp_path, 25 * 3600)
    assert await files.sweep() == 0
    assert [one.id for one in await files.list(TENANT)] == [made.id]
    assert {*others} < {*await store.list("")}


@asynchronous
async def test_what_dead_processes_and_uploads_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/s")
    files = Files(store)
    kept = await files.create(TENANT, "b", "user_data", some(b"x"))
    await files.begin(TENANT, some(b"no record"))
    await store.put(f"uploads/{TENANT}/upload_1/record.json", b"{}")
    await store.put(f"uploads/{TENANT}/upload_1/parts/part_1", b"x")
    await store.put(f"batches/{TENANT}/batch_1/record.json", b"{}")
    before = len(await store.list(""))
    await files.sweep()
    assert len(await store.list("")) == before
    _age(tmp_path, 3 * 3600)
    await files.sweep()
    assert await store.list("uploads") == [f"uploads/{TENANT}/upload_1/record.json"]
    _age(tmp_path, 25 * 3600)
    fresh = await files.begin(TENANT, some(b"under way"))
    await files.sweep()
    assert len(await store.list("uploads")) == 0
    assert len(await store.list("batches")) == 1
    assert await files.get(TENANT, kept.id) == kept
    made = await fresh.finish("n", "user_data")
    assert len(await store.list("files")) == 4
    assert b"".join([piece async for piece in files.content(TENANT, made.id)]) == b"under way"


def _age(folder: Path, seconds: int) -> None:
    """Have all there is been written so long ago."""
    then = time.time() - seconds
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
