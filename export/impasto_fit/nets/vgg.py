"""VGG16 and VGG19 up to relu5_1, with torchvision's names of weights, which Caffe's conversions share.

The papers' constants are for Caffe's weights, which read BGR of 0 to 255 less a mean; torchvision's read RGB less
ImageNet's mean, over its deviation, and see everything about 57 times smaller.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from impasto_fit.errors import CheckpointError

# Convolutions of each block.
BLOCKS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
NAME = re.compile(r"(?:features\.)?(\d+)\.(weight|bias)")
CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pooling = Literal["max", "average"]
Reading = Literal["torchvision", "caffe"]


@dataclass(frozen=True)
class Vgg:
    """`convs` are weight and bias of conv1_1, conv1_2, conv2_1, …, by these names."""

    convs: Mapping[str, tuple[Tensor, Tensor]]
    pooling: Pooling = "max"
    reading: Reading = "torchvision"

    @classmethod
    def load(cls, path: Path, pooling: Pooling = "max", reading: Reading = "torchvision") -> Vgg:
        """Of a safetensors file, or of a pickled state dict, of which tensors alone are read.

        Raises:
            CheckpointError: it is missing, damaged, or neither VGG16 nor VGG19.
        """
        return cls(named(path, state_dict(path)), pooling, reading)

    def __call__(self, picture: Tensor) -> dict[str, Tensor]:
        """Pictures [n, 3, H, W], RGB 0..1, to what follows each convolution: relu1_1, relu1_2, …"""
        x, found, block = self._read(picture), {}, "1"
        for name, (weight, bias) in self.convs.items():
            if name[4] != block:
                block = name[4]
                x = F.max_pool2d(x, 2) if self.pooling == "max" else F.avg_pool2d(x, 2)
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
            found[name.replace("conv", "relu")] = x
        return found

    def _read(self, picture: Tensor) -> Tensor:
        if self.reading == "caffe":
            return picture.flip(1) * 255 - picture.new_tensor(CAFFE_MEAN).view(1, 3, 1, 1)
        mean, spread = (picture.new_tensor(one).view(1, 3, 1, 1) for one in (MEAN, SPREAD))
        return (picture - mean) / spread


def state_dict(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Mapping[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
        return found
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file; give VGG16's or VGG19's weights") from None
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: can't be read as a state dict ({first}); get it again") from None


def named(path: Path, weights: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The convolutions up to conv5_1, in order; what follows them (the classifier) is not needed."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        if (match := NAME.fullmatch(name)) and tensor.ndim in (1, 4):
            layers.setdefault(int(match[1]), {})[match[2]] = tensor.float()
    for counts in BLOCKS.values():
        names = [f"conv{block}_{i}" for block, count in enumerate(counts, 1) for i in range(1, count + 1)]
        places = _places(counts)
        convs = {name: layers.get(place, {}) for name, place in zip(names, places, strict=True)}
        needed = {name: held for name, held in convs.items() if name <= "conv5_1"}
        if all(held.keys() == {"weight", "bias"} for held in needed.values()) and _fits(needed):
            return {name: (held["weight"], held["bias"]) for name, held in needed.items()}
    raise CheckpointError(f"{path}: is neither VGG16 nor VGG19 as torchvision names them (features.0.weight …)")


def _places(counts: tuple[int, ...]) -> list[int]:
    """Where torchvision counts each convolution: each is followed by a ReLU, each block by a pooling."""
    places, place = [], 0
    for count in counts:
        for _ in range(count):
            places.append(place)
            place += 2
        place += 1
    return places


def _fits(convs: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Each convolution reads what the one before it writes."""
    inputs = 3
    for held in convs.values():
        wanted = held["weight"].shape[0]
        if held["weight"].shape != (wanted, inputs, 3, 3) or held["bias"].shape != (wanted,):
            return False
        inputs = wanted
    return True
