"""What the judge reads in pictures sampled from a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from studio import painter
from studio.painter import Bytes
from studio.reading.judge import Judge, Verdict, verdict

STEPS = 25
GUIDANCE = 3.0
BATCH = 16


def sample(pipe: StableDiffusionPipeline, prompts: Sequence[str], seed: int) -> Bytes:
    """uint8 [N, 128, 128, 3], the same for the same seed."""
    noise = torch.Generator().manual_seed(seed)
    parts = [
        pipe(
            list(prompts[i : i + BATCH]),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=128,
            width=128,
            generator=noise,
            output_type="np",
        ).images
        for i in range(0, len(prompts), BATCH)
    ]
    images: Bytes = (np.concatenate(parts) * 255).round().astype(np.uint8)
    return images


def assess(pipe: StableDiffusionPipeline, count: int, sheet: Path, seed: int = 5) -> Verdict:
    """Sample unseen captions, draw the first of them to `sheet`, and let the judge read all."""
    scenes = painter.unseen_scenes(count, seed)
    images = sample(pipe, [painter.caption(scene) for scene in scenes], seed)
    painter.contact_sheet(list(images[:32]), 8).save(sheet, optimize=True)
    return verdict(Judge.load().read(images), scenes)
