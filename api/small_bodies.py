"""Small bodies of ordinary routes and pages: read whole within a limit, in time; JSON from who says that it is."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from shared.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType

MAX_BYTES = 256 * 1024
TIMEOUT_SECONDS = 30.0


async def read_small_body(request: Request) -> bytes:
    """Return the body; raises UnsupportedMediaType, RequestTooLarge, or InvalidRequest when it comes too slowly."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType
    return await read_within(request, MAX_BYTES)


async def read_within(request: Request, max_bytes: int) -> bytes:
    """Return a body of any type; raises RequestTooLarge, or InvalidRequest when it comes too slowly."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise RequestTooLarge(f"The request body is larger than {max_bytes} bytes. Send a smaller one.")
                parts.append(part)
    except TimeoutError:
        message = f"The request body did not arrive within {TIMEOUT_SECONDS:g} s."
        raise InvalidRequest(message, code="request_timeout") from None
    return b"".join(parts)
