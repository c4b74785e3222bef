"""A checkpoint, wherever it was read from: each part's config and tensors, tokenizers, the scheduler, where it is from.

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
    """What the user says of a checkpoint that it cannot or does not say itself.

    `variant` picks `*.<variant>.safetensors`; `prediction` and `spacing` are what a single file does not tell: what its
    UNet predicts, and how timesteps are spaced; `tokenizer` is a folder to take tokenizers from; `defaults` are a
    request's: scheduler, steps, guidance_scale; `size` is width and height of what it was trained on.
    """

    variant: str | None = None
    prediction: str | None = None
    spacing: str | None = None
    tokenizer: Path | None = None
    defaults: Json = field(default_factory=dict)
    size: tuple[int, int] | None = None


def label(name: str) -> str:
    """A file's name in letters: a byte that is none becomes a question mark, since JSON has no place for it."""
    return name.encode(errors="replace").decode()


def size_of(text: str) -> tuple[int, int] | None:
    """Width and height of WIDTHxHEIGHT; None where it is something else."""
    match = SIZE.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class Stored:
    """Where a graph finds a tensor: the bundle's file, and the place in it."""

    file: str
    tensor: Tensor


@dataclass(frozen=True)
class Weights:
    """A part's tensors under the graph's names. `origin` is what errors name; `files` are the bundle's, each a file to
    be linked, or bytes to be written."""

    origin: Path
    tensors: Mapping[str, Stored]
    files: Mapping[str, Path | bytes]


@dataclass(frozen=True)
class Checkpoint:
    """`origin` is the folder or file. `tokenizers` are by the text encoder that reads them; `index` and `scheduler` are
    what model_index.json and scheduler_config.json say, `source` what the manifest says of where all this is from.
    `notes` are what the user should know."""

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
