"""The masked family's peer: diffusers' AmusedPipeline with PEFT, as one would serve styles with it.

Every adapter is loaded once; a request makes its own the active one with `set_adapters`. Requests go one after another,
each a batch of its two rows. Of diffusers' kinds of attention the fastest one here is used.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.common.backbones import LORA_FILE, NAMES, Backbone
from benchmarks.common.draws import Step, Story, drawing, leading
from benchmarks.common.reference import Reference
from benchmarks.parts.masked.pictures import Painted
from diffusers import AmusedPipeline
from torch import Tensor

from impasto_server.request import Request


class Peer:
    """A backbone's checkpoint with its LoRAs, weights and arithmetic in `dtype`, where `reference` computes."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype, reference: Reference) -> None:
        self._reference, self._dtype = reference, dtype
        self._pipe: Any = AmusedPipeline.from_pretrained(backbone.checkpoint, dtype=dtype)
        self._pipe.set_progress_bar_config(disable=True)
        self._transformer = self._pipe.transformer
        with warnings.catch_warnings():
            # PEFT's, about several adapters on one model, which is what the comparison is about.
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute", UserWarning)
            for name in NAMES:
                self._transformer.load_lora_adapter(
                    backbone.lora(name), weight_name=LORA_FILE, prefix="transformer", adapter_name=name
                )
        self._pipe = reference.place(self._pipe)
        self._transformer.set_adapters([NAMES[0]])
        self.attention_ms = reference.pick_attention(self._transformer, partial(self.pass_ms, 2, 4))

    def paint(self, request: Request) -> Painted:
        """With torch's own random numbers."""
        self._transformer.set_adapters([*request.styles.adapter_names], [*request.styles.adapter_weights])
        tokens: list[Tensor] = []
        with torch.inference_mode():
            image = self._pipe(
                request.words.prompt,
                negative_prompt=request.words.negative_prompt,
                num_inference_steps=request.sampling.steps,
                guidance_scale=request.strengths["GUIDANCE_SCALE"],
                temperature=(request.own["TEMPERATURE"], 0),
                callback=lambda step, timestep, latents: tokens.append(latents),
            ).images[0]
        return Painted(np.asarray(image), tokens[-1][0].cpu().numpy())

    def repaint(self, request: Request) -> Painted:
        """With the random numbers that the pipeline's sampler draws for the request's seed."""
        with drawing(np.random.Generator(np.random.Philox(request.seeds.seed))):
            return self.paint(request)

    def follow(self, request: Request, story: Story) -> tuple[Painted, list[Step]]:
        """Led by what the pipeline drew."""
        with leading(story) as steps:
            return self.repaint(request), steps

    def set_adapters_ms(self, switches: int) -> list[float]:
        """From one adapter to another, `switches` times."""
        return [self._reference.ms(self._transformer.set_adapters, [NAMES[i % len(NAMES)]]) for i in range(switches)]

    @torch.inference_mode()
    def pass_ms(self, lanes: int, passes: int) -> list[float]:
        """Forward passes of the transformer with one adapter active, as its own pipeline makes them."""
        config, tokens = self._transformer.config, self._pipe.text_encoder.config.max_position_embeddings
        ids = torch.randint(0, config.codebook_size, (lanes, config.sample_size, config.sample_size))
        texts = [
            torch.randn(lanes, *shape).to(self._pipe.device, self._dtype)
            for shape in ((tokens, config.encoder_hidden_size), (config.cond_embed_dim,), (5,))
        ]
        return [self._reference.ms(self._transformer, ids.to(self._pipe.device), *texts) for _ in range(passes)]
