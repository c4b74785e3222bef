"""Certificates for tests of signatures: an authority, and those that it issues."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        form = serialization.PrivateFormat.PKCS8
        encoded: bytes = self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        return encoded.decode()


@dataclass(frozen=True)
class Authority:
    """Issues certificates; its own comes behind each."""

    own: Issued

    @classmethod
    def named(cls, name: str) -> Authority:
        return cls(_issued(name, ec.generate_private_key(ec.SECP256R1()), None, serial=1))

    def issue(self, name: str, kind: str = "p256", *, serial: int = 2, usage: bool = True) -> Issued:
        """A certificate that may sign; without `usage` it doesn't say for what, which C2PA refuses."""
        return _issued(name, KEYS[kind](), self.own, serial=serial, usage=usage)

    def write(self, folder: Path, issued: Issued) -> tuple[Path, Path]:
        """The files of a certificate with its chain, and of its key."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "certificate.pem").write_text(issued.pem + self.own.pem)
        (folder / "key.pem").write_text(issued.key_pem)
        return folder / "certificate.pem", folder / "key.pem"


KEYS: dict[str, Any] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def _issued(name: str, key: Any, issuer: Issued | None, *, serial: int, usage: bool = True) -> Issued:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")]
    subject, now = x509.Name(parts), datetime.now(UTC)
    signing_key = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .add_extension(_uses(is_authority=issuer is None), critical=True)
    )
    if usage and issuer is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return Issued(builder.sign(signing_key, hashes.SHA256()), key)


def _uses(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
