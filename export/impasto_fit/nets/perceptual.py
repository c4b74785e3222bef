"""SqueezeNet 1.0 as a sense of likeness: its features say what is in a picture, their covariances how it is painted.

Its weights come as a file of arrays named `fire2/conv1x1_1/w` and so on, Caffe's names with slashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN_BGR = (104.0, 117.0, 123.0)
SEEN_BORDER = 8  # px of reflection around a picture: without it, the first layer hardly looks at the outermost pixels
POOLED = ("conv1", "fire4")
STYLE_LAYERS = ("pixels", "conv1", "fire3", "fire4", "fire5", "fire6")
CONTENT_LAYERS = ("fire4", "fire6")

Features = dict[str, Tensor]


class Fire(nn.Module):
    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.conv1x1_1 = nn.Conv2d(channels, squeezed, 1)
        self.conv1x1_2 = nn.Conv2d(squeezed, expanded, 1)
        self.conv3x3_2 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1x1_1(x))
        return torch.cat([F.relu(self.conv1x1_2(x)), F.relu(self.conv3x3_2(x))], 1)


class Perceptual(nn.Module):
    """The layers up to fire6, an eighth of a picture's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        self.fire2 = Fire(96, 16, 64)
        self.fire3 = Fire(128, 16, 64)
        self.fire4 = Fire(128, 32, 128)
        self.fire5 = Fire(256, 32, 128)
        self.fire6 = Fire(256, 48, 192)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1))
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: Path) -> Perceptual:
        """
        Raises:
            FileNotFoundError: there is no such file.
        """
        network = cls()
        arrays = np.load(path)
        for name, weight in network.named_parameters():
            layer, kind = name.rsplit(".", 1)
            weight.copy_(torch.from_numpy(arrays[f"{layer.replace('.', '/')}/{kind[0]}"]))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        return network

    def forward(self, picture: Tensor) -> Features:
        """picture [n, 3, H, W], RGB 0..1."""
        x = F.pad(picture.flip(1) * 255 - self.mean, (SEEN_BORDER,) * 4, mode="reflect")
        found: Features = {"pixels": picture}
        for name, layer in self.named_children():
            x = F.relu(layer(x))
            found[name] = x
            if name in POOLED:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return found


@dataclass(frozen=True)
class Manner:
    """How pictures are painted, for each layer: means [n, C, 1] and covariances [n, C, C] of its features."""

    means: tuple[Tensor, ...]
    covariances: tuple[Tensor, ...]

    @classmethod
    def of(cls, features: Features) -> Manner:
        means, covariances = zip(*(_moments(features[layer]) for layer in STYLE_LAYERS), strict=True)
        return cls(means, covariances)

    @classmethod
    def stacked(cls, manners: Sequence[Manner]) -> Manner:
        """Rows of several manners as one batch."""
        means, covariances = (
            tuple(torch.cat(layer) for layer in zip(*column, strict=True))
            for column in zip(*((manner.means, manner.covariances) for manner in manners), strict=True)
        )
        return cls(means, covariances)


@dataclass(frozen=True)
class Target:
    """A manner to be reached, in units of its own deviations: a loud channel or layer weighs no more than others.

    `gains` [n, C] are one over the deviations; means and covariances are multiplied by them already.
    """

    gains: tuple[Tensor, ...]
    means: tuple[Tensor, ...]
    covariances: tuple[Tensor, ...]

    @classmethod
    def of(cls, manner: Manner) -> Target:
        variances = [covariance.diagonal(dim1=1, dim2=2) for covariance in manner.covariances]
        gains = tuple((v + 0.1 * v.mean(1, keepdim=True)).rsqrt() for v in variances)
        means = tuple(mean[..., 0] * gain for mean, gain in zip(manner.means, gains, strict=True))
        covariances = tuple(c * _outer(gain) for c, gain in zip(manner.covariances, gains, strict=True))
        return cls(gains, means, covariances)

    @classmethod
    def stacked(cls, targets: Sequence[Target]) -> Target:
        """Rows of several targets as one batch."""
        columns = zip(*((t.gains, t.means, t.covariances) for t in targets), strict=True)
        return cls(*(tuple(torch.cat(layer) for layer in zip(*column, strict=True)) for column in columns))

    def half(self) -> Target:
        return Target(*(tuple(p.half() for p in parts) for parts in (self.gains, self.means, self.covariances)))

    def loss(self, found: Manner) -> Tensor:
        """[n], about 1 for a picture without any covariance: squared distance in squared norms of the target."""
        losses = []
        for gain, mean, covariance, m, c in zip(
            self.gains, self.means, self.covariances, found.means, found.covariances, strict=True
        ):
            gain, mean, covariance = gain.float(), mean.float(), covariance.float()
            apart = (c * _outer(gain) - covariance).square().sum((1, 2)) / covariance.square().sum((1, 2))
            losses.append(apart + (m[..., 0] * gain - mean).square().mean(1))
        return torch.stack(losses).mean(0)


def content_loss(found: Features, wanted: Features) -> Tensor:
    """[n]: squared distance of features in mean squares of the wanted ones."""
    losses = []
    for layer in CONTENT_LAYERS:
        a, b = found[layer].float(), wanted[layer].float()
        losses.append((a - b).square().mean((1, 2, 3)) / b.square().mean((1, 2, 3)))
    return torch.stack(losses).mean(0)


def roughness(picture: Tensor) -> Tensor:
    """[n]: mean absolute difference of neighbouring pixels."""
    down = (picture[..., 1:, :] - picture[..., :-1, :]).abs().mean((1, 2, 3))
    right = (picture[..., 1:] - picture[..., :-1]).abs().mean((1, 2, 3))
    return down + right


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    flat = features.float().flatten(2)
    mean = flat.mean(2, keepdim=True)
    away = (flat - mean).to(features.dtype)
    return mean, (away @ away.transpose(1, 2)).float() / flat.shape[2]


def _outer(gain: Tensor) -> Tensor:
    return gain[:, :, None] * gain[:, None]
