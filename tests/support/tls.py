"""Certificates for tests, made in process: `make_authority` and `make_certificate` (for 127.0.0.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


def make_authority(folder: Path, name: str = "authority") -> KeyPair:
    """Return a certificate authority of the test's own."""
    made = trustme.CA(organization_name=name, organization_unit_name=name)
    return _write(folder, name, made.cert_pem, made.private_key_pem)


def make_certificate(folder: Path, authority: KeyPair, name: str = "server") -> KeyPair:
    """Return a certificate for 127.0.0.1 and localhost, signed by the authority."""
    signer = trustme.CA.from_pem(authority.certificate.read_bytes(), authority.key.read_bytes())
    made = signer.issue_cert("127.0.0.1", "localhost", common_name=name)
    return _write(folder, name, made.cert_chain_pems[0], made.private_key_pem)


def _write(folder: Path, name: str, certificate: trustme.Blob, key: trustme.Blob) -> KeyPair:
    folder.mkdir(parents=True, exist_ok=True)
    pair = KeyPair(folder / f"{name}.pem", folder / f"{name}.key")
    certificate.write_to_path(str(pair.certificate))
    key.write_to_path(str(pair.key))
    return pair
