"""POST /v1/verify: what a picture's marks say, and whether it is ours.

"Ours" has one meaning: the file carries a C2PA manifest, signed by the certificate that this gateway signs with, and
not a byte has changed since. Text marks can be written by anybody, so they prove nothing, however much they say.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from impasto_client.errors import MarkError, MissingExtra
from impasto_client.marks import Found, found_in
from impasto_gateway.bodies import parsed_form
from impasto_gateway.callers import need
from impasto_gateway.errors import Refusal
from impasto_gateway.manifest import Manifest, examined
from impasto_gateway.parts import parts_of
from impasto_gateway.signing import Signer

OURS = "It was signed by this operator's certificate, and nothing in the file has changed since."
_FORGED = "Text marks can be written or removed by anybody; they prove nothing."
_NO_SIGNER = "This operator signs no pictures, so none can be shown to be its own."
_UNSIGNED = "It has no signature of this operator's. That doesn't show that it isn't this operator's."
_BROKEN = "It has a signature, but the file was changed after it was signed, or the signature is damaged."
_OTHERS = "It is signed, but not by this operator's certificate."


async def verify(request: Request) -> Response:
    """A form with one picture, `image`. Raises Refusal."""
    need(request, "generate")
    parts = parts_of(request)
    form = await parsed_form(request, parts.settings.limits)
    strange = next((name for name in (*form.fields, *form.files) if name != "image"), None)
    if strange is not None:
        raise _refusal(strange, "this is not known here; send image alone")
    files = form.files.get("image", ())
    if len(files) != 1:
        raise _refusal("image", f"there are {len(files)} files; send one picture, e.g. curl -F image=@boat.png")
    return JSONResponse(await asyncio.to_thread(verdict, files[0], parts.signer))


def verdict(data: bytes, signer: Signer | None) -> dict[str, Any]:
    """The answer: marks, ours, means, signature. Raises Refusal (400) for a file that can't be read."""
    try:
        marks = found_in(data)
    except MarkError as error:
        raise Refusal(400, f"image: {error}", "invalid_image", "image") from None
    signature = _signature(data, signer)
    ours = signature is not None and signature.ours
    return {
        "object": "verification",
        "ours": ours,
        "means": f"{_meaning(signature, signer, marks)} {'' if ours else _FORGED}".strip(),
        "marks": _said(marks),
        "signature": None if signature is None else asdict(signature),
    }


def _signature(data: bytes, signer: Signer | None) -> Manifest | None:
    """What the signature is worth; None where the library that could tell isn't installed."""
    try:
        return examined(data, None if signer is None else signer.identity)
    except MissingExtra:
        return None


def _meaning(signature: Manifest | None, signer: Signer | None, marks: Found) -> str:
    if signature is None or signer is None:
        return _NO_SIGNER
    if signature.ours:
        return OURS
    broken = _BROKEN if signature.state in ("invalid", "unreadable") else _OTHERS
    return _UNSIGNED if signature.state == "none" and not marks.signed else broken


def _said(marks: Found) -> dict[str, Any]:
    return {
        "impasto": None if marks.mark is None else asdict(marks.mark),
        "parameters": marks.parameters,
        "digital_source_type": marks.source,
    }


def _refusal(param: str, problem: str) -> Refusal:
    return Refusal(400, f"{param}: {problem}", "invalid_value", param)
