"""The adapters and embeddings that a request names, turned into the words and mixes of its lanes.

A name stands for a LoRA, a bottleneck adapter or an embedding. The guidance rule decides which may stand in which
field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from impasto_server.adapters.adapter import FIELD, Adapter, Delta, Embedding, Patch
from impasto_server.adapters.registry import Pointed
from impasto_server.adapters.residency import Kind, Loading, Named
from impasto_server.errors import FieldError, InvalidArgument
from impasto_server.guidance import Mix, Mixes, Prompts, Text
from impasto_server.request import Request
from impasto_server.words.prompt import filled, prompts, triggers

T = TypeVar("T")

CONTENT = "CONTENT"


@dataclass(frozen=True)
class Asked:
    """An adapter or embedding as a request names it, and the field that names it (the first, if several do)."""

    name: str
    weight: float
    field: str


@dataclass(frozen=True)
class Worn:
    """The words that a request's lanes can say, the mixes they can run under, and what both are made of.

    `embeddings` are by name, `adapters` by digest; `named` is what the request calls the adapters.
    `field_of_most_stages` is the field that names the embedding with most stages. `listed` are the adapters of
    ADAPTER_NAMES in order, each with its weight, without those of weight 0.
    """

    words: Prompts
    mixes: Mixes
    embeddings: Mapping[str, Embedding]
    adapters: Mapping[str, Patch]
    field_of_most_stages: str = "PROMPT"
    listed: tuple[tuple[Patch, float], ...] = ()
    named: tuple[Named, ...] = ()


def asked(request: Request) -> list[Asked]:
    """All that a request names."""
    embeddings = {
        **dict.fromkeys(triggers(request.words.negative_prompt), "NEGATIVE_PROMPT"),
        **dict.fromkeys(triggers(request.styles.content_prompt or ""), "CONTENT_PROMPT"),
        **dict.fromkeys(triggers(request.words.prompt), "PROMPT"),
        **({} if request.styled_by_adapter else dict.fromkeys(request.styles.style, "STYLE")),
    }
    adapters = [Asked(name, weight, FIELD) for name, weight in request.styles.adapters]
    adapters += [Asked(name, 1.0, "STYLE") for name in request.styles.style if request.styled_by_adapter]
    adapters += [Asked(name, 1.0, CONTENT) for name in (request.styles.content,) if name is not None]
    return adapters + [Asked(name, 1.0, field) for name, field in embeddings.items()]


def resolved(names: Sequence[Asked], found: Sequence[Future[Pointed]]) -> tuple[Named, ...]:
    """The names with their digests. Raises as Residency.resolve, for the field that names the adapter."""
    return tuple(
        Named(one.name, pointed.digest, one.weight, one.field, pointed.stale_s)
        for one, pointed in ((one, _had(future, one.field)) for one, future in zip(names, found, strict=True))
    )


def stale(named: Sequence[Named]) -> list[str]:
    """A warning for each name that may mean something else by now."""
    return [
        f"adapter {one.name!r} is as it was {one.stale_s:.0f} s ago, since the registry's store does not answer"
        for one in named
        if one.stale_s
    ]


def wear(request: Request, named: Sequence[Named], loading: Loading) -> Worn:
    """The request's words and mixes, when each of `named` has been loaded or has failed to.

    Raises as Registry.load, for the field that names the adapter. Raises InvalidArgument for a name in a field that
    takes the other kind, and where CONTENT_PROMPT is needed and missing.
    """
    loaded = {one.digest: _had(loading[one.digest], one.field) for one in named if one.digest in loading}
    adapters, embeddings = _by_kind(named, loaded, request)
    staged = max(embeddings, key=lambda name: embeddings[name].stages, default=None)
    return Worn(
        words=_said(request, named, adapters, embeddings),
        mixes=_mixes(named, adapters),
        embeddings=embeddings,
        adapters=adapters,
        field_of_most_stages=next((one.field for one in named if one.name == staged), "PROMPT"),
        listed=tuple(
            (adapters[one.digest], one.weight) for one in named if one.field == FIELD and one.digest in adapters
        ),
        named=tuple(one for one in named if one.digest in adapters),
    )


def adapter_fields(request: Request) -> tuple[str, ...]:
    """The fields that name adapters; all others name embeddings."""
    return (FIELD, CONTENT, "STYLE") if request.styled_by_adapter else (FIELD,)


def _had(future: Future[T], field: str) -> T:
    try:
        return future.result()
    except FieldError as error:
        raise error.at(field) from None


def _by_kind(
    named: Sequence[Named], loaded: Mapping[str, Kind], request: Request
) -> tuple[dict[str, Patch], dict[str, Embedding]]:
    """Adapters by digest, embeddings by name. Raises InvalidArgument for a name in a field of the other kind."""
    fields = adapter_fields(request)
    adapters: dict[str, Patch] = {}
    embeddings: dict[str, Embedding] = {}
    for one in named:
        match loaded.get(one.digest):
            case (Adapter() | Delta()) as adapter if one.field in fields:
                adapters[one.digest] = adapter
            case Embedding() as embedding if one.field not in fields:
                embeddings[one.name] = embedding
            case Adapter() | Delta():
                fix = f"name it in {FIELD}, or in STYLE with GUIDANCE styledrop"
                raise InvalidArgument(one.field, f"{one.name!r} is an adapter, not an embedding", fix)
            case Embedding():
                fix = f"write <{one.name}> in PROMPT, or name it in STYLE with GUIDANCE cfg or dreamstyler"
                raise InvalidArgument(one.field, f"{one.name!r} is an embedding", fix)
    return adapters, embeddings


def _mixes(named: Sequence[Named], adapters: Mapping[str, Patch]) -> Mixes:
    """Mixes of the named adapters. CONTENT's adapter is for the lanes that say the context alone."""
    mixed = [one for one in named if one.digest in adapters]
    return Mixes(
        Mix.of([(one.digest, one.weight) for one in mixed if one.field != CONTENT]),
        Mix.of([(one.digest, one.weight) for one in mixed if one.field == CONTENT]),
    )


def _said(
    request: Request,
    named: Sequence[Named],
    adapters: Mapping[str, Patch],
    embeddings: Mapping[str, Embedding],
) -> Prompts:
    """The prompts of the lanes. A style's adapter may have a template: the words that it was trained with, which the
    content's lanes must not say.

    Raises InvalidArgument where neither a template nor CONTENT_PROMPT says which words those are.
    """
    if not request.styled_by_adapter:
        return prompts(request.words.prompt, request.words.negative_prompt, request.styles.style, embeddings)
    template = next((adapters[one.digest].prompt for one in named if one.field == "STYLE"), None)
    if request.styles.content is not None and request.styles.content_prompt is None and template is None:
        problem = f"is missing, and {request.styles.style[0]!r} doesn't say which words of the prompt are its style's"
        raise InvalidArgument("CONTENT_PROMPT", problem, "pass the prompt without the style's words")
    full = request.words.prompt if template is None else filled(template, request.words.prompt)
    context = request.words.prompt if request.styles.content_prompt is None else request.styles.content_prompt
    return Prompts(Text.of(full), Text.of(request.words.negative_prompt), Text.of(context))
