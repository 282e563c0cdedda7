"""A private certificate authority for tests: servers and clients it vouches for, and those it should not.

Everything is PEM in a folder of the test's own. Private keys are PKCS #8, which
is what Kafka reads; with a passphrase they are encrypted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A certificate with its key, as files."""

    certificate: Path
    """The certificate and what leads to its authority."""
    key: Path
    both: Path
    """Key and certificates in one file: Kafka's keystore of type PEM."""


class Authority:
    """One that nobody trusts unless told to."""

    def __init__(self, folder: Path, name: str = "streamlearn tests") -> None:
        self._ca = trustme.CA(organization_name=name)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.bundle = folder / "ca.pem"
        """The authority's own certificate: what whoever is to trust it needs."""
        self.bundle.write_bytes(self._ca.cert_pem.bytes())

    def identity(
        self, stem: str, *hosts: str, passphrase: str | None = None, valid_for: timedelta = timedelta(days=1)
    ) -> Identity:
        """Return a certificate for `hosts`, the loopback unless given; one that has run out where `valid_for` < 0."""
        began = min(datetime.now(UTC), datetime.now(UTC) + valid_for) - timedelta(days=2)
        issued = self._ca.issue_cert(
            *(hosts or LOOPBACK), common_name=stem, not_before=began, not_after=datetime.now(UTC) + valid_for
        )
        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            encryption = BestAvailableEncryption(passphrase.encode())
        key = load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, encryption
        )
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        made = Identity(
            certificate=self._folder / f"{stem}.crt",
            key=self._folder / f"{stem}.key",
            both=self._folder / f"{stem}.pem",
        )
        made.certificate.write_bytes(chain)
        made.key.write_bytes(key)
        made.both.write_bytes(key + chain)
        return made
