"""The peer: diffusers' StableDiffusionPipeline with PEFT, as one would serve styles with it.

Every adapter is loaded once; a request makes its own the active one with `set_adapters`. Requests go one after another,
for no two of them can share a batch. Of diffusers' two kinds of attention the faster one here is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from benchmarks.backbones import LORA_FILE, NAMES, Backbone
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from numpy.typing import NDArray

from impasto_server.request import Request

ATTENTION: dict[str, Any] = {"fused": AttnProcessor2_0, "plain": AttnProcessor}
SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


class Peer:
    """A backbone's checkpoint with its adapters, weights and arithmetic in `dtype`."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._pipe: Any = StableDiffusionPipeline.from_pretrained(backbone.checkpoint, safety_checker=None, dtype=dtype)
        self._pipe.set_progress_bar_config(disable=True)
        with warnings.catch_warnings():
            # PEFT's, about several adapters on one model, which is what the comparison is about.
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute", UserWarning)
            for name in NAMES:
                self._pipe.load_lora_weights(backbone.lora(name), weight_name=LORA_FILE, adapter_name=name)
        config = self._pipe.scheduler.config
        self._schedulers = {name: kind.from_config(config) for name, kind in SCHEDULERS.items()}
        self._pipe.set_adapters([NAMES[0]])
        self.attention_ms = pick_attention(self._pipe.unet, partial(self.pass_ms, 2, 4))

    def paint(self, request: Request, noise: NDArray[np.float32]) -> NDArray[np.uint8]:
        """RGB [H, W, 3] from the unit noise [C, h, w]."""
        self._pipe.set_adapters([name for name, _ in request.adapters], [weight for _, weight in request.adapters])
        self._pipe.scheduler = self._schedulers[request.scheduler]
        image = self._pipe(
            request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            latents=torch.from_numpy(noise)[None].to(self._dtype),
        ).images[0]
        return np.asarray(image)

    def set_adapters_ms(self, switches: int) -> list[float]:
        """From one adapter to another, `switches` times."""
        return [ms(self._pipe.set_adapters, [NAMES[i % len(NAMES)]]) for i in range(switches)]

    def fuse_unfuse_ms(self) -> list[float]:
        """Each adapter into the weights and out again: what serving one style at a time from merged weights costs."""
        spent = []
        for name in NAMES:
            self._pipe.set_adapters([name])
            spent.append(ms(self._pipe.fuse_lora, adapter_names=[name]) + ms(self._pipe.unfuse_lora))
        return spent

    @torch.no_grad()
    def pass_ms(self, lanes: int, passes: int) -> list[float]:
        """Forward passes of the UNet with one adapter active, as its own pipeline makes them."""
        unet = self._pipe.unet
        size, tokens = unet.config.sample_size, self._pipe.text_encoder.config.max_position_embeddings
        sample = torch.randn(lanes, unet.config.in_channels, size, size).to(self._dtype)
        context = torch.randn(lanes, tokens, unet.config.cross_attention_dim).to(self._dtype)
        return [ms(unet, sample, torch.tensor(500), context, return_dict=False) for _ in range(passes)]


def pick_attention(model: Any, pass_ms: Callable[[], Sequence[float]]) -> dict[str, float]:
    """Keep the faster kind of attention; milliseconds of a pass with each. `pass_ms` times some passes of `model`."""
    found: dict[str, float] = {}
    for kind, processor in ATTENTION.items():
        model.set_attn_processor(processor())
        found[kind] = _median_warm(pass_ms())
    model.set_attn_processor(ATTENTION[min(found, key=lambda kind: found[kind])]())
    return found


def _median_warm(samples: Sequence[float]) -> float:
    """The first one warms up."""
    return median(samples[1:])


def ms(work: Any, *args: Any, **named: Any) -> float:
    started = perf_counter()
    work(*args, **named)
    return 1000 * (perf_counter() - started)
