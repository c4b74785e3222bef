"""What the C2PA manifest of a file is worth. Nothing is fetched from anywhere to find out."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from impasto_client.carriers.carrier import carrier_of
from impasto_gateway.identity import Identity, c2pa

# Nothing in a stranger's file may make this process call out.
OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}


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


def examined(data: bytes, own: Identity | None) -> Manifest:
    """What the file's manifest is worth.

    Raises MissingExtra without the library, MarkError for a file of another kind.
    """
    library, kind = c2pa(), f"image/{carrier_of(data).format}"
    trust = {"trust": {"trust_anchors": own.issuer}} if own else {}
    with library.Context.from_dict({"verify": {**OFFLINE, "verify_trust": True}, **trust}) as context:
        try:
            with library.Reader(kind, io.BytesIO(data), context=context) as reader:
                return _read(json.loads(reader.json()), own)
        except library.C2paError.ManifestNotFound:
            return Manifest("none")
        except library.C2paError as error:
            return Manifest("unreadable", problems=(str(error)[:200],))


def _read(said: Mapping[str, Any], own: Identity | None) -> Manifest:
    active = (said.get("manifests") or {}).get(said.get("active_manifest"))
    if active is None:
        return Manifest("unreadable", problems=("it has no active manifest",))
    signed = active.get("signature_info") or {}
    trusted = said.get("validation_state") == "Trusted"
    # An issuer gives a number once: whom ours has issued a certificate of our number, has our certificate.
    ours = own is not None and trusted and str(signed.get("cert_serial_number")) == str(own.serial)
    return Manifest(
        state="invalid" if said.get("validation_state") == "Invalid" else "valid",
        ours=ours,
        signer=signed.get("common_name"),
        issuer=signed.get("issuer"),
        source=_source(active),
        ingredients=len(active.get("ingredients") or ()),
        problems=_failures(said),
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
