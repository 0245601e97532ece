"""Batches put straight into the store, as the API puts them, and what has become of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from shared.batches import keys, record
from shared.batches.record import BatchRecord, Status
from shared.files import Files, tenant_folder
from shared.store import Store, open_store
from tests.support.waiting import wait_until

CHAT = "/v1/chat/completions"


def chat_line(name: str, text: str, model: str = "m", **more: Any) -> dict[str, Any]:
    """Return an input line."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": body}


@dataclass(frozen=True, slots=True)
class Ended:
    """A batch that has ended: its record, and by custom_id how often and how each line stands in which file."""

    record: BatchRecord
    output: list[dict[str, Any]]
    errors: list[dict[str, Any]]

    def texts(self) -> dict[str, str]:
        """Return each good answer's text."""
        return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in self.output}

    def codes(self) -> dict[str, str]:
        """Return each failure's code."""
        return {line["custom_id"]: (line["error"] or line["response"]["body"]["error"])["code"] for line in self.errors}

    def ids(self) -> list[str]:
        """Return the custom_id of every record of both files, sorted."""
        return sorted(line["custom_id"] for line in (*self.output, *self.errors))


class BatchStore:
    """One token's batches in a folder."""

    def __init__(self, folder: Path, token: str = "test") -> None:  # noqa: S107 - a name
        self.folder = folder
        self.url = f"file://{folder}"
        self.store: Store = open_store(self.url)
        self._token = token
        self.tenant = tenant_folder(token)

    def put(self, lines: Iterable[dict[str, Any] | bytes], *, window_seconds: float = 600, **more: Any) -> str:
        """Put a batch there, for a feeder's next look; returns its id."""
        return asyncio.run(self._put([*lines], window_seconds, more))

    async def _put(self, lines: Sequence[dict[str, Any] | bytes], window_seconds: float, more: dict[str, Any]) -> str:
        data = b"".join((line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in lines)
        batch_id, now = keys.new_batch_id(), time.time()
        made = BatchRecord(
            id=batch_id,
            endpoint=more.pop("endpoint", CHAT),
            input_file_id="file-1",
            completion_window="24h",
            created_at=int(now),
            expires_at=int(now + window_seconds),
            token=self._token,
            created_us=int(now * 1_000_000),
            **more,
        )
        await self.store.put(keys.input_copy(self.tenant, batch_id), data)
        await record.save(self.store, self.tenant, made)
        await self.store.put(keys.open_marker(batch_id), keys.open_mark(self.tenant, made.expires_at))
        return batch_id

    def unfinish(self, batch_id: str) -> None:
        """Put a batch back to where its feeder had made its files, and had not said so."""
        done = self.record(batch_id)
        self.reopen(replace(done, status=Status.FINALIZING, output_file_id=None, error_file_id=None))

    async def _reopen(self, made: BatchRecord) -> None:
        await record.save(self.store, self.tenant, made)
        await self.store.put(keys.open_marker(made.id), keys.open_mark(self.tenant, made.expires_at))

    def reopen(self, made: BatchRecord) -> None:
        """Put a record as it is, and the batch among the open ones."""
        asyncio.run(self._reopen(made))

    def notices(self) -> list[dict[str, Any]]:
        """Return what receivers are still to be told."""
        return asyncio.run(self._notices())

    async def _notices(self) -> list[dict[str, Any]]:
        found = [await self.store.get(key) for key in await self.store.list(keys.NOTICES)]
        return [orjson.loads(one) for one in found if one is not None]

    def put_notice(self, notice: dict[str, Any], token: str = "test") -> None:  # noqa: S107 - a name
        """Put one there as it is."""
        key = keys.notice(tenant_folder(token), notice["batch_id"])
        asyncio.run(self.store.put(key, orjson.dumps(notice)))

    def files(self) -> list[str]:
        """Return the ids of the token's files, as often as each is listed."""
        return [one.id for one in asyncio.run(Files(self.store).list(self.tenant))]

    def record(self, batch_id: str) -> BatchRecord:
        """Return the record as it stands."""
        found = asyncio.run(record.load(self.store, self.tenant, batch_id))
        assert found is not None
        return found

    def ask_cancel(self, batch_id: str) -> None:
        """Ask for a cancel, as the API does."""
        asyncio.run(record.ask_cancel(self.store, self.tenant, batch_id, time.time()))

    def wait(self, batch_id: str, seconds: float = 60, told: Callable[[], str] = str) -> Ended:
        """Wait until a batch has ended; `told` gives what to show where it does not."""
        try:
            wait_until(lambda: self.record(batch_id).has_ended, seconds, "the batch to end", poll_seconds=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.record(batch_id)}\n{told()}") from None
        ended = self.record(batch_id)
        return Ended(ended, self._file(ended.output_file_id), self._file(ended.error_file_id))

    def delete_input(self, batch_id: str) -> None:
        """Take a batch's input away, as somebody does by hand."""
        asyncio.run(self.store.delete(keys.input_copy(self.tenant, batch_id)))

    def is_open(self, batch_id: str) -> bool:
        """Whether it is among the batches that have not ended."""
        return asyncio.run(self.store.get(keys.open_marker(batch_id))) is not None

    def _file(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        data = asyncio.run(self._content(file_id))
        return [orjson.loads(line) for line in data.splitlines()]

    async def _content(self, file_id: str) -> bytes:
        parts = [part async for part in Files(self.store).content(self.tenant, file_id)]
        return b"".join(parts)
