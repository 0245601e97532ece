"""`/files` and `/uploads`: OpenAI's calls, their bytes streamed to the store and from it."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.dependencies import GatewayDep, TokenDep
from api.files.desk import FileDesk, check_expiry, check_filename, check_purpose
from api.files.form import read_form
from api.schemas import ErrorResponse
from api.small_bodies import read_small_body
from shared.errors import Draining, InvalidRequest
from shared.files import FileRecord
from shared.files.files import PendingFile
from shared.kinds.common.body import parse_body

router = APIRouter(tags=["Files"])

MAX_FILE_BYTES: Final = 512 * 1024 * 1024
MAX_UPLOAD_BYTES: Final = 8 * 1024**3
MAX_PART_BYTES: Final = 64 * 1024 * 1024
_TEXTS: Final = {
    400: "Bad request: the message names the parameter",
    401: "No or bad token",
    404: "No such file or upload of this token, or files are not set up",
    409: "Not in this state of the upload",
    413: "The file or part is too large",
    415: "The body is not of the right type",
    503: "Temporarily unavailable; see Retry-After",
    507: "The store is full",
}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _TEXTS.items()
}
_RANGE: Final = re.compile(r"bytes=(\d{0,30})-(\d{0,30})")
"""Python reads no number of thousands of digits, and no file has so many bytes: such a range is none."""


def _form(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": list(properties), "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _json(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": list(properties), "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_BINARY: Final = {"type": "string", "format": "binary"}
_TEXT: Final = {"type": "string"}


async def _desk(gateway: GatewayDep, token: TokenDep) -> FileDesk:
    return gateway.files()


DeskDep = Annotated[FileDesk, Depends(_desk)]
FileId = Annotated[str, Path(max_length=200)]
UploadId = Annotated[str, Path(max_length=200)]


@router.post(
    "/files", responses=_ERRORS, operation_id="createFile", openapi_extra=_form(file=_BINARY, purpose=_TEXT),
)  # fmt: skip
async def create_file(request: Request, gateway: GatewayDep, token: TokenDep, desk: DeskDep) -> dict[str, Any]:
    """Upload a file of at most 512 MB; its bytes go to the store as they come."""
    if gateway.draining:
        raise Draining(retry_after=1)
    kept: list[PendingFile] = []

    async def keep(parts: Any) -> PendingFile:
        kept.append(await desk.keep(token, parts))
        return kept[0]

    try:
        form = await read_form(request, "file", keep, max_bytes=MAX_FILE_BYTES, settings=gateway.settings.api)
        if form.kept is None:
            message = "Missing required parameter: 'file'. Send it as a file of the form."
            raise InvalidRequest(message, param="file", code="missing_required_parameter")
        purpose = check_purpose(form.fields.get("purpose"))
        expires = check_expiry(form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]"))
        record = await form.kept.finish(check_filename(form.filename), purpose, expires_seconds=expires)
    except BaseException:
        for pending in kept:
            await pending.drop()
        raise
    return record.public()


@router.get("/files", responses=_ERRORS, operation_id="listFiles")
async def list_files(
    token: TokenDep,
    desk: DeskDep,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=200, description="The last id of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """List the token's files."""
    page = await desk.page(token, purpose=purpose, after=after, limit=limit, newest_first=order == "desc")
    data = [record.public() for record in page.files]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": page.has_more}


@router.get("/files/{file_id}", responses=_ERRORS, operation_id="retrieveFile")
async def retrieve_file(file_id: FileId, token: TokenDep, desk: DeskDep) -> dict[str, Any]:
    """Return a file's record."""
    return (await desk.get(token, file_id)).public()


@router.delete("/files/{file_id}", responses=_ERRORS, operation_id="deleteFile")
async def delete_file(file_id: FileId, token: TokenDep, desk: DeskDep) -> dict[str, Any]:
    """Delete a file; a batch that was made of it has its own copy."""
    await desk.delete(token, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


@router.get("/files/{file_id}/content", responses=_ERRORS, operation_id="downloadFile", response_class=Response)
async def file_content(file_id: FileId, request: Request, token: TokenDep, desk: DeskDep) -> Response:
    """Return a file's bytes, or those of one `Range`."""
    record = await desk.get(token, file_id)
    wanted = _range(request.headers.get("range"), record.bytes)
    if wanted is None:
        message = f"The file has {record.bytes} bytes; the range lies behind them."
        error = InvalidRequest(message, code="range_not_satisfiable")
        return Response(error.json(), 416, {"content-range": f"bytes */{record.bytes}"}, "application/json")
    start, end = wanted
    headers = {
        "content-length": str(end - start),
        "accept-ranges": "bytes",
        "content-disposition": _disposition(record),
        "x-content-type-options": "nosniff",
    }
    is_part = (start, end) != (0, record.bytes)
    if is_part:
        headers["content-range"] = f"bytes {start}-{end - 1}/{record.bytes}"
    body = desk.content(token, record, start, end)
    return StreamingResponse(body, 206 if is_part else 200, headers, "application/octet-stream")


@router.post(
    "/uploads", responses=_ERRORS, operation_id="createUpload",
    openapi_extra=_json(bytes={"type": "integer"}, filename=_TEXT, mime_type=_TEXT, purpose=_TEXT),
)  # fmt: skip
async def create_upload(request: Request, token: TokenDep, desk: DeskDep) -> dict[str, Any]:
    """Begin a file that comes in parts, within an hour."""
    body = parse_body(await read_small_body(request))
    size, filename, expiry = body.get("bytes"), body.get("filename"), body.get("expires_after") or {}
    if type(size) is not int or not 0 < size <= MAX_UPLOAD_BYTES:
        message = f"Invalid value for 'bytes': send a whole number from 1 to {MAX_UPLOAD_BYTES}."
        raise InvalidRequest(message, param="bytes", code="invalid_value")
    if not isinstance(filename, str):
        raise InvalidRequest("Missing required parameter: 'filename'.", param="filename", code="invalid_type")
    if not isinstance(expiry, dict):
        raise InvalidRequest(
            "Invalid type for 'expires_after': send an object.", param="expires_after", code="invalid_type"
        )
    purpose = body.get("purpose")
    upload = await desk.begin_upload(
        token,
        size=size,
        filename=filename,
        purpose=check_purpose(purpose if isinstance(purpose, str) else None),
        expires_seconds=check_expiry(expiry.get("anchor"), expiry.get("seconds")),
    )
    return upload.public()


@router.post(
    "/uploads/{upload_id}/parts", responses=_ERRORS, operation_id="addUploadPart", openapi_extra=_form(data=_BINARY)
)
async def add_part(
    upload_id: UploadId, request: Request, gateway: GatewayDep, token: TokenDep, desk: DeskDep
) -> dict[str, Any]:
    """Add a part of at most 64 MiB."""
    upload = await desk.pending(token, upload_id)

    async def keep(parts: Any) -> str:
        return await desk.add_part(token, upload, parts)

    form = await read_form(request, "data", keep, max_bytes=MAX_PART_BYTES, settings=gateway.settings.api)
    if form.kept is None:
        message = "Missing required parameter: 'data'. Send it as a file of the form."
        raise InvalidRequest(message, param="data", code="missing_required_parameter")
    return {"id": form.kept, "object": "upload.part", "created_at": int(time.time()), "upload_id": upload.id}


@router.post(
    "/uploads/{upload_id}/complete", responses=_ERRORS, operation_id="completeUpload",
    openapi_extra=_json(part_ids={"type": "array", "items": _TEXT}),
)  # fmt: skip
async def complete_upload(upload_id: UploadId, request: Request, token: TokenDep, desk: DeskDep) -> dict[str, Any]:
    """Join the parts, in the order given, to a file."""
    body = parse_body(await read_small_body(request))
    part_ids, md5 = body.get("part_ids"), body.get("md5")
    if not isinstance(part_ids, list) or not part_ids or not all(isinstance(one, str) for one in part_ids):
        message = "Invalid value for 'part_ids': send the ids of the parts, in their order."
        raise InvalidRequest(message, param="part_ids", code="invalid_type")
    if md5 is not None and not isinstance(md5, str):
        raise InvalidRequest("Invalid type for 'md5': send it in hex.", param="md5", code="invalid_type")
    upload = await desk.pending(token, upload_id)
    return (await desk.complete(token, upload, part_ids, md5)).public()


@router.post("/uploads/{upload_id}/cancel", responses=_ERRORS, operation_id="cancelUpload")
async def cancel_upload(upload_id: UploadId, token: TokenDep, desk: DeskDep) -> dict[str, Any]:
    """Give an upload up."""
    return (await desk.cancel(token, await desk.pending(token, upload_id))).public()


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte and the end of what is wanted: the whole where no one range is asked for; None if none."""
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or found.groups() == ("", ""):
        return 0, size
    first, last = found.groups()
    if not first:  # so many at the end
        return (max(0, size - int(last)), size) if int(last) and size else None
    start = int(first)
    end = min(size, int(last) + 1) if last else size
    if last and int(last) < start:
        return 0, size
    return (start, end) if start < size else None


def _disposition(record: FileRecord) -> str:
    """Return a header that has browsers save the file, under its name as far as ASCII can say it."""
    name = re.sub(r"[^A-Za-z0-9._ -]", "_", record.filename)
    return f'attachment; filename="{name}"'
