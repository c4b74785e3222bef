"""Write Torch7's files as its `torch.save` does in binary, with jcjohnson's nets as Torch7 modules."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from tests.helpers.stylers import Shaved

NUMBER, TEXT, TABLE, OBJECT, BOOLEAN, FUNCTION = 1, 2, 3, 4, 5, 8


@dataclass(frozen=True)
class Lua:
    """An object of the class `name`."""

    name: str
    attributes: Mapping[str, Any]


def encoded(value: Any) -> bytes:
    return b"".join(_Writer().item(value))


class _Writer:
    def __init__(self) -> None:
        self.objects = 0

    def item(self, value: Any) -> list[bytes]:
        match value:
            case None:
                return [_int(0)]
            case bool():
                return [_int(BOOLEAN), _int(int(value))]
            case int() | float():
                return [_int(NUMBER), struct.pack("<d", value)]
            case str():
                return [_int(TEXT), _text(value)]
            case Lua():
                return [self.start(OBJECT), _text("V 1"), _text(value.name), *self.item(dict(value.attributes))]
            case np.ndarray():
                return self.tensor(value)
            case bytes():
                return [self.start(FUNCTION), _int(len(value)), value, *self.item({})]
            case list():
                return self.item({float(at): item for at, item in enumerate(value, 1)})
            case dict():
                start = [self.start(TABLE), _int(len(value))]
                return start + [part for pair in value.items() for item in pair for part in self.item(item)]
        raise TypeError(type(value))

    def start(self, kind: int) -> bytes:
        self.objects += 1
        return _int(kind) + _int(self.objects)

    def tensor(self, value: np.ndarray[Any, Any]) -> list[bytes]:
        steps = [step // value.itemsize for step in np.zeros(value.shape, "<f4").strides]
        shape = struct.pack(f"<i{2 * value.ndim + 1}q", value.ndim, *value.shape, *steps, 1)
        head = [self.start(OBJECT), _text("V 1"), _text("torch.FloatTensor"), shape]
        storage = [self.start(OBJECT), _text("V 1"), _text("torch.FloatStorage"), struct.pack("<q", value.size)]
        return [*head, *storage, value.astype("<f4").tobytes()]


def _int(value: int) -> bytes:
    return struct.pack("<i", value)


def _text(value: str) -> bytes:
    return _int(len(value.encode())) + value.encode()


def checkpoint(net: nn.Sequential, **opt: Any) -> dict[str, Any]:
    """What jcjohnson's train.lua saves for the net."""
    ended = [
        *_modules(net),
        Lua("nn.Tanh", {}),
        Lua("nn.MulConstant", {"constant_scalar": 150.0}),
        Lua("nn.TotalVariation", {"strength": 1e-6}),
    ]
    model = Lua("nn.Sequential", {"modules": ended, "train": False, "_type": "torch.FloatTensor"})
    return {"opt": {"arch": "c9s1-16", "preprocessing": "vgg", **opt}, "train_loss_history": [1.0, 0.5], "model": model}


def _modules(net: nn.Sequential) -> list[Lua]:
    return [_module(layer) for layer in net]


def _module(layer: nn.Module) -> Lua:
    held = {
        name: value.detach().numpy()
        for name, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
    }
    match layer:
        case nn.ReflectionPad2d():
            return Lua("nn.SpatialReflectionPadding", {f"pad_{side}": layer.padding[0] for side in "lrtb"})
        case nn.ConvTranspose2d():
            return Lua("nn.SpatialFullConvolution", {**held, **_sizes(layer), "adjW": 1, "adjH": 1})
        case nn.Conv2d():
            return Lua("nn.SpatialConvolution", {**held, **_sizes(layer)})
        case nn.InstanceNorm2d():
            return Lua("nn.InstanceNormalization", {**held, "eps": layer.eps, "nOutput": layer.num_features})
        case nn.BatchNorm2d():
            del held["num_batches_tracked"]
            return Lua("nn.SpatialBatchNormalization", {**held, "eps": layer.eps, "affine": True})
        case nn.ReLU():
            return Lua("nn.ReLU", {"inplace": True, "threshold": 0})
        case nn.Upsample():
            return Lua("nn.SpatialUpSamplingNearest", {"scale_factor": 2})
        case Shaved():
            assert isinstance(layer.inner, nn.Sequential)
            inner = Lua("nn.Sequential", {"modules": _modules(layer.inner)})
            skip = Lua("nn.ShaveImage", {"size": layer.crop}) if layer.crop else Lua("nn.Identity", {})
            both = Lua("nn.ConcatTable", {"modules": [inner, skip]})
            return Lua("nn.Sequential", {"modules": [both, Lua("nn.CAddTable", {})]})
    raise TypeError(type(layer))


def _sizes(layer: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, int]:
    told = {"k": layer.kernel_size[0], "d": layer.stride[0], "pad": int(layer.padding[0])}
    sizes = {f"{name}{axis}": value for name, value in told.items() for axis in "WH"}
    return {**sizes, "nInputPlane": layer.in_channels, "nOutputPlane": layer.out_channels}
