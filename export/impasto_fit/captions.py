"""Contexts of pictures by a captioner that the user has: a folder or hub id of a BLIP, GIT or another of transformers.

Nothing is made up: without a captioner, contexts are what the user says, or there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from impasto_fit.errors import CheckpointError
from impasto_fit.pictures import Picture

MOST_TOKENS = 30


@dataclass(frozen=True)
class Captioner:
    """A model of transformers' image-to-text kind, and its processor."""

    model: Any
    processor: Any

    @classmethod
    def open(cls, name: str | Path) -> Captioner:
        """
        Raises:
            CheckpointError: there is none, or it doesn't caption pictures.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            processor: Any = AutoProcessor.from_pretrained(name)
            model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32)
        except (OSError, ValueError, KeyError, TypeError) as error:
            first = str(error).partition("\n")[0]
            raise CheckpointError(
                f"captioner: {name} can't be opened ({first}); give a BLIP's folder or hub id"
            ) from None
        return cls(model.eval(), processor)

    @torch.no_grad()
    def captions(self, pictures: Sequence[Picture]) -> tuple[str, ...]:
        """What each shows, by beam search, which draws nothing; a person should read them."""
        said = []
        for picture in pictures:
            seen = self.processor(images=Image.fromarray(picture), return_tensors="pt")
            tokens = self.model.generate(**seen, max_new_tokens=MOST_TOKENS, num_beams=3, do_sample=False)
            said.append(str(self.processor.batch_decode(tokens, skip_special_tokens=True)[0]).strip())
        return tuple(said)
