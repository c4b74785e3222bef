"""C2PA: sign pictures with the operator's certificate, and say what a picture's manifest is worth.

A signature binds all of the file, its marks included: whoever changes a byte breaks it. It has no time stamp, so it
ends with its certificate. Nothing is fetched from anywhere, neither to sign nor to read. It needs impasto[c2pa].
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from impasto_client.carriers.carrier import carrier_of
from impasto_client.errors import ImpastoError, MarkError, MissingExtra
from impasto_client.xmp import PAINTED, REPAINTED, SOURCES
from impasto_gateway.errors import Refusal
from impasto_gateway.settings import GatewaySettings

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
# Nothing of a stranger's file may make this process call out; and what was just signed is not read again.
_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}
_BUILDING = {"builder": {"thumbnail": {"enabled": False}}, "verify": {**_OFFLINE, "verify_after_sign": False}}
_PHOTO = "photo"  # the ingredient's label in a manifest


@dataclass(frozen=True)
class Manifest:
    """What a file's C2PA manifest is worth.

    `state`: none, unreadable, invalid (changed since it was signed), or valid. `signer` and `issuer` are what the
    certificate says; anybody can make one that says so. `ours`: signed by this operator's own certificate. `problems`
    are the library's codes.
    """

    state: str
    ours: bool = False
    signer: str | None = None
    issuer: str | None = None
    source: str | None = None
    ingredients: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signer:
    """Signs with a certificate: PEM texts of its chain and its key, the algorithm's name in C2PA, the certificate's
    serial number, and the certificates that have issued it."""

    chain: str
    key: str = field(repr=False)
    algorithm: str
    serial: int
    issuers: str

    @classmethod
    def of(cls, settings: GatewaySettings) -> Signer | None:
        """The settings' signer; None where they have no certificate.

        A picture is signed at once, to see that it works. Raises MissingExtra without the library, ImpastoError for a
        certificate or key that can't sign.
        """
        if settings.certificate is None and settings.private_key is None:
            return None
        if settings.certificate is None or settings.private_key is None:
            raise ImpastoError("certificate: it needs its private key, and the key needs it; pass both")
        signer = cls.read(settings.certificate, settings.private_key)
        signer._try()
        return signer

    @classmethod
    def read(cls, certificate: Path, private_key: Path) -> Signer:
        """From PEM files: the certificate, followed by those of its issuers; and its key. Raises as `of`."""
        _c2pa()
        chain, key = _text(certificate, "certificate"), _text(private_key, "private key")
        leaf, *issuers = _certificates(chain, certificate)
        return cls(chain, key, _algorithm(leaf, key), leaf.serial_number, "".join(map(_pem, issuers)))

    def sign(self, data: bytes, fmt: str, ingredient: bytes | None = None) -> bytes:
        """The file with a manifest. `fmt` is png, jpeg or webp. `ingredient` is the picture that it was made of: its own
        manifest, if it has one, comes along. Raises Refusal (400) for one that can't be read.
        """
        c2pa, out = _c2pa(), io.BytesIO()
        info = c2pa.C2paSignerInfo(self.algorithm, self.chain.encode(), self.key.encode(), None)
        with (
            c2pa.Context.from_dict(_BUILDING) as context,
            c2pa.Builder.from_json(json.dumps(_manifest(fmt, ingredient is not None)), context=context) as builder,
            c2pa.Signer.from_info(info) as signer,
        ):
            if ingredient is not None:
                _add(builder, ingredient)
            builder.sign(signer, f"image/{fmt}", io.BytesIO(data), out)
        return out.getvalue()

    def _try(self) -> None:
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "png")
        try:
            signed = self.sign(file.getvalue(), "png")
        except _c2pa().C2paError as error:
            raise ImpastoError(
                f"certificate: it can't sign ({error}); see docs/http.md for what C2PA asks of one"
            ) from None
        found = examined(signed, self)
        if not found.ours:
            problems = ", ".join(found.problems)
            raise ImpastoError(f"certificate: its signatures don't verify ({problems}); see docs/http.md")


def examined(data: bytes, own: Signer | None) -> Manifest:
    """What the file's manifest is worth. Raises MissingExtra without the library, MarkError for another kind of file."""
    c2pa, kind = _c2pa(), f"image/{carrier_of(data).format}"
    trust = {"trust": {"trust_anchors": own.issuers}} if own else {}
    with c2pa.Context.from_dict({"verify": {**_OFFLINE, "verify_trust": True}, **trust}) as context:
        try:
            with c2pa.Reader(kind, io.BytesIO(data), context=context) as reader:
                return _read(json.loads(reader.json()), own)
        except c2pa.C2paError.ManifestNotFound:
            return Manifest("none")
        except c2pa.C2paError as error:
            return Manifest("unreadable", problems=(str(error)[:200],))


def _read(said: Mapping[str, Any], own: Signer | None) -> Manifest:
    active = said["manifests"][said["active_manifest"]]
    signed = active.get("signature_info") or {}
    failures = _failures(said)
    trusted = said.get("validation_state") == "Trusted"
    # An issuer gives a number once: who is trusted through our issuers and has our number has our certificate.
    ours = own is not None and trusted and str(signed.get("cert_serial_number")) == str(own.serial)
    return Manifest(
        state="invalid" if said.get("validation_state") == "Invalid" else "valid",
        ours=ours,
        signer=signed.get("common_name"),
        issuer=signed.get("issuer"),
        source=_source(active),
        ingredients=len(active.get("ingredients") or ()),
        problems=failures,
    )


def _failures(said: Mapping[str, Any]) -> tuple[str, ...]:
    found = ((said.get("validation_results") or {}).get("activeManifest") or {}).get("failure") or ()
    return tuple(dict.fromkeys(str(one.get("code")) for one in found))


def _source(manifest: Mapping[str, Any]) -> str | None:
    """The last word of the first digitalSourceType among the actions."""
    for assertion in manifest.get("assertions") or ():
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            for action in assertion["data"].get("actions") or ():
                if "digitalSourceType" in action:
                    return str(action["digitalSourceType"]).rpartition("/")[2]
    return None


def _manifest(fmt: str, is_edit: bool) -> dict[str, Any]:
    made: list[dict[str, Any]] = [{"action": "c2pa.created", "digitalSourceType": SOURCES + PAINTED}]
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_PHOTO]}}
    edited = {"action": "c2pa.edited", "digitalSourceType": SOURCES + REPAINTED}
    actions = [opened, edited] if is_edit else made
    return {
        "claim_generator_info": [{"name": "impasto", "version": version("impasto")}],
        "format": f"image/{fmt}",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _add(builder: Any, ingredient: bytes) -> None:
    said = {"title": _PHOTO, "label": _PHOTO, "relationship": "parentOf"}
    try:
        builder.add_ingredient(said, f"image/{carrier_of(ingredient).format}", io.BytesIO(ingredient))
    except (_c2pa().C2paError, MarkError) as error:
        problem = f"its C2PA manifest can't be read ({str(error)[:100]}); send the picture without it"
        raise Refusal(400, f"image: {problem}", "invalid_image", "image") from None


def _c2pa() -> Any:
    return _library("c2pa")


def _library(name: str) -> Any:
    """Imported only where it is needed. Raises MissingExtra."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise MissingExtra("signing needs c2pa-python, which is not installed; pip install 'impasto[c2pa]'") from None


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ImpastoError(f"{what}: {str(path)!r} can't be read ({error}); pass a PEM file") from None


def _certificates(chain: str, path: Path) -> Sequence[Any]:
    try:
        found: list[Any] = _library("cryptography.x509").load_pem_x509_certificates(chain.encode())
    except ValueError as error:
        raise ImpastoError(f"certificate: {str(path)!r} is no PEM certificate ({error}); pass one") from None
    if len(found) < 2:
        problem = f"{str(path)!r} holds one certificate; append those of its issuers (C2PA takes no self-signed one)"
        raise ImpastoError(f"certificate: {problem}")
    return found


def _algorithm(leaf: Any, key: str) -> str:
    """C2PA's name of the algorithm. Raises ImpastoError for a key that isn't the certificate's, or of another kind."""
    serialization = _library("cryptography.hazmat.primitives.serialization")
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
    serialization = _library("cryptography.hazmat.primitives.serialization")
    return str(certificate.public_bytes(serialization.Encoding.PEM).decode())
