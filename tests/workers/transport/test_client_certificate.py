"""A backend that asks who calls: shown the configured certificate, by a proxy too; and an authority of one's own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.backend_settings import BackendSettings
from tests.support.peers import PeerServer, open_server
from tests.support.proxy import open_proxy
from tests.support.tls import KeyPair, make_certificate
from tests.workers.transport.scene import Certificates
from tests.workers.transport.stage import ASK, PATH, counted, on_both_loops, read_all, within
from workers.transport.base import ConnectFailed, ConnectionLost, Transport
from workers.transport.choice import open_transport


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, authority: KeyPair) -> KeyPair:
    return make_certificate(tmp_path_factory.mktemp("client"), authority, "client")


@asynccontextmanager
async def strict_server(certificates: Certificates) -> AsyncIterator[PeerServer]:
    """A server that serves only those whom the authority vouches for."""
    context = certificates.context()
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    async with open_server(context) as server:
        yield server


def transport_to(server: PeerServer, ca_file: Path | None, client: KeyPair | None, proxy: str = "") -> Transport:
    backend = BackendSettings(
        url=f"https://{server.address}/v1",
        ca_file=ca_file,
        client_certificate=client.certificate if client else None,
        client_key=client.key if client else None,
        proxy=SecretStr(proxy) if proxy else None,
    )
    return open_transport(backend, {}, connect_timeout_seconds=2)


@pytest.mark.parametrize("by_proxy", [False, True])
@on_both_loops
async def test_the_configured_certificate_is_shown(by_proxy: bool, certificates: Certificates, client: KeyPair) -> None:
    async with strict_server(certificates) as server, open_proxy() as proxy:
        way = f"http://{proxy.address}" if by_proxy else ""
        transport = transport_to(server, certificates.authority, client, way)
        call = asyncio.create_task(transport.post(PATH, ASK, b"{}"))
        peer = await server.accept()
        await peer.serve(counted(b"yes"))
        assert await read_all(await within(call)) == b"yes"
        shown = peer.writer.get_extra_info("peercert")
        assert (("commonName", "client"),) in shown["subject"]
        assert proxy.accepted == by_proxy
        transport.close()


@pytest.mark.parametrize("by_proxy", [False, True])
@on_both_loops
async def test_without_a_certificate_a_strict_server_serves_nobody(by_proxy: bool, certificates: Certificates) -> None:
    async with strict_server(certificates) as server, open_proxy() as proxy:
        way = f"http://{proxy.address}" if by_proxy else ""
        transport = transport_to(server, certificates.authority, None, way)
        with pytest.raises((ConnectFailed, ConnectionLost)):
            await within(asyncio.create_task(transport.post(PATH, ASK, b"{}")))
        transport.close()


@pytest.mark.parametrize("by_proxy", [False, True])
@on_both_loops
async def test_a_server_is_believed_only_on_the_word_of_the_authority_named(
    by_proxy: bool, certificates: Certificates
) -> None:
    async with open_server(certificates.context()) as server, open_proxy() as proxy:
        way = f"http://{proxy.address}" if by_proxy else ""
        stranger = transport_to(server, None, None, way)
        with pytest.raises(ConnectFailed):
            await within(asyncio.create_task(stranger.post(PATH, ASK, b"secret")))
        transport = transport_to(server, certificates.authority, None, way)
        call = asyncio.create_task(transport.post(PATH, ASK, b"{}"))
        await (await server.accept()).serve(counted(b"yes"))
        assert await read_all(await within(call)) == b"yes"
        stranger.close()
        transport.close()
