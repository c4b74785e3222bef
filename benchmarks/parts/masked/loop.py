"""The cascade's peer: both stages as one would write them in torch, each request under its own pair of adapters.

Every pair is loaded once; a request's is hooked to the modules of both stages while it is painted. Requests go one
after another, each a batch of its two rows. diffusers' AmusedScheduler decodes the tokens of either stage. Of its
kinds of attention the base has the fastest one here; the second stage's is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common.backbones import Backbone
from benchmarks.common.draws import Decoding, Step, Story, drawing, leading
from benchmarks.common.masked_backbones import HALVES, PAIRS, pair_folder
from benchmarks.common.reference import Reference
from benchmarks.parts.masked.pictures import Painted
from benchmarks.parts.masked.wishes import Wish
from diffusers import AmusedScheduler, UVit2DModel, VQModel
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from impasto_export.tracing.upscaler import MuseUpscaler
from impasto_server.families.masked.manifest import UPSCALE
from impasto_server.steps import BASE

AESTHETIC_SCORE = 6.0
PASSES = 4

Half = Mapping[str, tuple[Tensor, Tensor]]  # by module: down [D, H] and up [H, D]
Logits = Callable[[Tensor], Tensor]  # of tokens [2, h, w], the negative prompt's first: [2, codes, h, w]


class Loop:
    """A backbone's checkpoint with these of its pairs; weights and arithmetic are in `dtype`."""

    def __init__(
        self, backbone: Backbone, dtype: torch.dtype, reference: Reference, pairs: Sequence[str] = PAIRS
    ) -> None:
        checkpoint, folder = backbone.checkpoint, backbone.loras.parent
        self._reference, self._dtype = reference, dtype
        self._tokenizer: Any = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")
        text = CLIPTextModelWithProjection.from_pretrained(checkpoint / "text_encoder", dtype=dtype)
        base = UVit2DModel.from_pretrained(checkpoint / "transformer", dtype=dtype)
        fine = MuseUpscaler.from_pretrained(checkpoint / "upscaler", dtype=dtype)
        self._text: Any = reference.place(text)
        self._stages: Mapping[str, Any] = {BASE: reference.place(base), UPSCALE: reference.place(fine)}
        self._vq: Any = reference.place(VQModel.from_pretrained(checkpoint / "upscaler_vqvae", dtype=dtype))
        self._schedulers = {stage: AmusedScheduler(net.config.vocab_size - 1) for stage, net in self._stages.items()}
        self._pairs = {name: self._pair(pair_folder(folder, name)) for name in pairs}
        self.attention_ms = reference.pick_attention(self._stages[BASE], partial(self.pass_ms, BASE))

    def paint(self, wish: Wish) -> Painted:
        """With torch's own random numbers."""
        return self._painted(wish, {})

    def follow(
        self, wish: Wish, stories: Mapping[str, Story], draws: np.random.Generator
    ) -> tuple[Painted, Mapping[str, list[Step]]]:
        """Led by what the pipeline drew at each stage; and the steps. `draws` are those of the wish's seed."""
        with ExitStack() as stack:
            stack.enter_context(drawing(draws))
            led: dict[str, list[Step]] = {}

            @contextmanager
            def lead(stage: str) -> Iterator[None]:
                with leading(stories[stage]) as led[stage]:
                    yield
                draws.gumbel(size=stories[stage].tokens.size)  # diffusers' scheduler draws none after its last step

            return self._painted(wish, {stage: lead(stage) for stage in stories}), led

    @torch.inference_mode()
    def _painted(self, wish: Wish, led: Mapping[str, AbstractContextManager[None]]) -> Painted:
        hidden, pooled = self._said(wish.prompt)
        side = self._stages[BASE].config.sample_size
        size = torch.tensor([[8 * side, 8 * side, 0, 0, AESTHETIC_SCORE]]).to(hidden).expand(2, -1)
        below: list[Tensor] = []
        logits: dict[str, Logits] = {
            BASE: lambda tokens: self._stages[BASE](tokens, hidden, pooled, size),
            UPSCALE: lambda tokens: self._stages[UPSCALE](tokens, below[0].expand(2, -1, -1), hidden),
        }
        sides = {BASE: side, UPSCALE: side * self._stages[UPSCALE].config.scale}
        for stage, decoding in wish.decodings.items():
            with hooked(self._stages[stage], self._pairs[wish.pair][stage]), led.get(stage, nullcontext()):
                below.insert(0, self._decoded(stage, decoding, wish.scales[stage], logits[stage], sides[stage]))
        return Painted(self._pixels(below[0]), below[0][0].cpu().numpy())

    def _said(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Hidden states [2, T, E] and pooled [2, D] of the empty prompt and of this one."""
        read = partial(self._tokenizer, padding="max_length", truncation=True, return_tensors="pt")
        ids = read(["", prompt], max_length=self._tokenizer.model_max_length).input_ids
        said = self._text(self._reference.place(ids), output_hidden_states=True)
        return said.hidden_states[-2], said.text_embeds

    def _decoded(self, stage: str, decoding: Decoding, scale: float, logits: Logits, side: int) -> Tensor:
        """int64 [1, h, w]."""
        scheduler = self._schedulers[stage]
        device = self._reference.device
        scheduler.set_timesteps(decoding.steps, (decoding.temperature, 0), device)
        tokens = torch.full((1, side, side), scheduler.config.mask_token_id, device=device)
        assert scheduler.timesteps is not None
        for timestep in scheduler.timesteps:
            null, said = logits(tokens.expand(2, -1, -1)).chunk(2)
            tokens = scheduler.step(null + scale * (said - null), timestep, tokens).prev_sample
        return tokens

    def _pixels(self, tokens: Tensor) -> NDArray[np.uint8]:
        shape = (*tokens.shape, self._vq.config.latent_channels)
        found = self._vq.decode(tokens, force_not_quantize=True, shape=shape).sample[0].float().clamp(0, 1)
        pixels: NDArray[np.uint8] = (255 * found).round().byte().permute(1, 2, 0).cpu().numpy()
        return pixels

    def _pair(self, folder: Path) -> Mapping[str, Half]:
        files = dict(zip((BASE, UPSCALE), HALVES.values(), strict=True))
        return {stage: self._half(folder / file) for stage, file in files.items()}

    def _half(self, path: Path) -> Half:
        tensors = {name: self._reference.place(tensor.to(self._dtype)) for name, tensor in load_file(path).items()}
        sites = {name.rpartition(".")[0] for name in tensors}
        return {site: (tensors[f"{site}.down"], tensors[f"{site}.up"]) for site in sites}

    @torch.inference_mode()
    def pass_ms(self, stage: str) -> list[float]:
        """Forward passes of two rows."""
        hidden, pooled = self._said("a red fish")
        side = self._stages[BASE].config.sample_size
        small = torch.zeros((2, side, side), dtype=torch.int64, device=hidden.device)
        if stage == BASE:
            size = torch.zeros((2, 5)).to(hidden)
            return [self._reference.ms(self._stages[BASE], small, hidden, pooled, size) for _ in range(PASSES)]
        times = self._stages[UPSCALE].config.scale
        large = small.repeat(1, times, times)
        return [self._reference.ms(self._stages[UPSCALE], large, small, hidden) for _ in range(PASSES)]


@contextmanager
def hooked(module: Any, half: Half) -> Iterator[None]:
    """While inside, the module is adapted: y + gelu(y down) up, of what each of these sites says."""
    with ExitStack() as hooks:
        for site, (down, up) in half.items():
            hook = module.get_submodule(site).register_forward_hook(partial(_adapted, down, up))
            hooks.callback(hook.remove)
        yield


def _adapted(down: Tensor, up: Tensor, module: object, inputs: object, y: Tensor) -> Tensor:
    return y + F.gelu(y @ down) @ up
