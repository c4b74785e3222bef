"""Random checkpoints of the shipped mini-muse-cascade: checkpoints.py's masked one with a second stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from impasto_export import architecture
from tests.helpers import checkpoints

CASCADE = architecture.SHIPPED / "mini-muse-cascade"
STAGE: dict[str, dict[str, Any]] = {
    "upscaler": {"_class_name": "MuseUpscaler"},
    "upscaler_vqvae": {"_class_name": "VQModel", "sample_size": 256},
}
UPSCALE: dict[str, Any] = architecture.load(CASCADE).sizes["upscale"]
SCALE: int = UPSCALE["scale"]
CODES: int = UPSCALE["tokens"]["codes"]
MASK_ID: int = UPSCALE["tokens"]["mask_id"]


def config(part: str) -> dict[str, Any]:
    """The component's config as a checkpoint of two stages states it."""
    if part not in STAGE:
        return checkpoints.masked_config(part)
    return {**architecture.load(CASCADE).components[part].config, **STAGE[part]}


def model(part: str, seed: int) -> Any:
    """As checkpoints.masked_model, also of the second stage's components."""
    return checkpoints.random_model(part, config(part), seed)


def save(folder: Path, seed: int, dtype: torch.dtype = torch.float16) -> Path:
    """Write a whole checkpoint of two stages with random weights, stored as `dtype`."""
    checkpoints.save_masked(folder, seed, dtype)
    for part in STAGE:
        model(part, seed).to(dtype).save_pretrained(folder / part)
    return folder
