"""What each kind of guidance says on the wire; what it leaves to the server is left out."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_client.errors import InvalidRequest
from impasto_client.options import Compose, StyleContent, StyleDrop
from impasto_client.tensor import optional, optional_text, shown, texts

_RULES = {"paper": "dreamstyler", "code": "dreamstyler-code"}  # a StyleContent's convention to the wire's GUIDANCE


@singledispatch
def guidance_tensors(guidance: object, scale: float | None) -> dict[str, NDArray[Any]]:
    """GUIDANCE and what belongs to it. `scale` is the option guidance_scale.

    Raises InvalidRequest for what is no guidance, and where tensors can't carry both.
    """
    fix = "pass a StyleContent, a StyleDrop or a Compose, or none"
    raise InvalidRequest(f"GUIDANCE: {shown(guidance)} is no guidance; {fix}", "GUIDANCE")


@guidance_tensors.register
def _classifier_free(guidance: None, scale: float | None) -> dict[str, NDArray[Any]]:
    return optional("GUIDANCE_SCALE", scale, np.float32)


@guidance_tensors.register
def _style_content(guidance: StyleContent, scale: float | None) -> dict[str, NDArray[Any]]:
    _check_style_content(guidance, scale)
    return {
        "GUIDANCE": texts("GUIDANCE", _RULES[guidance.convention]),
        **optional("GUIDANCE_SCALE", guidance.scale, np.float32),
        **optional("STYLE_GUIDANCE", guidance.style, np.float32),
        **optional("CONTENT_GUIDANCE", guidance.content, np.float32),
    }


@guidance_tensors.register
def _styledrop(guidance: StyleDrop, scale: float | None) -> dict[str, NDArray[Any]]:
    return {
        "GUIDANCE": texts("GUIDANCE", "styledrop"),
        **optional("GUIDANCE_SCALE", scale, np.float32),
        **optional("STYLE_STRENGTH", guidance.style_strength, np.float32),
        **optional("TEXT_STRENGTH", guidance.text_strength, np.float32),
    }


@guidance_tensors.register
def _compose(guidance: Compose, scale: float | None) -> dict[str, NDArray[Any]]:
    return {
        "GUIDANCE": texts("GUIDANCE", "styledrop-compose"),
        **optional("GUIDANCE_SCALE", scale, np.float32),
        **optional("GAMMA", guidance.gamma, np.float32),
        **optional("STYLE_STRENGTH", guidance.style_strength, np.float32),
        **optional("TEXT_STRENGTH", guidance.text_strength, np.float32),
        **optional_text("CONTENT_PROMPT", guidance.content_prompt),
    }


def _check_style_content(guidance: StyleContent, scale: float | None) -> None:
    if guidance.convention not in list(_RULES):  # of a list: the value may be unhashable
        problem = f"the convention {shown(guidance.convention)} is unknown; pass one of {', '.join(_RULES)}"
        raise InvalidRequest(f"GUIDANCE: {problem}", "GUIDANCE")
    if scale is not None:
        said, problem = shown(scale), "beside a StyleContent, which has a scale of its own"
        fix = f"pass StyleContent(scale={said})"
        raise InvalidRequest(f"GUIDANCE_SCALE: {said} {problem}; {fix}", "GUIDANCE_SCALE")
