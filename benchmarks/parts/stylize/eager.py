"""A feed-forward net as torch runs it line by line: channels last, float32 or autocast to bf16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from impasto_export.feedforward.net import Array, Conv, Net, Residual

# How convs of such nets pad and what they do before.
KINDS = (("reflect", "none"), ("reflect", "nearest"))


@dataclass(frozen=True)
class Eager:
    """What such nets are made of here: padding by reflection, nearest upsampling, instance norm by the style or none,
    pictures RGB 0-1, and a sigmoid at the end."""

    net: Net
    tensors: dict[str, Tensor]
    precision: str

    @classmethod
    def of(cls, net: Net, precision: str = "f32") -> Eager:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in net.tensors.items()}
        laid = {
            name: one.to(memory_format=torch.channels_last) if one.dim() == 4 else one for name, one in tensors.items()
        }
        return cls(net, laid, precision)

    def __call__(self, picture: Array, style: Array) -> Array:
        """[n, 3, H, W] 0-1 and [n, N] → [n, 3, H, W]."""
        cast = torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with torch.inference_mode(), cast:
            laid = torch.from_numpy(picture).contiguous(memory_format=torch.channels_last)
            painted: Array = self.run(laid, torch.from_numpy(style)).float().numpy()
        return painted

    def run(self, x: Tensor, style: Tensor) -> Tensor:
        vectors = iter(self._vectors(style))
        for block in self.net.blocks:
            if isinstance(block, Residual):
                x = x + self._conv(block.second, self._conv(block.first, x, vectors), vectors)
            else:
                assert isinstance(block, Conv), block
                x = self._conv(block, x, vectors)
        return torch.sigmoid(x)

    def gflop(self, height: int, width: int) -> float:
        """Of one picture's pass; a multiplication and an addition are two."""
        meta = Eager(self.net, {name: one.to("meta") for name, one in self.tensors.items()}, "f32")
        style = torch.empty(1, self.net.vector_size, device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            meta.run(torch.empty(1, 3, height, width, device="meta"), style)
        return float(counter.get_total_flops()) / 1e9

    def _vectors(self, style: Tensor) -> list[Tensor]:
        """γ and β of each conditioned conv in order, [n, C, 1, 1]."""
        sizes = [self.net.channels(conv) for conv in self.net.conditioned for _ in range(2)]
        return [part[:, :, None, None] for part in style.split(sizes, dim=1)]

    def _conv(self, conv: Conv, x: Tensor, vectors: Iterator[Tensor]) -> Tensor:
        assert (conv.padding, conv.upsampling) in KINDS, conv
        if conv.upsampling == "nearest":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.pad(x, [self.net.kernel(conv) // 2] * 4, mode="reflect")
        x = F.conv2d(x, self.tensors[f"{conv.name}.weight"], self.tensors.get(f"{conv.name}.bias"), conv.stride)
        if conv.norm.statistics == "instance":
            assert conv.norm.conditioned, conv
            x = F.instance_norm(x, eps=conv.norm.epsilon) * next(vectors) + next(vectors)
        return F.relu(x) if conv.activation == "relu" else x
