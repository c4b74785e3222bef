"""A reader's result: the net, the styles and the predictor in the file, and how each fact is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from impasto_export.architecture import Json
from impasto_export.errors import CheckpointError
from impasto_export.feedforward.net import Array, Net

Weakened = Literal["neutral", "content", "pixels"]
PADDINGS = ("reflect", "zero", "same")


@dataclass(frozen=True)
class Said:
    """The user's options, for what the file doesn't tell; None means not given. `predictor` is the ONNX file of a net
    that comes in two files, `encoder` the file of the encoder before a decoder; `norm` is "instance" or "batch"."""

    padding: str | None = None
    epsilon: float | None = None
    input_scale: float | None = None
    predictor: Path | None = None
    norm: str | None = None
    encoder: Path | None = None

    @property
    def given(self) -> Json:
        """The given options as the manifest keeps them: with these, the file is read again to import its styles."""
        stated = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: value.name if isinstance(value, Path) else value for key, value in stated.items()}

    @property
    def options(self) -> dict[str, str]:
        """The given values, by their command-line options."""
        return {option(key): str(value) for key, value in asdict(self).items() if value is not None}

    def only(self, place: object, *known: str) -> None:
        """Raises CheckpointError for a given option that is not among `known`: the file tells that, or does not need
        it."""
        for name, value in self.options.items():
            if name not in map(option, known):
                problem = f"{place} tells that itself, or does not need it"
                raise CheckpointError(f"{name}: got {value}; {problem}: leave it out")


def option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


OPTIONS = [option(item.name) for item in fields(Said)]
NOTHING = Said()


@dataclass(frozen=True)
class Expand:
    """The linear layer from an embedding E to γ and β: weight [N, D] @ E + bias [N]."""

    weight: Array
    bias: Array

    @property
    def width(self) -> int:
        """D, the embedding's size."""
        return int(self.weight.shape[1])

    def __call__(self, embedding: Array) -> Array:
        """The vector [N], float32; computed in float64."""
        vector = self.weight.astype(np.float64) @ embedding.astype(np.float64) + self.bias
        return vector.astype(np.float32)


@dataclass(frozen=True)
class Predictor:
    """A graph from a style's picture to its embedding [n, D] (or [1, 1, 1, D]). Its input has the `layout` "NCHW" or
    "NHWC", RGB 0–1, sides of `size` pixels."""

    model: onnx.ModelProto
    size: int
    layout: Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class Found:
    """What was found. `told`: fact -> value and how it is known, in words. `vectors` are the file's styles by name, or
    by number if they have none, each [N]. `network` is the name by which style files refer to this net."""

    name: str
    net: Net
    told: Mapping[str, str]
    vectors: Mapping[str, Array] = field(default_factory=dict)
    neutral: Array | None = None
    expand: Expand | None = None
    predictor: Predictor | None = None
    network: str = ""

    @property
    def weakened(self) -> Weakened:
        """What a weaker style is mixed with: the neutral vector, the photo's own vector, or the photo's pixels."""
        if self.neutral is not None:
            return "neutral"
        return "content" if self.predictor is not None else "pixels"
