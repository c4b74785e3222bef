"""The operator's certificate for signatures: its chain, its key, and the name that C2PA has for its algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from impasto_client.errors import ImpastoError, MissingExtra

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Identity:
    """PEM texts of the certificate with its chain, of its key, and of the certificate that has issued it. `serial` is
    its number, which its issuer gives once.
    """

    chain: str
    key: str = field(repr=False)
    algorithm: str
    serial: int
    issuer: str

    @classmethod
    def read(cls, certificate: Path, private_key: Path) -> Identity:
        """From PEM files: the certificate, followed by those of its issuers; and its key.

        Raises MissingExtra without impasto[c2pa], ImpastoError for files that can't sign.
        """
        c2pa()  # cryptography comes with it
        chain, key = _text(certificate, "certificate"), _text(private_key, "private key")
        leaf, issuer, *_ = _certificates(chain, certificate)
        return cls(chain, key, _algorithm(leaf, key), leaf.serial_number, _pem(issuer))


def c2pa() -> Any:
    """C2PA's library, imported only where it is needed. Raises MissingExtra."""
    try:
        import c2pa as library  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MissingExtra("signing needs c2pa-python, which is not installed; pip install 'impasto[c2pa]'") from None
    return library


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ImpastoError(f"{what}: {str(path)!r} can't be read ({error}); pass a PEM file") from None


def _certificates(chain: str, path: Path) -> Sequence[Any]:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(chain.encode())
    except ValueError as error:
        raise ImpastoError(f"certificate: {str(path)!r} is no PEM certificate ({error}); pass one") from None
    if len(found) < 2:
        problem = f"{str(path)!r} holds one certificate; append those of its issuers (C2PA takes no self-signed one)"
        raise ImpastoError(f"certificate: {problem}")
    return found


def _algorithm(leaf: Any, key: str) -> str:
    """C2PA's name of the algorithm. Raises ImpastoError for a key that isn't the certificate's, or of another kind."""
    from cryptography.hazmat.primitives import serialization

    try:
        public = serialization.load_pem_private_key(key.encode(), password=None).public_key()
    except (TypeError, ValueError) as error:
        raise ImpastoError(f"private key: it can't be read ({error}); pass a PEM key without a password") from None
    if public != leaf.public_key():
        raise ImpastoError("private key: it is not the certificate's; pass the two that belong together")
    kind = type(public).__name__.lower()
    if "ed25519" in kind:
        return "ed25519"
    found = "ps256" if "rsa" in kind else _CURVES.get(getattr(getattr(public, "curve", None), "name", ""))
    if found is None:
        raise ImpastoError(f"private key: a {type(public).__name__} can't sign for C2PA; use P-256, RSA or Ed25519")
    return found


def _pem(certificate: Any) -> str:
    from cryptography.hazmat.primitives import serialization

    return str(certificate.public_bytes(serialization.Encoding.PEM).decode())
