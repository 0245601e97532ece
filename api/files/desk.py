"""What callers do with their files and uploads. Only what lies below the caller's own folder is ever looked at."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import orjson

from api.files.ending import UploadEnd, find_end, settle_end
from api.files.quota import Quota, over_limit
from shared.errors import Conflict, InvalidRequest, NotFound
from shared.files import FileRecord, Files, tenant_folder
from shared.files.files import PendingFile
from shared.store import Store
from shared.token_settings import TokenSettings

PURPOSES: Final = ("batch", "user_data")
SHORTEST_SECONDS: Final = 3600
LONGEST_SECONDS: Final = 30 * 86_400
UPLOAD_SECONDS: Final = 3600
MAX_NAME_CHARACTERS: Final = 512
_READ_AT_ONCE: Final = 32
_UPLOAD_ID: Final = re.compile(r"upload_[0-9a-f]{32}")
_PART_ID: Final = re.compile(r"part_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Page:
    """Some files, and whether more follow."""

    files: list[FileRecord]
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """OpenAI's upload: a file that comes in parts."""

    id: str
    bytes: int
    filename: str
    purpose: str
    created_at: int
    status: str = "pending"
    expires_seconds: int | None = None
    file: dict[str, Any] | None = None

    def public(self) -> dict[str, Any]:
        """Return it as OpenAI's object."""
        given = asdict(self)
        given.pop("expires_seconds")
        status = self.status
        if status == "pending" and self.created_at + UPLOAD_SECONDS <= time.time():
            status = "expired"
        return {**given, "object": "upload", "status": status, "expires_at": self.created_at + UPLOAD_SECONDS}


def check_purpose(purpose: str | None) -> str:
    """Return a purpose that may be given; raises InvalidRequest."""
    if purpose is None:
        raise InvalidRequest(
            "Missing required parameter: 'purpose'.", param="purpose", code="missing_required_parameter"
        )
    if purpose not in PURPOSES:
        names = " and ".join(f"'{name}'" for name in PURPOSES)
        message = f"Invalid value for 'purpose': files are taken for {names} here."
        raise InvalidRequest(message, param="purpose", code="invalid_value")
    return purpose


def check_expiry(anchor: str | None, seconds: Any) -> int | None:
    """Return the seconds of an `expires_after`, None for none; raises InvalidRequest."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            "Invalid value for 'expires_after.anchor': send 'created_at'.",
            param="expires_after.anchor",
            code="invalid_value",
        )
    text = str(seconds)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else 0
    if isinstance(seconds, bool) or not SHORTEST_SECONDS <= number <= LONGEST_SECONDS:
        raise InvalidRequest(
            "Invalid value for 'expires_after.seconds': send a whole number "
            f"from {SHORTEST_SECONDS} to {LONGEST_SECONDS}.",
            param="expires_after.seconds",
            code="invalid_value",
        )
    return number


def check_filename(filename: str) -> str:
    """Return the last part of a file's name, as some clients send whole paths; raises InvalidRequest."""
    name = re.split(r"[/\\]", filename)[-1]
    if not name or len(name) > MAX_NAME_CHARACTERS or any(ord(c) < 32 or ord(c) == 127 for c in name):
        message = f"Send a filename of 1 to {MAX_NAME_CHARACTERS} characters, without control characters."
        raise InvalidRequest(message, param="file", code="invalid_value")
    return name


class FileDesk:
    """The files of all tenants, each caller's own at hand. Every method may raise StoreError."""

    def __init__(self, store: Store, files: Files) -> None:
        self._store = store
        self._quota = Quota(store)
        self.files = files

    async def keep(self, token: TokenSettings, parts: AsyncIterator[bytes]) -> PendingFile:
        """Keep a file's bytes before its purpose is known: forms may tell that last. Raises StorageLimit."""
        async with self._quota.within(token, parts) as counted:
            return await self.files.begin(tenant_folder(token.name), counted)

    async def get(self, token: TokenSettings, file_id: str) -> FileRecord:
        """Return a file's record; raises NotFound."""
        record = await self.files.get(tenant_folder(token.name), file_id)
        if record is None:
            raise NotFound(f"No file found with id '{file_id[:64]}'.", param="file_id")
        return record

    def content(self, token: TokenSettings, record: FileRecord, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield a file's bytes from `start` up to `end`."""
        return self.files.content(tenant_folder(token.name), record.id, start, end)

    async def delete(self, token: TokenSettings, file_id: str) -> None:
        """Forget a file; raises NotFound."""
        if not await self.files.delete(tenant_folder(token.name), file_id):
            raise NotFound(f"No file found with id '{file_id[:64]}'.", param="file_id")

    async def page(
        self, token: TokenSettings, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> Page:
        """Return the files behind `after`; raises NotFound for an `after` that is none."""
        tenant = tenant_folder(token.name)
        ids = [one.id for one in await self.files.list(tenant, purpose)]
        if not newest_first:
            ids.reverse()
        if after is not None:
            if after not in ids:
                raise NotFound(f"No file '{after[:64]}' to list from. Send the last id of a page.", param="after")
            ids = ids[ids.index(after) + 1 :]
        found: list[FileRecord] = []
        for at in range(0, min(len(ids), limit), _READ_AT_ONCE):
            some = ids[at : min(at + _READ_AT_ONCE, limit)]
            records = await asyncio.gather(*(self.files.get(tenant, file_id) for file_id in some))
            found += [record for record in records if record is not None]
        return Page(found, len(ids) > limit)

    # --- uploads ------------------------------------------------------------------------------------------------

    async def begin_upload(
        self, token: TokenSettings, *, size: int, filename: str, purpose: str, expires_seconds: int | None
    ) -> Upload:
        """Begin a file that comes in parts. Raises StorageLimit."""
        room = await self._quota.room(token)
        if room is not None and size > room:
            raise over_limit(token)
        upload = Upload(
            id=f"upload_{secrets.token_hex(16)}",
            bytes=size,
            filename=check_filename(filename),
            purpose=purpose,
            created_at=int(time.time()),
            expires_seconds=expires_seconds,
        )
        await self._save(token, upload)
        return upload

    async def upload(self, token: TokenSettings, upload_id: str) -> Upload:
        """Return an upload; raises NotFound."""
        key = _upload_key(tenant_folder(token.name), upload_id)
        raw = await self._store.get(key) if _UPLOAD_ID.fullmatch(upload_id) else None
        if raw is None:
            raise NotFound(f"No upload found with id '{upload_id[:64]}'.", param="upload_id")
        return Upload(**orjson.loads(raw))

    async def pending(self, token: TokenSettings, upload_id: str) -> Upload:
        """Return an upload that takes parts; raises NotFound or Conflict."""
        upload = await self.upload(token, upload_id)
        status = upload.public()["status"]
        if status != "pending":
            raise Conflict(f"The upload is {status}; begin another one.", code="invalid_upload_status")
        return upload

    async def add_part(self, token: TokenSettings, upload: Upload, parts: AsyncIterator[bytes]) -> str:
        """Keep one part; returns its id. Raises StorageLimit."""
        part_id = f"part_{secrets.token_hex(16)}"
        async with self._quota.within(token, parts) as counted:
            await self._store.put_stream(_part_key(tenant_folder(token.name), upload.id, part_id), counted)
        return part_id

    async def complete(self, token: TokenSettings, upload: Upload, part_ids: list[str], md5: str | None) -> Upload:
        """Join the parts to a file, one however often this is asked; raises InvalidRequest that names what is wrong."""
        tenant = tenant_folder(token.name)
        end = await find_end(self._store, tenant, upload.id)
        if end is None:
            try:
                end = await self._join(tenant, upload, part_ids, md5)
            except (InvalidRequest, KeyError):  # parts go when another call has ended the upload
                end = await find_end(self._store, tenant, upload.id)
                if end is None:
                    raise
        if end.file is None or end.part_ids != part_ids:
            raise Conflict(f"The upload is {end.status}; begin another one.", code="invalid_upload_status")
        done = replace(upload, status="completed", file=end.file.public())
        if (await self.upload(token, upload.id)).status == "pending":
            await self.files.enter(tenant, end.file)
            await self._save(token, done)
            await self._drop_parts(tenant, upload.id)
        return done

    async def _join(self, tenant: str, upload: Upload, part_ids: list[str], md5: str | None) -> UploadEnd:
        """Return how the upload has ended: by this call, or by another at the same time."""
        sizes = []
        for place, part_id in enumerate(part_ids):
            size = (
                await self._store.size(_part_key(tenant, upload.id, part_id)) if _PART_ID.fullmatch(part_id) else None
            )
            if size is None:
                message = f"No part '{part_id[:64]}' in this upload."
                raise InvalidRequest(message, param=f"part_ids[{place}]", code="invalid_value")
            sizes.append(size)
        if sum(sizes) != upload.bytes:
            message = f"The parts have {sum(sizes)} bytes in all; the upload was begun with {upload.bytes}."
            raise InvalidRequest(message, param="part_ids", code="invalid_value")
        digest = hashlib.md5(usedforsecurity=False)
        pending = await self.files.begin(tenant, self._joined(tenant, upload.id, part_ids, digest))
        if md5 is not None and md5.lower() != digest.hexdigest():
            await pending.drop()
            raise InvalidRequest("The joined parts have another MD5 than 'md5'.", param="md5", code="invalid_value")
        record = pending.record(upload.filename, upload.purpose, expires_seconds=upload.expires_seconds)
        mine = UploadEnd(part_ids, record)
        end = await settle_end(self._store, tenant, upload.id, mine)
        if end != mine:
            await pending.drop()
        return end

    async def cancel(self, token: TokenSettings, upload: Upload) -> Upload:
        """Give an upload up; raises Conflict for one that is being completed."""
        tenant = tenant_folder(token.name)
        end = await settle_end(self._store, tenant, upload.id, UploadEnd())
        if end.file is not None:
            raise Conflict("The upload is completed; delete its file.", code="invalid_upload_status")
        done = replace(upload, status="cancelled")
        await self._save(token, done)
        await self._drop_parts(tenant, upload.id)
        return done

    async def _joined(self, tenant: str, upload_id: str, part_ids: list[str], digest: Any) -> AsyncIterator[bytes]:
        for part_id in part_ids:
            async for piece in self._store.stream(_part_key(tenant, upload_id, part_id)):
                digest.update(piece)
                yield piece

    async def _save(self, token: TokenSettings, upload: Upload) -> None:
        await self._store.put(_upload_key(tenant_folder(token.name), upload.id), orjson.dumps(asdict(upload)))

    async def _drop_parts(self, tenant: str, upload_id: str) -> None:
        for key in await self._store.list(f"uploads/{tenant}/{upload_id}/parts"):
            await self._store.delete(key)


def _upload_key(tenant: str, upload_id: str) -> str:
    return f"uploads/{tenant}/{upload_id}/record.json"


def _part_key(tenant: str, upload_id: str, part_id: str) -> str:
    return f"uploads/{tenant}/{upload_id}/parts/{part_id}"
