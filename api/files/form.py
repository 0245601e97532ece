"""A multipart form in, as it comes: its fields as text, and the bytes of its one file handed on piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from shared.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from shared.settings import ApiSettings

MAX_FIELDS: Final = 16
MAX_FIELD_BYTES: Final = 4096
OTHER_BYTES: Final = 1024 * 1024
"""That a form may have beside its file, all in all."""

Kept = TypeVar("Kept")


@dataclass(slots=True)
class Form(Generic[Kept]):
    """What was sent."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    kept: Kept | None = None
    """What `keep` made of the file; None where there was none."""


@dataclass(slots=True)
class _Begin:
    name: str
    filename: str | None


@dataclass(slots=True)
class _Data:
    data: bytes


class _End:
    """A part has ended."""


async def read_form(
    request: Request,
    file_field: str,
    keep: Callable[[AsyncIterator[bytes]], Awaitable[Kept]],
    *,
    max_bytes: int,
    settings: ApiSettings,
) -> Form[Kept]:
    """Read a form whose file is in `file_field`; its bytes go to `keep`, which must take all of them.

    Raises UnsupportedMediaType, InvalidRequest and RequestTooLarge; what `keep` has kept by then is its caller's.
    """
    form: Form[Kept] = Form()
    events = _events(request, settings, max_bytes + OTHER_BYTES)
    async for event in events:
        if not isinstance(event, _Begin):
            continue
        if event.name == file_field and event.filename is not None:
            if form.kept is not None:
                raise InvalidRequest(f"Send one '{file_field}' only.", param=file_field, code="invalid_value")
            form.filename = event.filename
            form.kept = await keep(_bytes_of(events, max_bytes, file_field))
            continue
        if len(form.fields) >= MAX_FIELDS:
            raise InvalidRequest(f"The form has more than {MAX_FIELDS} fields. Send fewer.", code="invalid_value")
        value = b"".join([piece async for piece in _bytes_of(events, MAX_FIELD_BYTES, event.name)])
        form.fields[event.name] = value.decode("utf-8", "replace")
    return form


async def _bytes_of(events: AsyncIterator[Any], max_bytes: int, name: str) -> AsyncIterator[bytes]:
    size = 0
    async for event in events:
        if isinstance(event, _End):
            return
        size += len(event.data)
        if size > max_bytes:
            raise RequestTooLarge(
                f"'{name[:64]}' is larger than {max_bytes} bytes. Send a smaller one.", param=name[:64]
            )
        yield event.data


async def _events(request: Request, settings: ApiSettings, max_bytes: int) -> AsyncIterator[_Begin | _Data | _End]:
    """Yield what the form holds; raises InvalidRequest for one that is cut, malformed, or comes too slowly."""
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if media_type != b"multipart/form-data" or not boundary:
        raise UnsupportedMediaType("Send the file as multipart/form-data.")
    waiting: list[_Begin | _Data | _End] = []
    ends: list[bool] = []
    callbacks: Any = {**_callbacks(waiting), "on_end": lambda: ends.append(True)}
    try:
        parser = MultipartParser(boundary, callbacks)
    except FormParserError:
        raise _malformed() from None
    async for part in _parts(request, settings, max_bytes):
        try:
            parser.write(part)
        except FormParserError:
            raise _malformed() from None
        for event in waiting:
            yield event
        waiting.clear()
    if not ends:
        raise _malformed()


async def _parts(request: Request, settings: ApiSettings, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Only waiting for the client counts against its time, not what is done meanwhile."""
    silence, rate = settings.body_timeout_seconds, settings.body_bytes_per_second
    clock = asyncio.get_running_loop().time
    stream = request.stream().__aiter__()
    size, waited = 0, 0.0
    while True:
        began_at = clock()
        try:
            async with asyncio.timeout(min(silence, silence + size / rate - waited)):
                part = await anext(stream, None)
        except TimeoutError:
            raise InvalidRequest(
                f"The request body did not arrive in time: no more of it came for {silence:g} s, or in all fewer than "
                f"{rate} bytes a second. Send the whole body, faster.",
                code="request_timeout",
            ) from None
        if part is None:
            return
        waited += clock() - began_at
        size += len(part)
        if size > max_bytes:
            raise RequestTooLarge(f"The form is larger than {max_bytes} bytes. Send a smaller one.")
        yield part


def _callbacks(events: list[Any]) -> Any:
    headers: dict[bytes, bytes] = {}
    name, value = bytearray(), bytearray()

    def header_field(data: bytes, start: int, end: int) -> None:
        name.extend(data[start:end])

    def header_value(data: bytes, start: int, end: int) -> None:
        value.extend(data[start:end])

    def header_end() -> None:
        headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def headers_finished() -> None:
        _, options = parse_options_header(headers.get(b"content-disposition", b""))
        given = options.get(b"filename")
        filename = given.decode("utf-8", "replace") if given is not None else None
        events.append(_Begin(options.get(b"name", b"").decode("utf-8", "replace"), filename))
        headers.clear()

    return {
        "on_header_field": header_field,
        "on_header_value": header_value,
        "on_header_end": header_end,
        "on_headers_finished": headers_finished,
        "on_part_data": lambda data, start, end: events.append(_Data(data[start:end])),
        "on_part_end": lambda: events.append(_End()),
    }


def _malformed() -> InvalidRequest:
    return InvalidRequest("The request body is no whole multipart form.", code="invalid_form")
