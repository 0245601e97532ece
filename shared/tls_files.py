"""Certificate files in, TLS contexts for calling servers out; or what is wrong with the files, in plain words."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path


@cache
def system_context() -> ssl.SSLContext:
    """Return what verifies servers by the system's authorities; one for all, as reading these takes tens of ms."""
    return ssl.create_default_context()


def client_context(
    ca_file: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return a context of its own: who is believed (default: the system's authorities), and what we show of ourselves.

    Raises OSError or ValueError when a file cannot be used; the three below say why.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if certificate is not None:
        context.load_cert_chain(certificate, key, password=_no_password)
    return context


def ca_file_problem(path: Path) -> str | None:
    """Return what is wrong with a file of authorities, or None."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "holds no certificates in PEM form (-----BEGIN CERTIFICATE-----)"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if context.get_ca_certs() else "holds no certificate of an authority"


def certificate_problem(path: Path) -> str | None:
    """Return what is wrong with a file that holds a client's certificate, or None."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if "-----BEGIN CERTIFICATE-----" not in text:
        return "must hold a certificate in PEM form (-----BEGIN CERTIFICATE-----)"
    return None


def key_problem(certificate: Path, key: Path | None) -> str | None:
    """Return what is wrong with the key of a readable certificate, which may stand in the certificate's file."""
    try:
        if key is not None:
            key.open("rb").close()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return "is not the key of client_certificate"
        if key is None:
            return "is needed, as client_certificate holds no key"
        return "must hold the key of client_certificate in PEM form, or leave it out and put it there"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:
        return str(error)
    return None


def _no_password() -> str:
    """Refuse; OpenSSL itself would ask on the terminal."""
    raise ValueError("is protected by a passphrase; give a key without one, readable by this user alone")
