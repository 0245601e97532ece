"""Small JSON bodies of ordinary routes: read whole within a limit, from clients that send them as JSON, in time."""

from __future__ import annotations

import asyncio

from fastapi import Request

from shared.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType

MAX_BYTES = 256 * 1024
TIMEOUT_SECONDS = 30.0


async def read_small_body(request: Request) -> bytes:
    """Return the body; raises UnsupportedMediaType, RequestTooLarge, or InvalidRequest when it comes too slowly."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType
    parts, size = [], 0
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BYTES:
                    raise RequestTooLarge(f"The request body is larger than {MAX_BYTES} bytes. Send a smaller one.")
                parts.append(part)
    except TimeoutError:
        message = f"The request body did not arrive within {TIMEOUT_SECONDS:g} s."
        raise InvalidRequest(message, code="request_timeout") from None
    return b"".join(parts)
