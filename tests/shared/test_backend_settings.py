"""How a backend is reached, as the configuration says it: what is taken, and what is told to be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.backend_settings import BackendSettings
from shared.config import load_settings
from shared.config_problems import ConfigError
from tests.support.tls import KeyPair, make_authority, make_certificate

ENVIRONMENT = {"PROXY_PASSWORD": "canary"}
Told = Callable[..., str]
LOCKED_KEY = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjTPAomo0iZ5QICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEEFcVDdceyH663upmJp6OyWoEgZDN
iUxla6r57kYeEvP7XG2DtW/jgyQAx6Wzk+3xnC4/d3DPwL0BwolStKMhLmx1X2KW
DwcynjQUL6rLCVwkjIuorc2AYu8ZZTKMXIduflDEjHoeqFcczv/lsOVWDRrqrKmz
Zm4SdfFxtDhUJn4nTqYJPj6giMhN/deTRKRzwiuQdyZFOCZ7cEBSrVV+2H7qm2w=
-----END ENCRYPTED PRIVATE KEY-----
"""
"""Made for this test; its passphrase is `abcd`."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, authority: KeyPair) -> KeyPair:
    return make_certificate(tmp_path_factory.mktemp("client"), authority, "client")


def configuration(folder: Path, url: str, **settings: object) -> Path:
    path = folder / "aqueduct.yaml"
    lines = "".join(f"        {name}: {value}\n" for name, value in settings.items())
    path.write_text(f"models:\n  m:\n    backends:\n      - url: {url}\n{lines}", encoding="utf-8")
    return path


@pytest.fixture
def backend(tmp_path: Path) -> Callable[..., BackendSettings]:
    def load(url: str = "https://h/v1", **settings: object) -> BackendSettings:
        path = configuration(tmp_path, url, **settings)
        return load_settings(path, environ=ENVIRONMENT).models["m"].backends[0]

    return load


@pytest.fixture
def told(backend: Callable[..., BackendSettings]) -> Told:
    """Return the one thing that is wrong, without file and line."""

    def load(url: str = "https://h/v1", **settings: object) -> str:
        with pytest.raises(ConfigError) as caught:
            backend(url, **settings)
        (problem,) = caught.value.problems
        assert problem.line is not None
        return f"{problem.path.rpartition('.')[2]} {problem.reason}"

    return load


def test_a_proxys_password_comes_from_the_environment_and_is_not_shown(
    backend: Callable[..., BackendSettings],
) -> None:
    settings = backend("http://h/v1", proxy="http://me:${PROXY_PASSWORD}@proxy:3128/")
    assert settings.proxy is not None
    assert settings.proxy.get_secret_value() == "http://me:canary@proxy:3128"
    assert "canary" not in repr(settings)


def test_an_empty_proxy_is_none(backend: Callable[..., BackendSettings]) -> None:
    assert backend("http://h/v1", proxy='"${NO_PROXY_HERE:-}"').proxy is None


@pytest.mark.parametrize(
    "proxy",
    ["proxy:3128", "ftp://p", "http://", "http://p:0", "http://p:x", "http://p/path", "http://p?q", "'http://p#f'"],
)
def test_what_is_no_proxy_is_refused(told: Told, proxy: str) -> None:
    assert told(proxy=proxy).startswith("proxy must be the http:// or https:// URL of a proxy")


def test_a_wrong_proxy_is_not_shown(told: Told) -> None:
    assert "canary" not in told(proxy="http//me:${PROXY_PASSWORD}@p")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4"])
def test_socks_is_refused_by_name(told: Told, scheme: str) -> None:
    assert told(proxy=f"{scheme}://p:1080") == (
        "proxy SOCKS proxies are not supported; give an http:// or https:// proxy"
    )


def test_certificates_are_read(backend: Callable[..., BackendSettings], authority: KeyPair, client: KeyPair) -> None:
    settings = backend(
        ca_file=authority.certificate, client_certificate=client.certificate, client_key=client.key, http2=True
    )
    assert (settings.ca_file, settings.client_key, settings.http2) == (authority.certificate, client.key, True)


def test_a_certificate_and_its_key_may_share_a_file(
    backend: Callable[..., BackendSettings], client: KeyPair, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(client.certificate.read_bytes() + client.key.read_bytes())
    assert backend(client_certificate=both).client_key is None


def test_a_file_that_is_not_there_is_named(told: Told, client: KeyPair, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    assert told(ca_file=missing) == "ca_file cannot be read: No such file or directory"
    assert told(client_certificate=missing) == "client_certificate cannot be read: No such file or directory"
    wanted = "client_key cannot be read: No such file or directory"
    assert told(client_certificate=client.certificate, client_key=missing) == wanted
    assert told(ca_file=tmp_path) == "ca_file cannot be read: Is a directory"


def test_a_file_that_holds_something_else_is_told(told: Told, client: KeyPair, authority: KeyPair) -> None:
    assert told(ca_file=client.key) == "ca_file holds no certificates in PEM form (-----BEGIN CERTIFICATE-----)"
    assert told(client_certificate=client.key).startswith("client_certificate must hold")
    wanted = "client_key must hold the key of client_certificate in PEM form, or leave it out and put it there"
    assert told(client_certificate=client.certificate, client_key=client.certificate) == wanted
    wrong_key = told(client_certificate=client.certificate, client_key=authority.key)
    assert wrong_key == "client_key is not the key of client_certificate"


def test_a_certificate_needs_its_key_and_a_key_its_certificate(told: Told, client: KeyPair) -> None:
    assert told(client_certificate=client.certificate) == "client_key is needed, as client_certificate holds no key"
    assert told(client_key=client.key) == "client_key needs client_certificate beside it"


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(told: Told, client: KeyPair, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    locked.write_text(LOCKED_KEY)
    wanted = "client_key is protected by a passphrase; give a key without one, readable by this user alone"
    assert told(client_certificate=client.certificate, client_key=locked) == wanted


def test_certificates_are_for_tls(told: Told, client: KeyPair, authority: KeyPair) -> None:
    wanted = "is for https:// URLs; the backend's url is http://"
    assert told("http://h/v1", ca_file=authority.certificate) == f"ca_file {wanted}"
    assert told("http://h/v1", ca_file=authority.certificate, proxy="http://p") == f"ca_file {wanted}"
    told_of_client = told("http://h/v1", client_certificate=client.certificate, client_key=client.key)
    assert told_of_client == f"client_certificate {wanted}"


def test_an_authority_may_be_for_the_proxy_alone(backend: Callable[..., BackendSettings], authority: KeyPair) -> None:
    assert backend("http://h/v1", ca_file=authority.certificate, proxy="https://p").ca_file == authority.certificate


def test_http2_is_not_spoken_through_a_proxy_without_tls(told: Told, backend: Callable[..., BackendSettings]) -> None:
    assert told("http://h/v1", http2=True, proxy="http://p") == (
        "http2 cannot be spoken to an http:// url through a proxy; remove one of the two"
    )
    assert backend("http://h/v1", http2=True).http2
    assert backend(http2=True, proxy="http://p").http2


def test_who_calls_no_backend_needs_neither_files_nor_passwords(tmp_path: Path) -> None:
    path = configuration(
        tmp_path,
        "https://h/v1",
        proxy="http://me:${MISSING}@p",
        headers="{api-key: '${MISSING}'}",
        ca_file="/missing/ca.pem",
        client_certificate="/missing/client.pem",
        client_key="/missing/client.key",
        http2=True,
    )
    settings = load_settings(path, environ={}, resolve_backend_keys=False).models["m"].backends[0]
    assert (settings.proxy, settings.ca_file, settings.client_certificate, settings.client_key) == (None,) * 4
    assert settings.headers is None


def test_headers_are_sent_in_lower_case_and_kept_secret(backend: Callable[..., BackendSettings]) -> None:
    made = backend(headers="{API-Key: '${PROXY_PASSWORD}', x-team: ' search '}")
    assert made.headers is not None
    assert {name: value.get_secret_value() for name, value in made.headers.items()} == {
        "api-key": "canary",
        "x-team": "search",
    }
    assert "canary" not in repr(made)
    assert backend(headers="{}").headers is None
    assert backend(headers="{authorization: Basic abcd}").headers is not None


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ("{'x team': a}", "headers must have header names before the colons, as `x-team: search`"),
        ("{'x\\r\\ny': a}", "headers must have header names before the colons, as `x-team: search`"),
        ("{Content-Length: '5'}", "headers must not hold content-length: it is set for each call"),
        ("{x-request-id: a}", "headers must not hold x-request-id: it is set for each call"),
        ('{x-team: "a\\r\\nx-b: canary"}', "headers must give x-team one line of ASCII text"),
        ("{x-team: ''}", "headers must give x-team one line of ASCII text"),
        ("{x-team: a, X-Team: b}", "headers must not name a header twice; case does not count"),
    ],
)
def test_headers_that_cannot_be_sent_are_told(told: Told, headers: str, wanted: str) -> None:
    assert told(headers=headers) == wanted


def test_a_header_beside_an_api_key_that_means_the_same_is_told(told: Told) -> None:
    wanted = "headers must not hold authorization beside api_key; remove one of the two"
    assert told(api_key="k", headers="{authorization: Bearer k}") == wanted


def test_a_header_whose_variable_is_missing_is_told_once(told: Told) -> None:
    assert told(headers="{api-key: '${NOT_SET}'}") == "api-key the environment variable NOT_SET is not set"
