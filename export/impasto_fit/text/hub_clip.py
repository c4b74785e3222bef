"""A CLIP of transformers: a folder of its CLIPModel with a tokenizer, or an id on a hub."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from impasto_fit.errors import CheckpointError
from impasto_fit.text.texture import split

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own, of its training


@dataclass(frozen=True)
class HubClip:
    """The model, frozen, in float32. `mean` and `spread` are what pixels in 0..1 are normalised with."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    mean: Sequence[float] = MEAN
    spread: Sequence[float] = SPREAD
    digest: str = field(default="")
    vocabulary: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        object.__setattr__(self, "digest", self.digest or _digest(self.model))

    @property
    def side(self) -> int:
        facts: Any = self.model.config.vision_config
        return int(facts.image_size)

    def see(self, pictures: Tensor) -> Tensor:
        if pictures.shape[2:] != (self.side, self.side):
            pictures = F.interpolate(pictures, (self.side, self.side), mode="bicubic", antialias=True)
        mean, spread = (pictures.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.spread))
        seen = self.model.get_image_features(pixel_values=(pictures - mean) / spread)
        return F.normalize(_vectors(seen).float())

    @torch.no_grad()
    def hear(self, texts: Sequence[str]) -> Tensor:
        facts: Any = self.model.config.text_config
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=facts.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        )
        return F.normalize(_vectors(self.model.get_text_features(input_ids=tokens.input_ids)).float())

    def unknown(self, text: str) -> list[str]:
        """Words that aren't of the Latin alphabet without accents, or that its tokenizer must spell out."""
        return [word for word in split(text) if not word.isascii() or self._spelled(word)]

    def _spelled(self, word: str) -> bool:
        return len(word) > 3 and len(self.tokenizer.tokenize(word)) >= len(word)


def load(where: str | Path) -> HubClip:
    """
    Raises:
        CheckpointError: there is no such folder or id, or no CLIP in it.
    """
    try:
        model = CLIPModel.from_pretrained(where, dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(where)
        facts: Any = CLIPImageProcessorPil.from_pretrained(where)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        fix = "name a folder of transformers' CLIPModel with its tokenizer, or a hub id that can be reached"
        raise CheckpointError(f"clip: {where}: {reason}; {fix}") from None
    return HubClip(model, tokenizer, tuple(facts.image_mean), tuple(facts.image_std))


def _vectors(found: Any) -> Tensor:
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return vectors


def _digest(model: CLIPModel) -> str:
    """sha256 of all weights by name."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()
