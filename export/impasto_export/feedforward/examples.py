"""Read nets of pytorch/examples' fast_neural_style: reflection padding, nearest upsampling, an instance norm after all
convolutions but the last; RGB 0–255 in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from impasto_export.feedforward import fit
from impasto_export.feedforward.fit import STATISTICS, Shape
from impasto_export.feedforward.found import Found, Said
from impasto_export.feedforward.net import Array, Block, Conv, Input, Net, Norm, Output, Residual
from impasto_export.feedforward.source import Source

LAYOUT = "pytorch/examples' fast_neural_style"
MARKS = ("conv1.conv2d.weight", "deconv1.conv2d.weight")
BLOCK = re.compile(r"res(\d+)\.")
NORM = Norm("instance", 1e-5)
WHITE = 255.0
# More than any net has: a large number in a name must not make us look for a million blocks.
MAX_BLOCKS = 64
# Convs in the order they run, each with its norm; the last has none.
CONTRACTING = {"conv1": "in1", "conv2": "in2", "conv3": "in3"}
EXPANDING = {"deconv1": "in4", "deconv2": "in5"}
LAST = "deconv3"
TOLD = {
    "padding": "reflect",
    "norm": "instance, of each picture, epsilon 1e-05",
    "upsampling": "nearest",
    "input": "RGB 0-255",
    "output": "RGB 0-255, clipped",
}


def recognises(source: Source) -> bool:
    return any(name in source.shapes for name in MARKS)


def read(source: Source, said: Said) -> Found:
    """The net. Raises MisfitCheckpoint for names or shapes that are not this layout's."""
    said.only(source)
    norms = _norms(source)
    fit.check(source, LAYOUT, dict(_wanted(source, norms)), STATISTICS)
    net = Net(
        "pytorch-examples",
        Input(scale=WHITE),
        0,
        _blocks(len(norms) - len(CONTRACTING) - len(EXPANDING)),
        Output(white=WHITE),
        dict(_tensors(source, norms)),
    )
    told = {fact: f"{value} ({LAYOUT})" for fact, value in TOLD.items()}
    if any(name.endswith(STATISTICS) for name in source.shapes):
        told["statistics"] = "those in the file were dropped, as its instance norms take each picture's own"
    return Found(source.name, net, told)


def _norms(source: Source) -> dict[str, str]:
    last = max((int(match[1]) for name in source.shapes if (match := BLOCK.match(name))), default=0)
    blocks = range(1, min(last, MAX_BLOCKS) + 1)
    residual = {f"res{number}.conv{half}": f"res{number}.in{half}" for number in blocks for half in (1, 2)}
    return {**CONTRACTING, **residual, **EXPANDING}


def _wanted(source: Source, norms: Mapping[str, str]) -> Iterator[tuple[str, Shape]]:
    into = 3
    for name, norm in norms.items():
        # A residual's branch is as wide as its input.
        wide = into if name.startswith("res") else fit.outputs(source, f"{name}.conv2d.weight")
        kernel = 9 if name == "conv1" else 3
        yield f"{name}.conv2d.weight", (wide, into, kernel, kernel)
        yield from ((key, (wide,)) for key in (f"{name}.conv2d.bias", f"{norm}.weight", f"{norm}.bias"))
        into = wide
    yield from {f"{LAST}.conv2d.weight": (3, into, 9, 9), f"{LAST}.conv2d.bias": (3,)}.items()


def _tensors(source: Source, norms: Mapping[str, str]) -> Iterator[tuple[str, Array]]:
    for name in (*norms, LAST):
        yield from ((f"{name}.{part}", source.tensor(f"{name}.conv2d.{part}")) for part in ("weight", "bias"))
    for name, norm in norms.items():
        yield f"{name}.scale", source.tensor(f"{norm}.weight")
        yield f"{name}.shift", source.tensor(f"{norm}.bias")


def _blocks(halves: int) -> tuple[Block, ...]:
    return (
        Conv("conv1", norm=NORM),
        Conv("conv2", 2, norm=NORM),
        Conv("conv3", 2, norm=NORM),
        *(
            Residual(Conv(f"res{number}.conv1", norm=NORM), Conv(f"res{number}.conv2", norm=NORM, activation="none"))
            for number in range(1, halves // 2 + 1)
        ),
        Conv("deconv1", upsampling="nearest", norm=NORM),
        Conv("deconv2", upsampling="nearest", norm=NORM),
        Conv(LAST, activation="none"),
    )
