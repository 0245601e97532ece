"""Fixtures of the transports' tests: an authority of their own, and a server that it vouches for."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from shared import tls_files
from tests.support.tls import KeyPair, make_authority, make_certificate
from tests.workers.transport.scene import Certificates


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server_context(tmp_path_factory: pytest.TempPathFactory, authority: KeyPair) -> ssl.SSLContext:
    """For a server at 127.0.0.1."""
    pair = make_certificate(tmp_path_factory.mktemp("server"), authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


@pytest.fixture
def trusted(
    monkeypatch: pytest.MonkeyPatch, authority: KeyPair, server_context: ssl.SSLContext
) -> Iterator[ssl.SSLContext]:
    """A server's context whose authority this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    tls_files.system_context.cache_clear()
    yield server_context
    tls_files.system_context.cache_clear()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory, authority: KeyPair) -> Certificates:
    """Of a server at 127.0.0.1, and who vouches for it."""
    pair = make_certificate(tmp_path_factory.mktemp("server"), authority)
    return Certificates(authority.certificate, pair.certificate, pair.key)
