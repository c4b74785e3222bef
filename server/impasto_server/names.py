"""What a request names → adapters and embeddings → the mixes and words of its lanes.

A name stands for a LoRA, a bottleneck adapter or an embedding; which of them may stand where depends on the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from impasto_server.adapters.adapter import FIELD, Adapter, Delta, Embedding, Patch
from impasto_server.adapters.residency import Kind, Loading, Style
from impasto_server.errors import FieldError, InvalidArgument
from impasto_server.guidance import Mix, Mixes, Prompts, Text
from impasto_server.request import Request
from impasto_server.words.prompt import filled, prompts, triggers

T = TypeVar("T")

CONTENT = "CONTENT"


def named(request: Request) -> list[tuple[str, float, str]]:
    """Every adapter that a request names: its name, weight and the field where it stands (the first, if in several)."""
    embeddings = {
        **dict.fromkeys(triggers(request.words.negative_prompt), "NEGATIVE_PROMPT"),
        **dict.fromkeys(triggers(request.styles.content_prompt or ""), "CONTENT_PROMPT"),
        **dict.fromkeys(triggers(request.words.prompt), "PROMPT"),
        **({} if request.styled_by_adapter else dict.fromkeys(request.styles.style, "STYLE")),
    }
    adapters = [(name, weight, FIELD) for name, weight in request.styles.adapters]
    adapters += [(name, 1.0, "STYLE") for name in request.styles.style if request.styled_by_adapter]
    adapters += [(name, 1.0, CONTENT) for name in (request.styles.content,) if name is not None]
    return adapters + [(name, 1.0, field) for name, field in embeddings.items()]


def adapter_fields(request: Request) -> tuple[str, ...]:
    """Where a request names what goes into lanes, not into prompts."""
    return (FIELD, CONTENT, "STYLE") if request.styled_by_adapter else (FIELD,)


def resolved(asked: Sequence[tuple[str, float, str]], digests: Sequence[Future[str]]) -> tuple[Style, ...]:
    """Those of `named`, looked up. Raises as Residency.resolve, of the field where the request names the adapter."""
    return tuple(
        Style(name, _had(digest, field), weight, field)
        for (name, weight, field), digest in zip(asked, digests, strict=True)
    )


def loaded_of(styles: Sequence[Style], loading: Loading) -> dict[str, Kind]:
    """What has been loaded, by digest. Raises as Registry.load, of the field where the request names the adapter."""
    return {style.digest: _had(loading[style.digest], style.field) for style in styles if style.digest in loading}


def _had(future: Future[T], field: str) -> T:
    try:
        return future.result()
    except FieldError as error:
        raise error.at(field) from None


def by_kind(
    styles: Sequence[Style], loaded: Mapping[str, Kind], request: Request
) -> tuple[dict[str, Patch], dict[str, Embedding]]:
    """Adapters by digest, embeddings by name. Raises InvalidArgument for one that stands where the other belongs."""
    fields = adapter_fields(request)
    adapters: dict[str, Patch] = {}
    embeddings: dict[str, Embedding] = {}
    for style in styles:
        match loaded.get(style.digest):
            case (Adapter() | Delta()) as adapter if style.field in fields:
                adapters[style.digest] = adapter
            case Embedding() as embedding if style.field not in fields:
                embeddings[style.name] = embedding
            case Adapter() | Delta():
                fix = f"name it in {FIELD}, or in STYLE with GUIDANCE styledrop"
                raise InvalidArgument(style.field, f"{style.name!r} is no embedding but an adapter", fix)
            case Embedding():
                fix = f"write <{style.name}> in PROMPT, or name it in STYLE with GUIDANCE cfg or dreamstyler"
                raise InvalidArgument(style.field, f"{style.name!r} is an embedding", fix)
    return adapters, embeddings


def mixes(styles: Sequence[Style], adapters: Mapping[str, Patch]) -> Mixes:
    """The content's adapter is for the lanes that say the context alone."""
    mixed = [style for style in styles if style.digest in adapters]
    return Mixes(
        Mix.of([(style.digest, style.weight) for style in mixed if style.field != CONTENT]),
        Mix.of([(style.digest, style.weight) for style in mixed if style.field == CONTENT]),
    )


def said_by(
    request: Request,
    styles: Sequence[Style],
    adapters: Mapping[str, Patch],
    embeddings: Mapping[str, Embedding],
) -> Prompts:
    """What the lanes say. A style's adapter brings the words it was trained in, which its content is not told.

    Raises InvalidArgument where nobody says which words those are.
    """
    if not request.styled_by_adapter:
        return prompts(request.words.prompt, request.words.negative_prompt, request.styles.style, embeddings)
    template = next((adapters[style.digest].prompt for style in styles if style.field == "STYLE"), None)
    if request.styles.content is not None and request.styles.content_prompt is None and template is None:
        problem = f"is missing, and {request.styles.style[0]!r} doesn't say which words of the prompt are its style's"
        raise InvalidArgument("CONTENT_PROMPT", problem, "pass the prompt without them")
    full = request.words.prompt if template is None else filled(template, request.words.prompt)
    context = request.words.prompt if request.styles.content_prompt is None else request.styles.content_prompt
    return Prompts(Text.of(full), Text.of(request.words.negative_prompt), Text.of(context))
