"""How many requests wait inside an engine, by its own metrics page: an address in, a number or nothing out.

What the page says is believed only as far as it can be true, and never waited for: a page that hangs, is huge or says
nonsense is as none, and told once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import httpcore2

from shared.backend_settings import BackendSettings
from shared.background import Background
from shared.tls_files import client_context
from workers.absence.probes import proxy_of
from workers.backends import backend_headers
from workers.transport.server import bracketed, server_at

log = logging.getLogger("aqueduct.worker.capacity")

SECONDS: Final = 2.0
FRESH_SECONDS: Final = 3.0
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_WAITING: Final = 1e6
NAMES: Final = {
    "vllm": (b"vllm:num_requests_waiting",),
    "llama.cpp": (b"llamacpp:requests_deferred",),
    "sglang": (b"sglang:num_queue_reqs",),
}
"""What waits, of each engine; `any` takes whichever there is."""


class BadMetrics(Exception):
    """A metrics page that tells nothing; its text says why."""


class Scrape:
    """One backend's page. `look` about once a second, `waiting` what it said."""

    def __init__(self, model: str, backend: BackendSettings, background: Background) -> None:
        url = urlsplit(backend.metrics_url or backend.url)
        server = server_at(f"{url.scheme}://{url.netloc}", backend_headers(backend))
        target = (url.path or "/metrics") if backend.metrics_url else "/metrics"
        self._url = httpcore2.URL(
            scheme=server.scheme.encode(), host=bracketed(server.host).encode(), port=server.port,
            target=(f"{target}?{url.query}" if url.query else target).encode(),
        )  # fmt: skip
        own = urlsplit(backend.url)
        is_own = (url.scheme, url.netloc) == (own.scheme, own.netloc)
        self._headers = [*server.headers] if is_own else [(b"host", url.netloc.rpartition("@")[2].encode())]
        files = (backend.ca_file, backend.client_certificate, backend.client_key)
        self._tls = client_context(*files) if server.is_tls else None
        self._proxy = proxy_of(backend.proxy.get_secret_value()) if backend.proxy and is_own else None
        self._names = NAMES.get(backend.metrics or "any") or tuple(name for names in NAMES.values() for name in names)
        self._who = f"{model} at {backend.address}"
        self._background = background
        self._task: asyncio.Task[None] | None = None
        self._told = False
        self._waiting: tuple[float, float] | None = None

    def look(self, clock: Callable[[], float]) -> float | None:
        """Return how many wait, if that was told lately; and ask again, beside what else is done."""
        if self._task is None or self._task.done():
            self._task = self._background.step(self._ask(clock), "metrics of a backend")
        if self._waiting is None or clock() - self._waiting[1] > FRESH_SECONDS:
            return None
        return self._waiting[0]

    def ignore(self, why: str) -> None:
        """Say once, until it is right again, that what the page says is not believed."""
        self._waiting = None
        if not self._told:
            self._told = True
            log.warning("the metrics of %s are ignored: %s", self._who, why)

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _ask(self, clock: Callable[[], float]) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                waiting = read_waiting(await self._page(), self._names)
        except BadMetrics as error:
            self.ignore(str(error))
        except TimeoutError:
            self.ignore(f"they did not come within {SECONDS:g} s")
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, httpcore2.ProxyError):
            self.ignore("they cannot be fetched")
        except OSError:
            self.ignore("they cannot be fetched")
        else:
            self._told = False
            self._waiting = waiting, clock()

    async def _page(self) -> bytes:
        page = bytearray()
        async with (
            httpcore2.AsyncConnectionPool(ssl_context=self._tls, proxy=self._proxy) as pool,
            pool.stream("GET", self._url, headers=self._headers) as answer,
        ):
            if answer.status != 200:
                raise BadMetrics(f"the answer is {answer.status}")
            async for part in answer.aiter_stream():
                page += part
                if len(page) > MAX_BYTES:
                    raise BadMetrics(f"the page is longer than {MAX_BYTES} bytes")
        return bytes(page)


def read_waiting(page: bytes, names: tuple[bytes, ...]) -> float:
    """Return the sum of what a Prometheus page says of these names; raises BadMetrics."""
    found, total = False, 0.0
    for line in page.splitlines():
        if not line.startswith(names):
            continue
        name = next(name for name in names if line.startswith(name))
        rest = line[len(name) :]
        if rest[:1] not in (b"{", b" ", b"\t"):
            continue  # a longer name
        try:
            number = float((rest.rpartition(b"}")[2] or rest).split()[0])
        except (ValueError, IndexError):
            raise BadMetrics(f"{name.decode()} is no number") from None
        if not math.isfinite(number) or not 0 <= number <= MAX_WAITING:
            raise BadMetrics(f"{name.decode()} is {number:g}")
        found, total = True, total + number
    if not found:
        raise BadMetrics(f"there is no {names[0].decode()}")
    return total
