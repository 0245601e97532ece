"""One receiver of webhooks: a notice in, a signed POST out; and why it was not taken."""

from __future__ import annotations

import asyncio
import time
from typing import Final
from urllib.parse import urlsplit

from shared.tls_files import system_context
from shared.webhook_settings import WebhookSettings
from workers.batches.notice import Notice
from workers.transport.base import ConnectFailed, ConnectionLost, InvalidAnswer
from workers.transport.own import OwnTransport

SEND_SECONDS: Final = 10.0


class Receiver:
    """Made on the loop that sends; `close` it. Follows no redirect and keeps nothing of an answer but its status."""

    def __init__(self, webhook: WebhookSettings, key: bytes) -> None:
        self.webhook = webhook
        parts = urlsplit(webhook.url)
        self.host = parts.hostname or ""
        """What may be told of it: the rest of its URL may be secret."""
        self._key = key
        self._path = ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode()
        self._transport = OwnTransport(
            f"{parts.scheme}://{parts.netloc}",
            {"user-agent": "aqueduct"},
            connect_timeout_seconds=SEND_SECONDS,
            tls=system_context() if parts.scheme == "https" else None,
        )

    async def send(self, notice: Notice) -> str | None:
        """Tell of a batch's end; returns what went wrong, None where it was taken."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                return await self._post(notice)
        except TimeoutError:
            return f"did not answer within {SEND_SECONDS:g} s"
        except ConnectFailed:
            return "cannot be reached"
        except ConnectionLost:
            return "closed the connection"
        except InvalidAnswer:
            return "answered what is not HTTP"

    async def _post(self, notice: Notice) -> str | None:
        response = await self._transport.post(self._path, notice.headers(self._key, time.time()), notice.body())
        response.release()  # its body is read no further, and held nowhere
        if 200 <= response.status < 300:
            return None
        return f"answered {response.status}" + (", a redirect" if 300 <= response.status < 400 else "")

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()
