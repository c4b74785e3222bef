"""The peer: diffusers' StableDiffusionPipeline with PEFT, as one would serve styles with it.

Every adapter is loaded once; a request makes its own the active one with `set_adapters`. Requests go one after another,
for no two of them can share a batch. Of diffusers' kinds of attention the fastest one here is used.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.common.backbones import LORA_FILE, NAMES, Backbone
from benchmarks.common.reference import Reference
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from numpy.typing import NDArray

from impasto_server.request import Request

SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


class Peer:
    """A backbone's checkpoint with its adapters, weights and arithmetic in `dtype`, where `reference` computes."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype, reference: Reference) -> None:
        self._reference, self._dtype = reference, dtype
        self._pipe: Any = StableDiffusionPipeline.from_pretrained(backbone.checkpoint, safety_checker=None, dtype=dtype)
        self._pipe.set_progress_bar_config(disable=True)
        with warnings.catch_warnings():
            # PEFT's, about several adapters on one model, which is what the comparison is about.
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute", UserWarning)
            for name in NAMES:
                self._pipe.load_lora_weights(backbone.lora(name), weight_name=LORA_FILE, adapter_name=name)
        self._pipe = reference.place(self._pipe)
        config = self._pipe.scheduler.config
        self._schedulers = {name: kind.from_config(config) for name, kind in SCHEDULERS.items()}
        self._pipe.set_adapters([NAMES[0]])
        self.attention_ms = reference.pick_attention(self._pipe.unet, partial(self.pass_ms, 2, 4))

    def paint(self, request: Request, noise: NDArray[np.float32]) -> NDArray[np.uint8]:
        """RGB [H, W, 3] from the unit noise [C, h, w]."""
        self._pipe.set_adapters([name for name, _ in request.adapters], [weight for _, weight in request.adapters])
        self._pipe.scheduler = self._schedulers[request.scheduler]
        image = self._pipe(
            request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            latents=torch.from_numpy(noise)[None].to(self._pipe.device, self._dtype),
        ).images[0]
        return np.asarray(image)

    def set_adapters_ms(self, switches: int) -> list[float]:
        """From one adapter to another, `switches` times."""
        return [self._reference.ms(self._pipe.set_adapters, [NAMES[i % len(NAMES)]]) for i in range(switches)]

    def fuse_unfuse_ms(self) -> list[float]:
        """Each adapter into the weights and out again: what serving one style at a time from merged weights costs."""
        spent, ms = [], self._reference.ms
        for name in NAMES:
            self._pipe.set_adapters([name])
            spent.append(ms(self._pipe.fuse_lora, adapter_names=[name]) + ms(self._pipe.unfuse_lora))
        return spent

    @torch.no_grad()
    def pass_ms(self, lanes: int, passes: int) -> list[float]:
        """Forward passes of the UNet with one adapter active, as its own pipeline makes them."""
        unet = self._pipe.unet
        size, tokens = unet.config.sample_size, self._pipe.text_encoder.config.max_position_embeddings
        sample, context = (
            torch.randn(lanes, *shape).to(self._pipe.device, self._dtype)
            for shape in ((unet.config.in_channels, size, size), (tokens, unet.config.cross_attention_dim))
        )
        step = torch.tensor(500, device=self._pipe.device)
        return [self._reference.ms(unet, sample, step, context, return_dict=False) for _ in range(passes)]
