"""What a recipe asks of a CLIP, and how one is opened: a folder, a state dict, a name of open_clip's, a hub's id."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto_fit.errors import CheckpointError, WordsError
from impasto_fit.text import hub_clip, open_clip, texture
from impasto_fit.text.templates import filled


class Clip(Protocol):
    """Two towers. `side` is what pictures are seen at, px; `digest` names the weights."""

    @property
    def side(self) -> int: ...

    @property
    def digest(self) -> str: ...

    @property
    def vocabulary(self) -> Sequence[str]:
        """Every word that is known; () where any text of its language is."""
        ...

    def see(self, pictures: Tensor) -> Tensor:
        """[n, 3, H, W], RGB in 0..1, to unit vectors [n, d]; differentiable."""
        ...

    def hear(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n, d]."""
        ...

    def unknown(self, text: str) -> list[str]:
        """Its words that no training had."""
        ...


def opened(where: str | Path) -> Clip:
    """`studio/texture-clip` and its like; a folder of transformers' CLIPModel; a state dict of open_clip's or OpenAI's
    (.safetensors, .pt, .bin) beside its tokenizer; `ViT-B-32/laion2b_s34b_b79k` and other names of open_clip's; any
    `OWNER/NAME` of a hub, which is fetched there if it isn't here already.

    Raises:
        CheckpointError: it is none of these, or can't be read.
    """
    place = Path(where)
    if place.is_dir() and _format(place) == texture.FORMAT:
        return texture.load(place)
    found = open_clip.state_file(place)
    if found is not None:
        return open_clip.load(found)
    if place.is_dir():
        return hub_clip.load(place)
    if place.suffix:
        raise CheckpointError(f"clip: {place}: there is no such file; name a CLIP's folder, state dict or hub id")
    return hub_clip.load(open_clip.HUB.get(str(where), str(where)))


def checked(clip: Clip, text: str) -> str:
    """The text, stripped.

    Raises:
        WordsError: it is empty, or has words that the CLIP doesn't know.
    """
    said = " ".join(text.split())
    if not said:
        raise WordsError("style: got no words; say how pictures shall look, e.g. 'a mosaic of stones'")
    unknown = clip.unknown(said)
    if unknown:
        listed = ", ".join(map(repr, unknown))
        raise WordsError(f"style: the CLIP doesn't know {listed}; {_advice(clip, unknown)}")
    return said


def _advice(clip: Clip, unknown: Sequence[str]) -> str:
    if not clip.vocabulary:
        return "say it in English"
    near = [word for lost in unknown for word in difflib.get_close_matches(lost, clip.vocabulary, 2)]
    known = f"it knows {len(clip.vocabulary)} words"
    return f"{known}, of which these are near: {', '.join(near)}" if near else f"{known} of English; use others"


@torch.no_grad()
def heard(clip: Clip, text: str) -> Tensor:
    """The unit vector [d] of a text: the mean over ImageNet's sentences."""
    return F.normalize(clip.hear(filled(text)).mean(0), dim=0)


def _format(folder: Path) -> str:
    path = folder / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("format", "")) if path.is_file() else ""
    except (OSError, ValueError) as error:
        raise CheckpointError(f"clip: {path} can't be read ({error}); get the folder again") from None
