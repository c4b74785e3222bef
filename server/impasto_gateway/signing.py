"""Sign pictures with the operator's certificate (C2PA).

A signature binds all of the file, its marks included: whoever changes a byte breaks it. So it comes last. It has no
time stamp, so it ends with its certificate. It needs impasto[c2pa].
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from PIL import Image

from impasto_client.carriers.carrier import carrier_of
from impasto_client.errors import ImpastoError, MarkError
from impasto_client.xmp import PAINTED, REPAINTED, SOURCES
from impasto_gateway.errors import Refusal
from impasto_gateway.identity import Identity, c2pa
from impasto_gateway.manifest import OFFLINE, examined
from impasto_gateway.settings import GatewaySettings

# What was just signed is not read again; and a thumbnail would be a second picture in the file.
_BUILDING = {"builder": {"thumbnail": {"enabled": False}}, "verify": {**OFFLINE, "verify_after_sign": False}}
_PHOTO = "photo"  # the ingredient's label in a manifest


@dataclass(frozen=True)
class Signer:
    """Signs in the name of an identity; safe to use from several threads."""

    identity: Identity

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
        signer = cls(Identity.read(settings.certificate, settings.private_key))
        signer.check()
        return signer

    def sign(self, data: bytes, fmt: str, ingredient: bytes | None = None) -> bytes:
        """The file with a manifest. `fmt` is png, jpeg or webp. `ingredient` is the picture that it was made of; its
        own manifest, if it has one, comes along. Raises Refusal (400) for an ingredient that can't be read.
        """
        library, own, out = c2pa(), self.identity, io.BytesIO()
        info = library.C2paSignerInfo(own.algorithm, own.chain.encode(), own.key.encode(), None)  # no time stamp
        with (
            library.Context.from_dict(_BUILDING) as context,
            library.Builder.from_json(json.dumps(_manifest(fmt, ingredient is not None)), context=context) as builder,
            library.Signer.from_info(info) as signer,
        ):
            if ingredient is not None:
                _add(builder, ingredient)
            builder.sign(signer, f"image/{fmt}", io.BytesIO(data), out)
        return out.getvalue()

    def check(self) -> None:
        """Sign a picture and read it back. Raises ImpastoError where that doesn't work."""
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "png")
        try:
            found = examined(self.sign(file.getvalue(), "png"), self.identity)
        except c2pa().C2paError as error:
            raise ImpastoError(
                f"certificate: it can't sign ({error}); docs/marks.md says what C2PA asks of one"
            ) from None
        if not found.ours:
            problems = ", ".join(found.problems)
            raise ImpastoError(f"certificate: its signatures don't verify ({problems}); see docs/marks.md")


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
    except (c2pa().C2paError, MarkError) as error:
        problem = f"its C2PA manifest can't be read ({str(error)[:100]}); send the picture without it"
        raise Refusal(400, f"image: {problem}", "invalid_image", "image") from None
