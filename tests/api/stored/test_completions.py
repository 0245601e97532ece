"""Stored completions in the file store: their end, and what is left of writes that were cut short."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from api.stored import completions as module
from api.stored import keys
from api.stored.completions import StoredCompletions
from api.stored.making import Made
from api.stored.record import StoredRecord
from shared.jobs import new_id
from shared.store import open_store
from tests.support.asynchronous import asynchronous

TENANT = "t" * 32


def a_record(**more: object) -> StoredRecord:
    given = StoredRecord(
        id=keys.PREFIX + new_id(), expires_at=int(time.time()) + 60, model="m", is_stream=True,
        completion={"choices": []}, request={}, metadata={"a": "1"},
    )  # fmt: skip
    return replace(given, **more)  # type: ignore[arg-type]


def a_made(record: StoredRecord) -> Made:
    return Made("token", record, record.to_json(), b"[]", b"data: x\n\n")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@asynchronous
async def test_what_is_past_its_end_is_gone_and_swept(tmp_path: Path) -> None:
    completions = StoredCompletions(open_store(f"file://{tmp_path}"))
    old, young = a_record(expires_at=int(time.time()) - 1), a_record()
    failed = a_record(completion=None, expires_at=int(time.time()) - 1)
    for record in (old, young, failed):
        await completions.keep(TENANT, a_made(record))
    assert await completions.get(TENANT, old.id) is None
    page = await completions.page(TENANT, after=None, limit=5, newest_first=False, model=None, metadata={})
    assert page.records == [young]
    assert await completions.sweep() == 1
    assert not [name for name in files(tmp_path) if old.id.removeprefix(keys.PREFIX) in name]
    assert await completions.get(TENANT, young.id) == young
    _age(tmp_path)
    await completions.sweep()
    left = files(tmp_path)
    assert len(left) == 4 and all(young.id.removeprefix(keys.PREFIX) in name for name in left)


@asynchronous
async def test_what_was_written_in_part_is_no_completion_and_is_swept(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    completions = StoredCompletions(store)
    record = a_record()
    await store.put(keys.events(TENANT, record.id), b"data: x\n\n")
    await store.put(keys.messages(TENANT, record.id), b"[]")
    await completions.sweep()
    assert len(files(tmp_path)) == 2  # its writer may still be at it
    _age(tmp_path)
    await completions.sweep()
    assert files(tmp_path) == []


@asynchronous
async def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    completions = StoredCompletions(open_store(f"file://{tmp_path}"))
    record = a_record()
    await completions.keep(TENANT, a_made(record))
    changed = await completions.change(TENANT, record, {"b": "2"})
    await completions.keep(TENANT, a_made(record))
    assert await completions.get(TENANT, record.id) == changed
    page = await completions.page(TENANT, after=None, limit=5, newest_first=True, model=None, metadata={"b": "2"})
    assert page.records == [changed]


@asynchronous
async def test_a_change_that_was_cut_short_lists_a_completion_once_and_as_it_is(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    completions = StoredCompletions(store)
    record = a_record()
    await completions.keep(TENANT, a_made(record))
    await store.put(replace(record, metadata={"b": "2"}).marker(TENANT), b"")
    for metadata, found in (({}, [record]), ({"a": "1"}, [record]), ({"b": "2"}, [])):
        page = await completions.page(
            TENANT, after=None, limit=1, newest_first=False, model=None, metadata=metadata
        )  # fmt: skip
        assert (page.records, page.has_more) == (found, False)


@asynchronous
async def test_files_of_others_and_broken_ones_harm_no_list_and_no_sweep(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    completions = StoredCompletions(store)
    good, empty, torn = a_record(), a_record(), a_record()
    for record in (good, empty, torn):
        await completions.keep(TENANT, a_made(record))
    await store.put(keys.record(TENANT, empty.id), b"")  # as a power cut leaves it
    await store.put(keys.record(TENANT, torn.id), torn.to_json()[:-9])
    others = (
        "completions/.DS_Store", f"completions/{TENANT}/{good.id}/.events.swp", f"listed-completions/{TENANT}/.nfs01",
        "listed-completions/README", f"listed-completions/{TENANT}/a/b", f"{good.marker(TENANT)}~",
    )  # fmt: skip
    for name in others:
        await store.put(name, b"x")
    _age(tmp_path)
    assert await completions.sweep() == 0
    page = await completions.page(TENANT, after=None, limit=5, newest_first=False, model=None, metadata={})
    assert (page.records, page.has_more) == ([good], False)
    assert [await completions.get(TENANT, one.id) for one in (empty, torn)] == [None, None]
    assert {*others} < {*files(tmp_path)}
    await completions.keep(TENANT, a_made(empty))  # Redis still had it
    assert await completions.get(TENANT, empty.id) == empty


@asynchronous
async def test_a_page_of_very_large_completions_ends_early_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 100_000)
    completions = StoredCompletions(open_store(f"file://{tmp_path}"))
    records = [a_record(completion={"choices": [], "text": "x" * 20_000}) for _ in range(30)]
    for record in records:
        await completions.keep(TENANT, a_made(record))
    found: list[StoredRecord] = []
    sizes = []
    has_more = True
    while has_more:
        after = found[-1].id if found else None
        page = await completions.page(TENANT, after=after, limit=25, newest_first=False, model=None, metadata={})
        found += page.records
        sizes.append(len(page.records))
        has_more = page.has_more
    assert found == sorted(records, key=lambda one: one.id)
    assert max(sizes) < 15 and min(sizes) > 0


def _age(folder: Path) -> None:
    """Have everything there lie for two days."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 2 * 86_400,) * 2)
