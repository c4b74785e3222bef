"""Pictures that a masked pipeline paints, with the tokens that they were decoded from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
from benchmarks.common import crowd
from benchmarks.common.crowd import Crowd
from numpy.typing import NDArray

from impasto_server.pipeline import Pipeline
from impasto_server.steps import Finished

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Painted:
    """A picture, RGB [H, W, 3], and the tokens [h, w] that it was decoded from."""

    pixels: NDArray[np.uint8]
    tokens: Codes


@contextmanager
def tokens_noted(pipeline: Pipeline) -> Iterator[dict[bytes, Codes]]:
    """The tokens of each picture that the pipeline decodes meanwhile, by its pixels."""
    family, found = pipeline.family, dict[bytes, Codes]()
    decoded = family.decode

    def noted(sample: Finished) -> NDArray[np.uint8]:
        picture = decoded(sample)
        found[picture.tobytes()] = sample.tokens
        return picture

    with patch.object(family, "decode", noted):
        yield found


def painted(pipeline: Pipeline, asked: Crowd) -> list[Painted]:
    """By the pipeline, side by side."""
    with tokens_noted(pipeline) as tokens:
        pictures = crowd.pixels(crowd.burst(pipeline, asked))
    return [Painted(picture, tokens[picture.tobytes()]) for picture in pictures]


def equal_tokens(ours: Sequence[Painted], theirs: Sequence[Painted]) -> list[float]:
    """Of each picture, the share that is the same on both sides."""
    return [float(np.mean(a.tokens == b.tokens)) for a, b in zip(ours, theirs, strict=True)]
