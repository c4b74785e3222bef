"""What each recipe needs, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Gives = Literal["adapter", "picture", "net"]


@dataclass(frozen=True)
class Kind:
    """`shown` are the inputs that the recipe learns from or paints; `inputs` are all that it must have. `uses` are the
    folders, files and hub ids that it must have; `worded`: it fits to words. `steps` is its usual budget.

    An adapter is registered. A picture, or a net that `impasto link` reads, stays in the job's folder.
    """

    gives: Gives
    shown: str
    inputs: tuple[str, ...]
    uses: tuple[str, ...]
    steps: int
    worded: bool = False


PICTURES, PHOTOS, PAINTINGS, START = "pictures", "photos", "paintings", "start"
CHECKPOINT, CLIP, EYES, SENSE, ENCODER, CAPTIONER = "checkpoint", "clip", "eyes", "sense", "encoder", "captioner"
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "lora": Kind("adapter", PICTURES, (PICTURES,), (CHECKPOINT,), 500),
        "inversion": Kind("adapter", PICTURES, (PICTURES,), (CHECKPOINT,), 500),
        "drop": Kind("adapter", PICTURES, (PICTURES,), (CHECKPOINT,), 1000),
        "vector": Kind("adapter", PICTURES, (PICTURES, PHOTOS), (CHECKPOINT, EYES), 400),
        "gatys": Kind("picture", PICTURES, (PICTURES, PHOTOS), (EYES,), 1000),
        "clipstyler": Kind("net", PHOTOS, (PHOTOS,), (CLIP, SENSE), 200, worded=True),
        "clipstyler-fast": Kind("adapter", PHOTOS, (PHOTOS,), (CHECKPOINT, ENCODER, CLIP, SENSE), 200, worded=True),
        "styletransferclip": Kind("adapter", PHOTOS, (PHOTOS, PAINTINGS), (CHECKPOINT, CLIP), 200, worded=True),
    }
)
