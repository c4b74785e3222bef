"""What examples are called."""

from __future__ import annotations

import numpy as np

from studio import painter
from studio.painter import Scene

VARIANTS = 6
EMPTY = 0.1
UNKNOWN = 0.08
SYLLABLES = "ba co du fen gri hal jo ko lam mu nor pel qui ras sti tor va wim xe zon".split()


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A variant of the caption; sometimes with a made-up style, so that unknown words leave the rest alone."""
    words = painter.caption_variant(scene, rng)
    return made_up(words, scene, rng) if rng.random() < UNKNOWN else words


def made_up(words: str, scene: Scene, rng: np.random.Generator) -> str:
    """The caption with a style that nobody knows."""
    name = " ".join("".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(rng.integers(1, 3)))
    return words.replace(f"in {painter.STYLE_DESCRIPTORS[scene.style]} style", f"in {name} style")
