"""Where files and batches are kept: bytes under keys, in a folder or in a bucket, by one URL.

`file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix` and `az://account/container/prefix`; credentials of the
last three come from the environment, as their own tools read them. What is put is there whole or not at all, whatever
ends in the middle of it. obstore does the work (`docs/adr/0013-one-store.md`); nothing else here knows it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, from_url

from shared.private_files import private_folder
from shared.store_url import store_url_problem

PART_BYTES: Final = 8 * 1024 * 1024
"""Of a stream that is put: so much of it is in memory, a few times over."""
READ_BYTES: Final = 1024 * 1024
_CONCURRENT_PARTS: Final = 2
_FULL: Final = ("no space left", "disk quota", "file too large", "quotaexceeded", "storagefull")
"""How systems and services say that there is no room."""

_NO_PLACE: Final = ("nosuchbucket", "containernotfound", "bucket does not exist")
"""How services say that it is the whole place that is not there, not one key."""

Keys = list[str]
T = TypeVar("T")


class StoreError(Exception):
    """The store could not do as it was asked; the text names no key and no credentials."""


class StoreUnavailable(StoreError):
    """It does not answer, or refuses."""


class StoreFull(StoreError):
    """There is no room for more."""


class Store:
    """One place of storage. Safe to use from many tasks; made by `open_store`."""

    def __init__(self, backing: Any) -> None:
        self._backing = backing

    async def put(self, key: str, data: bytes) -> None:
        """Keep these bytes under the key, in the place of what stood there."""
        # Large ones go in parts: as a whole they could take a slow link longer than one request may last.
        is_large = len(data) > PART_BYTES
        await _told(
            obstore.put_async(
                self._backing, key, data, use_multipart=is_large, chunk_size=PART_BYTES,
                max_concurrency=_CONCURRENT_PARTS,
            )
        )  # fmt: skip

    async def create(self, key: str, data: bytes) -> bool:
        """Keep these bytes where nothing stands under the key; False where something does. One of many callers wins."""
        try:
            await obstore.put_async(self._backing, key, data, use_multipart=False, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise _meaning(error) from None
        return True

    async def put_stream(self, key: str, parts: AsyncIterator[bytes]) -> int:
        """Keep what comes, of any size, and return how many bytes that were. What `parts` raises leaves nothing behind.

        Raises StoreFull or StoreUnavailable.
        """
        source = _Counted(parts)
        try:
            await _told(
                obstore.put_async(
                    self._backing,
                    key,
                    source.pieces(),
                    use_multipart=True,
                    chunk_size=PART_BYTES,
                    max_concurrency=_CONCURRENT_PARTS,
                )
            )
        except BaseException:
            if source.error is not None:
                raise source.error from None
            raise
        return source.size

    async def get(self, key: str) -> bytes | None:
        """Return the bytes under a key, None where there are none."""
        try:
            found = await _told(obstore.get_async(self._backing, key))
            return bytes(await _told(found.bytes_async()))
        except KeyError:
            return None

    async def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to `end`, a piece at a time; KeyError where there are none."""
        size = await self.size(key)
        if size is None:
            raise KeyError(key)
        end = size if end is None else min(end, size)
        while start < end:
            piece = bytes(
                await _told(obstore.get_range_async(self._backing, key, start=start, end=min(end, start + READ_BYTES)))
            )
            if not piece:  # it has become shorter
                return
            yield piece
            start += len(piece)

    async def size(self, key: str) -> int | None:
        """Return how many bytes there are under a key, None where there are none."""
        try:
            return int((await _told(obstore.head_async(self._backing, key)))["size"])
        except KeyError:
            return None

    async def copy(self, source: str, target: str) -> None:
        """Have the same bytes under another key; KeyError where there are none."""
        await _told(obstore.copy_async(self._backing, source, target))

    async def delete(self, key: str) -> None:
        """Forget a key; one that is not there is no error."""
        try:
            await _told(obstore.delete_async(self._backing, key))
        except KeyError:
            return

    async def list(self, prefix: str) -> list[str]:
        """Return the keys below a prefix, which is whole names divided by slashes, in order."""
        return sorted([str(meta["path"]) async for meta in self._entries(prefix)])

    async def weigh(self, prefix: str) -> int:
        """Return how many bytes there are below a prefix."""
        return sum([int(meta["size"]) async for meta in self._entries(prefix)])

    async def untouched(self, prefix: str, seconds: float) -> Keys:
        """Return the keys below a prefix that were last written so long ago or longer."""
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        return sorted([str(meta["path"]) async for meta in self._entries(prefix) if meta["last_modified"] <= before])

    async def _entries(self, prefix: str) -> AsyncIterator[Any]:
        pages = obstore.list(self._backing, prefix=prefix)
        while page := await _told(_next_page(pages)):
            for meta in page:
                yield meta


class _Counted:
    """A stream on its way into the store: its size, and the error by which it ended, which the library would wrap."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts
        self.size = 0
        self.error: BaseException | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._parts:
                self.size += len(part)
                yield part
        except GeneratorExit:  # the library gave up by itself, and says why
            raise
        except BaseException as error:
            self.error = error
            raise


async def _next_page(pages: Any) -> Any:
    try:
        return await anext(pages)
    except StopAsyncIteration:
        return None


def open_store(url: str) -> Store:
    """Return the store at a URL; a folder is made if it is missing, for its owner alone.

    Raises ValueError for a URL that `store_url_problem` refuses, UntrustedPath for a folder of others, and
    StoreUnavailable where it cannot be made.
    """
    if problem := store_url_problem(url):
        raise ValueError(f"storage.url: {problem}")
    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            folder = private_folder(Path(unquote(parts.path)))
            return Store(LocalStore(folder))
        options: Any = {"allow_http": _may_be_plain(), "connect_timeout": "5s"}
        retries: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
        return Store(from_url(url, client_options=options, retry_config=retries))
    except (OSError, BaseError) as error:
        raise StoreUnavailable(f"The file store cannot be opened ({type(error).__name__}); see storage.url.") from None


def _may_be_plain() -> bool:
    """Whether the environment names a server without TLS, such as one on this machine."""
    return os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")


async def _told(call: Awaitable[T]) -> T:
    """Await a call of the library; raises KeyError for what is not there, and ours for all else."""
    try:
        return await call
    except (BaseError, OSError) as error:
        raise _meaning(error) from None


def _meaning(error: Exception) -> Exception:
    """Return what to raise for what the library raises."""
    text = str(error).lower()
    if isinstance(error, (NotFoundError, FileNotFoundError)):
        if any(word in text for word in _NO_PLACE):
            return StoreUnavailable("The bucket of the file store does not exist; tell the operator.")
        return KeyError()
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return StoreUnavailable("The file store refuses the gateway's credentials; tell the operator.")
    if any(word in text for word in _FULL):
        return StoreFull("The file store is full; tell the operator.")
    return StoreUnavailable(f"The file store does not work ({type(error).__name__}); tell the operator.")
