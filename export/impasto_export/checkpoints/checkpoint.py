"""The checkpoint's type, the same for every source: configs, tensors, tokenizers, scheduler, origin.

`folders` reads the diffusers layout, `original` a single file, `hub` fetches a repository; `resolve` tells which it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from impasto_export.architecture import Json
from impasto_export.checkpoints.tokenizer import Vocabulary
from impasto_export.weights import Tensor

SIZE = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})", re.ASCII)


@dataclass(frozen=True)
class Said:
    """The user's options for a checkpoint, on what it does not state itself.

    `variant` picks `*.<variant>.safetensors`. `prediction` and `spacing` are for single files: what the UNet predicts,
    and how timesteps are spaced. `tokenizer` is a folder to take tokenizers from. `defaults` are for requests:
    scheduler, steps, guidance_scale. `size` is the width and height of its training, in pixels.
    """

    variant: str | None = None
    prediction: str | None = None
    spacing: str | None = None
    tokenizer: Path | None = None
    defaults: Json = field(default_factory=dict)
    size: tuple[int, int] | None = None


def label(name: str) -> str:
    """A file's name as valid text: bytes that are not UTF-8 become question marks, since JSON cannot hold them."""
    return name.encode(errors="replace").decode()


def size_of(text: str) -> tuple[int, int] | None:
    """Width and height from WIDTHxHEIGHT; None for any other text."""
    match = SIZE.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class Stored:
    """Where a graph finds a tensor: the file's name in the bundle, and the place in it."""

    file: str
    tensor: Tensor


@dataclass(frozen=True)
class Weights:
    """A part's tensors under the graph's names. Errors name the `origin`; `files` are the bundle's, each a path to link
    or bytes to write."""

    origin: Path
    tensors: Mapping[str, Stored]
    files: Mapping[str, Path | bytes]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint. `origin` is its folder or file; `tokenizers` are by text encoder; `index` and `scheduler` are the
    contents of model_index.json and scheduler_config.json; `source` is the manifest's entry on the origin; `notes` are
    for the user."""

    name: str
    origin: Path
    family: str
    configs: Mapping[str, Json]
    weights: Mapping[str, Weights]
    tokenizers: Mapping[str, Vocabulary]
    index: Json
    scheduler: Json
    source: Json
    notes: tuple[str, ...] = ()
