"""`Store`: bytes under keys, whole or not at all, in a folder and in a bucket."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from shared.private_files import UntrustedPath
from shared.store import PART_BYTES, READ_BYTES, Store, StoreFull, StoreUnavailable, open_store
from shared.store_url import store_url_problem
from tests.support.asynchronous import asynchronous
from tests.support.processes import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/files")


async def parts(*given: bytes) -> AsyncIterator[bytes]:
    for part in given:
        yield part


async def read(store: Store, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.stream(key, start, end)])


@asynchronous
async def test_what_is_put_is_there_and_what_is_not_is_not(store: Store) -> None:
    await store.put("a/b/c", b"hello")
    assert (await store.get("a/b/c"), await store.size("a/b/c")) == (b"hello", 5)
    await store.put("a/b/c", b"")
    assert (await store.get("a/b/c"), await store.size("a/b/c")) == (b"", 0)
    large = os.urandom(2 * PART_BYTES + 1)
    await store.put("a/b/c", large)
    assert await store.get("a/b/c") == large
    assert (await store.get("a/b"), await store.size("x")) == (None, None)
    with pytest.raises(KeyError):
        await read(store, "x")
    with pytest.raises(KeyError):
        await store.copy("x", "y")
    await store.delete("x")
    await store.delete("a/b/c")
    assert await store.get("a/b/c") is None


@asynchronous
async def test_of_many_who_create_a_key_one_wins(store: Store) -> None:
    won = await asyncio.gather(*(store.create("a/claim", b"%d" % n) for n in range(20)))
    assert won.count(True) == 1
    assert await store.get("a/claim") == b"%d" % won.index(True)
    assert not await store.create("a/claim", b"late")


@asynchronous
async def test_a_long_stream_is_kept_and_read_in_ranges(store: Store) -> None:
    block = os.urandom(1 << 20)
    whole = block * 20
    assert len(whole) > 2 * PART_BYTES
    assert await store.put_stream("big", parts(*[block] * 20)) == len(whole)
    assert await read(store, "big") == whole
    assert await read(store, "big", 5, 2 * READ_BYTES + 7) == whole[5 : 2 * READ_BYTES + 7]
    assert await read(store, "big", len(whole) - 3, len(whole) + 99) == whole[-3:]
    assert await read(store, "big", len(whole)) == b""
    await store.copy("big", "c/opy")
    assert await store.size("c/opy") == len(whole)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1])
def test_a_stream_of_any_size_is_kept(store: Store, size: int) -> None:
    async def scenario() -> None:
        assert await store.put_stream("x", parts(b"a" * size)) == size
        assert await store.size("x") == size

    asyncio.run(scenario())


@pytest.mark.parametrize("before", [0, 3 * PART_BYTES])
def test_a_stream_that_fails_leaves_what_was_there(store: Store, tmp_path: Path, before: int) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * before
        raise ZeroDivisionError("ours")

    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError, match="ours"):
            await store.put_stream("new", failing())
        await store.put("old", b"old")
        with pytest.raises(ZeroDivisionError):
            await store.put_stream("old", failing())
        assert (await store.get("new"), await store.get("old")) == (None, b"old")
        assert await store.list("") == ["old"]

    asyncio.run(scenario())


@asynchronous
async def test_keys_are_listed_by_whole_names_in_order(store: Store) -> None:
    for key in ("b/2", "b/1/x", "b-other", "a"):
        await store.put(key, b"")
    assert await store.list("b") == ["b/1/x", "b/2"]
    assert await store.list("none") == []
    assert len(await store.list("")) == 4


def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UntrustedPath):
        open_store(f"file://{tmp_path}/open")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file that is larger, as a full disk would."""
    import resource  # noqa: PLC0415
    import signal  # noqa: PLC0415

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("blocks", [3, 24])
def test_no_room_is_told_and_nothing_is_left_of_it(store: Store, blocks: int) -> None:
    async def scenario() -> None:
        with largest_file(1 << 20), pytest.raises(StoreFull):
            await store.put_stream("big", parts(*[b"x" * (1 << 20)] * blocks))
        assert await store.list("") == []

    asyncio.run(scenario())


def test_a_store_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises((StoreUnavailable, UntrustedPath)):
        open_store("file:///proc/nowhere/files")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ftp://x/y", "must begin with"), ("folder", "must begin with"), ("file://host/x", "absolute"),
        ("file:///", "absolute"), ("s3://", "bucket"), ("s3://user:secret@bucket/x", "no secrets"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_told_without_its_secrets(url: str, word: str) -> None:
    problem = store_url_problem(url)
    assert problem is not None
    assert word in problem
    assert "secret@" not in problem
    with pytest.raises(ValueError, match=r"storage\.url"):
        open_store(url)


def test_good_urls_are_taken() -> None:
    for url in ("file:///srv/files", "s3://bucket", "s3://bucket/a/b", "gs://bucket/a", "az://account/container/a"):
        assert store_url_problem(url) is None


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A server that speaks S3 (`pip install moto[server]`), with one bucket; its address in the environment."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        ["moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
    try:
        wait_until(lambda: _makes_bucket(url), 40)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in names.items():
                patch.setenv(name, value)
            yield "s3://bucket/some/prefix"
    finally:
        server.kill()
        server.wait()


def _makes_bucket(url: str) -> bool:
    try:
        return httpx.put(f"{url}/bucket", timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.mark.full("moto_server")
@pytest.mark.timeout(120)
def test_a_bucket_behaves_as_a_folder_does(bucket: str) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * 2 * PART_BYTES
        raise ZeroDivisionError

    async def scenario() -> None:
        store = open_store(bucket)
        await store.put("a/b", b"hi")
        assert (await store.get("a/b"), await store.size("a/b"), await store.get("no")) == (b"hi", 2, None)
        whole = os.urandom(1 << 20) * 20
        assert await store.put_stream("a/big", parts(*[whole[: 1 << 20]] * 20)) == len(whole)
        assert await read(store, "a/big", 5, 3 << 20) == whole[5 : 3 << 20]
        await store.put("a/big", whole)  # in parts as well
        assert await store.get("a/big") == whole
        await store.copy("a/big", "c/d")
        assert await store.list("") == ["a/b", "a/big", "c/d"]
        assert [await store.create("e/f", b"1"), await store.create("e/f", b"2")] == [True, False]
        assert await store.get("e/f") == b"1"
        assert await store.list("a") == ["a/b", "a/big"]
        assert (await store.untouched("a", 3600), await store.untouched("c", -60)) == ([], ["c/d"])
        with pytest.raises(KeyError):
            await store.copy("no", "y")
        with pytest.raises(ZeroDivisionError):
            await store.put_stream("failed", failing())
        assert await store.get("failed") is None
        await store.delete("no")
        await store.delete("a/b")
        assert await store.get("a/b") is None
        with pytest.raises(StoreUnavailable):
            await open_store("s3://no-such-bucket/x").put("a", b"")

    asyncio.run(scenario())


def test_a_bucket_that_is_away_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable, match="does not work"):
        asyncio.run(open_store("s3://bucket/x").get("a"))
