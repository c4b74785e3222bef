"""What a reader found in a file: the net, the styles and the predictor that came with it, and how its facts are
known."""

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
    """What the user says of a file that it doesn't tell itself; None where nothing was said. `predictor` is the ONNX
    file of a net that comes in two, `encoder` the file of what stands before a decoder; `norm` is "instance" or
    "batch"."""

    padding: str | None = None
    epsilon: float | None = None
    input_scale: float | None = None
    predictor: Path | None = None
    norm: str | None = None
    encoder: Path | None = None

    @property
    def given(self) -> Json:
        """What was said, as a manifest has it: the file is read so again when its styles are imported."""
        stated = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: value.name if isinstance(value, Path) else value for key, value in stated.items()}

    @property
    def options(self) -> dict[str, str]:
        """What was said, by the fields' options on the command line."""
        return {option(key): str(value) for key, value in asdict(self).items() if value is not None}

    def only(self, place: object, *known: str) -> None:
        """Raises CheckpointError for an option that says what this file tells itself, or has no use for."""
        for name, value in self.options.items():
            if name not in map(option, known):
                problem = f"{place} tells that itself, or has no use for it"
                raise CheckpointError(f"{name}: got {value}; {problem}: leave it out")


def option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


OPTIONS = [option(item.name) for item in fields(Said)]
NOTHING = Said()


@dataclass(frozen=True)
class Expand:
    """γ and β of an embedding: weight [N, D] @ E + bias [N]."""

    weight: Array
    bias: Array

    @property
    def width(self) -> int:
        """D."""
        return int(self.weight.shape[1])

    def __call__(self, embedding: Array) -> Array:
        """[N], float32; the sum is made in float64."""
        vector = self.weight.astype(np.float64) @ embedding.astype(np.float64) + self.bias
        return vector.astype(np.float32)


@dataclass(frozen=True)
class Predictor:
    """A graph from one picture of style to its embedding [n, D] (or [1, 1, 1, D]). `layout` is its input's: "NCHW" or
    "NHWC", RGB 0–1, sides of `size` pixels."""

    model: onnx.ModelProto
    size: int
    layout: Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class Found:
    """`told` says in words, by fact, what was found and how. `vectors` are the file's own styles by name, each [N];
    names are numbers where it has none. `network` is what the file's own styles call it."""

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
        """What takes a style's place as it gets weaker: a vector that changes nothing, the photo's own, or pixels."""
        if self.neutral is not None:
            return "neutral"
        return "content" if self.predictor is not None else "pixels"
