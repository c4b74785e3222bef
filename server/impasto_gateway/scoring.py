"""POST /v1/score: how well pictures match a text, or other pictures."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from impasto_client import AsyncClient
from impasto_client.errors import ServerUnavailable
from impasto_gateway.bodies import Form, parsed_form
from impasto_gateway.errors import Refusal
from impasto_gateway.keys import need
from impasto_gateway.parts import parts_of
from impasto_gateway.presence import while_present

PICTURES = 16
_FIELDS, _FILES = {"text"}, {"image", "reference"}


async def score(request: Request) -> Response:
    """A form with `image` (one or several), and `text` or `reference`; the scores are cosines, in the images' order.

    One text or reference holds for all images; else there is one for each. Raises Refusal, and errors of the
    ImpastoError tree.
    """
    need(request, "generate")
    parts = parts_of(request)
    form = await parsed_form(request, parts.settings.limits)
    check(form)
    images, reference = list(form.files["image"]), list(form.files.get("reference", ()))

    async def ask(client: AsyncClient) -> list[float]:
        return await client.score(
            images,
            text=form.fields.get("text"),
            reference=reference or None,
            timeout=parts.settings.limits.timeout_s,
        )

    try:
        scores = await while_present(request.receive, parts.upstream.asked(ask))
    except ServerUnavailable as error:
        if "no scorer" not in str(error):
            raise
        raise Refusal(501, "score: no scorer is loaded; start the server with --scorer", "no_scorer") from None
    data = [{"object": "score", "index": place, "score": value} for place, value in enumerate(scores)]
    return JSONResponse({"object": "list", "data": data})


def check(form: Form) -> None:
    """Raises Refusal (400)."""
    strange = next((name for name in (*form.fields, *form.files) if name not in _FIELDS | _FILES), None)
    if strange is not None:
        _refuse(strange, "this is not known here; send image, and text or reference")
    mixed = next((name for name in form.fields if name in _FILES), None) or next(
        (name for name in form.files if name in _FIELDS), None
    )
    if mixed is not None:
        _refuse(mixed, "send pictures as files, and texts as texts")
    pictures = len(form.files.get("image", ()))
    if not 1 <= pictures <= PICTURES:
        _refuse("image", f"there are {pictures} pictures; send 1 to {PICTURES}")
    if ("text" in form.fields) is ("reference" in form.files):
        _refuse("text", "send a text or a reference, and not both")
    for name, count in (("text", _count(form.fields.get("text"))), ("reference", len(form.files.get("reference", ())))):
        if count not in (0, 1, pictures):
            _refuse(name, f"there are {count} for {pictures} pictures; send one, or one for each")


def _count(texts: object) -> int:
    if isinstance(texts, dict):
        _refuse("text", "send a text, or text[] for several")
    return len(texts) if isinstance(texts, list) else int(texts is not None)


def _refuse(param: str, problem: str) -> None:
    raise Refusal(400, f"{param}: {problem}", "invalid_value", param)
