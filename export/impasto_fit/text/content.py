"""A sense of what is in a picture, so that a style leaves it there: VGG19 where a user has it, or a smaller net."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto_fit.errors import CheckpointError
from impasto_fit.nets.perceptual import CONTENT_LAYERS, Perceptual
from impasto_fit.nets.vgg import MEAN, SPREAD, state_dict
from impasto_fit.provenance import digest_of
from impasto_fit.text.texture import TextureClip

# Outputs of VGG19's convolutions in order, up to conv5_2; a number of 0 is a pooling. As torchvision counts them.
VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512)
TAPS = (9, 13)  # conv4_2 and conv5_2, among the convolutions
LOUDNESS = {"fire4": 250.0, "fire6": 185.0}  # deviations of SqueezeNet's features in photographs
CONV = re.compile(r"^(?:features\.)?(\d+)\.(weight|bias)$")


class Sense(Protocol):
    """`name` says which network it is, for the adapter's header."""

    @property
    def name(self) -> str: ...

    def features(self, pictures: Tensor) -> Sequence[Tensor]:
        """Of [n, 3, H, W] in 0..1; differentiable."""
        ...


def loss(sense: Sense, painted: Tensor, photo: Tensor) -> Tensor:
    """The sum over layers of the mean squared difference of features."""
    with torch.no_grad():
        wanted = sense.features(photo)
    found = sense.features(painted)
    return torch.stack([(a - b).square().mean() for a, b in zip(found, wanted, strict=True)]).sum()


@dataclass(frozen=True)
class Vgg19:
    """conv4_2 and conv5_2, before their activation, as the paper has it. `convs` are weight and bias of each."""

    convs: Sequence[tuple[Tensor, Tensor]]
    name: str

    @classmethod
    def of(cls, state: Mapping[str, Tensor], name: str) -> Vgg19:
        """From torchvision's state dict, of any width.

        Raises:
            CheckpointError: a convolution is missing.
        """
        found: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            match = CONV.match(key)
            if match:
                found.setdefault(int(match[1]), {})[match[2]] = value.float()
        wanted = sum(width > 0 for width in VGG19)
        pairs = [(found[place]["weight"], found[place]["bias"]) for place in sorted(found)]
        if len(pairs) < wanted:
            raise CheckpointError(f"perceptual: {name} has {len(pairs)} convolutions; VGG19 has {wanted} to conv5_2")
        return cls(pairs[:wanted], name)

    def features(self, pictures: Tensor) -> Sequence[Tensor]:
        mean, spread = (pictures.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, SPREAD))
        x, taken, place = (pictures - mean) / spread, [], 0
        for width in VGG19:
            if not width:
                x = F.max_pool2d(x, 2)
                continue
            x = F.conv2d(x, *self.convs[place], padding=1)
            if place in TAPS:
                taken.append(x)
            x, place = F.relu(x), place + 1
        return taken


@dataclass(frozen=True)
class Squeezed:
    """SqueezeNet's features, in their own deviations."""

    network: Perceptual
    name: str = "squeezenet 1.0"

    def features(self, pictures: Tensor) -> Sequence[Tensor]:
        found = self.network(pictures)
        return [found[layer] / LOUDNESS[layer] for layer in CONTENT_LAYERS]


@dataclass(frozen=True)
class Towers:
    """The first maps of texture-clip's picture tower, in their own deviations: for who has no perceptual network."""

    clip: TextureClip
    name: str = "texture-clip"

    def features(self, pictures: Tensor) -> Sequence[Tensor]:
        tower = self.clip.pictures
        x = F.leaky_relu(tower.norm(tower.stem(pictures * 2 - 1)), 0.1)
        maps = [x, tower.stages[0](x)]
        return [part / (part.detach().std() + 1e-4) for part in maps]


def opened(where: Path) -> Sense:
    """VGG19's file as torchvision saves it, .safetensors or .pth; SqueezeNet 1.0's as an .npz of arrays.

    Raises:
        CheckpointError: it can't be read, or is another network's.
    """
    if where.suffix == ".npz":
        return Squeezed(Perceptual.load(where))
    return Vgg19.of(state_dict(where), f"vgg19 {digest_of(where)[:12]}")
