"""A backend's settings in, the transport that its calls go by out."""

from __future__ import annotations

from collections.abc import Mapping

from shared.backend_settings import BackendSettings
from shared.tls_files import client_context, system_context
from workers.transport.base import Transport
from workers.transport.own import OwnTransport


def open_transport(
    backend: BackendSettings, headers: Mapping[str, str], *, connect_timeout_seconds: float
) -> Transport:
    """Return our own transport, or the library's where the backend asks for what only that can: a proxy or HTTP/2."""
    is_tls = backend.url.startswith("https:")
    files = (backend.ca_file, backend.client_certificate, backend.client_key)
    if backend.proxy is None and not backend.http2:
        tls = (client_context(*files) if any(files) else system_context()) if is_tls else None
        return OwnTransport(backend.url, headers, connect_timeout_seconds=connect_timeout_seconds, tls=tls)
    # Only here, as most workers never need it.
    from workers.transport.library import LibraryTransport, Way  # noqa: PLC0415

    proxy = backend.proxy.get_secret_value() if backend.proxy else None
    way = Way(
        tls=client_context(*files) if is_tls else None,
        http2=backend.http2,
        proxy=proxy,
        proxy_tls=client_context(backend.ca_file) if proxy and proxy.startswith("https:") else None,
    )
    return LibraryTransport(backend.url, headers, connect_timeout_seconds=connect_timeout_seconds, way=way)
