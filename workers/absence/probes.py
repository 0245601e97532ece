"""Looks whether the servers of a model are there: one small GET each, no job."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

import httpcore2

from shared.backend_settings import BackendSettings
from shared.tls_files import client_context
from workers.backends import backend_headers
from workers.transport.server import bracketed, server_at

PROBE_SECONDS: Final = 2.0
_AWAY = range(500, 600)
_PROXY_REFUSES = 407


class Probes:
    """The backends of one model. Nothing is held between two looks but TLS's context."""

    def __init__(self, backends: Sequence[BackendSettings]) -> None:
        self._probes = [_Probe(backend) for backend in backends]

    async def find(self) -> list[int]:
        """Return the places of the backends that are there."""
        there = await asyncio.gather(*(probe.is_there() for probe in self._probes))
        return [place for place, is_there in enumerate(there) if is_there]


class _Probe:
    def __init__(self, backend: BackendSettings) -> None:
        server = server_at(backend.url, backend_headers(backend))
        self._has_path = backend.health_path is not None
        self._url = httpcore2.URL(
            scheme=server.scheme.encode(),
            host=bracketed(server.host).encode(),
            port=server.port,
            target=(backend.health_path or f"{server.path}/models").encode(),
        )
        self._headers = [*server.headers]
        files = (backend.ca_file, backend.client_certificate, backend.client_key)
        self._tls = client_context(*files) if server.is_tls else None
        self._proxy = proxy_of(backend.proxy.get_secret_value()) if backend.proxy else None

    async def is_there(self) -> bool:
        try:
            async with (
                asyncio.timeout(PROBE_SECONDS),
                httpcore2.AsyncConnectionPool(ssl_context=self._tls, proxy=self._proxy) as pool,
                pool.stream("GET", self._url, headers=self._headers) as answer,
            ):
                if self._has_path:
                    return 200 <= answer.status < 300
                return answer.status not in _AWAY and not (self._proxy and answer.status == _PROXY_REFUSES)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, httpcore2.ProxyError):
            return False
        except (TimeoutError, OSError):
            return False


def proxy_of(url: str) -> httpcore2.Proxy:
    """Return a proxy as the library takes it."""
    parts = urlsplit(url)
    auth = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    way = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return httpcore2.Proxy(way, auth=auth, ssl_context=client_context() if parts.scheme == "https" else None)
