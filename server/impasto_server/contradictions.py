"""Checks of fields against one another. Everything here raises InvalidArgument."""

from __future__ import annotations

import math
from collections.abc import Collection

from impasto_server.errors import InvalidArgument, shown
from impasto_server.request import Request
from impasto_server.values import MAX_EMBEDDINGS
from impasto_server.words.prompt import triggers


def check(request: Request, sent: Collection[str]) -> None:
    """Check all of them; `sent` are the fields that the caller sent."""
    _check_adapters(request)
    _check_needs(request)
    _check_style(request)
    _check_embeddings(request)
    _check_ranking(request)
    _check_content(request, sent)


def _check_adapters(request: Request) -> None:
    names = request.styles.adapter_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        fix = "name it once, with its whole weight"
        raise InvalidArgument("ADAPTER_NAMES", f"{shown(twice)} is named twice", fix)


def _check_needs(request: Request) -> None:
    """The fields that the rule needs are there."""
    for need in request.rule.needs:
        values = request.values
        if all(values[name] in (None, ()) for name in need.fields):
            problem = f"is missing, and GUIDANCE {request.rule.name} needs it"
            raise InvalidArgument(need.fields[0], problem, need.fix)


def _check_style(request: Request) -> None:
    """A rule by adapters has one style, and it isn't in ADAPTER_NAMES again."""
    style = request.styles.style
    if request.styled_by_adapter and len(style) > 1:
        problem = f"{len(style)} names, and GUIDANCE {request.rule.name} takes the adapter of one style"
        raise InvalidArgument("STYLE", problem, "name one, or mix several in ADAPTER_NAMES")
    if request.styled_by_adapter and {*style} & {*request.styles.adapter_names}:
        problem = f"{shown(style[0])} is named in STYLE, too"
        raise InvalidArgument("ADAPTER_NAMES", problem, "name it only here, with its whole weight")


def _check_embeddings(request: Request) -> None:
    """Few embeddings are named: all of them stay in memory while the request runs."""
    texts = request.words.prompt, request.words.negative_prompt, request.styles.content_prompt or ""
    styles = set() if request.styled_by_adapter else {*request.styles.style}
    count = len(styles.union(*map(triggers, texts)))
    if count > MAX_EMBEDDINGS:
        field = "STYLE" if len(styles) > MAX_EMBEDDINGS else "PROMPT"
        raise InvalidArgument(field, f"{count} different embeddings", f"name at most {MAX_EMBEDDINGS} in a request")


def _check_ranking(request: Request) -> None:
    by_style, pictured = request.ranking.rerank == "style", request.ranking.style_image is not None
    if by_style and not pictured:
        raise InvalidArgument("STYLE_IMAGE", "is missing, and RERANK style compares with it", "pass a picture file")
    if pictured and not by_style:
        raise InvalidArgument("STYLE_IMAGE", "means nothing without RERANK style", "leave it out, or pass RERANK style")


def _check_content(request: Request, sent: Collection[str]) -> None:
    content, steps = request.content, request.sampling.steps
    if content.image is None and "STRENGTH" in sent:
        raise InvalidArgument("STRENGTH", "means nothing without IMAGE", "leave it out, or pass the content image")
    if content.image is None and content.depth is None and "CONTROL_SCALE" in sent and content.control_scale:
        raise InvalidArgument("CONTROL_SCALE", "means nothing without IMAGE or DEPTH", "leave it out, or pass one")
    if content.depth is not None and not content.control_scale:
        raise InvalidArgument("DEPTH", "means nothing at CONTROL_SCALE 0", "leave one of the two out")
    if request.steps_to_run == 0:
        least = math.ceil(1000 / steps) / 1000
        problem = f"{content.strength:g} of {steps} steps is no step"
        raise InvalidArgument("STRENGTH", problem, f"pass at least {least:g}, or more STEPS")
