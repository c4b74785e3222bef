"""Read nets of lengstrom/fast-style-transfer, also from deeplearn.js and ml5. Variables are numbered, three for each
convolution: its kernel [k, k, in, out] (transposed: [k, k, out, in]), its norm's shift and scale."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from impasto_export.errors import MisfitCheckpoint
from impasto_export.feedforward.fit import Shape
from impasto_export.feedforward.found import Found, Said
from impasto_export.feedforward.net import Array, Block, Conv, Input, Net, Norm, Output, Residual
from impasto_export.feedforward.source import Source

LAYOUT = "lengstrom's fast-style-transfer"
# `Variable`, `Variable_1` …, maybe with TensorFlow's ":0" at the end; or `variable_0`, `variable_1` ….
NAME = re.compile(r"[Vv]ariable(?:_(\d+))?(?::0)?")
# The optimiser's variables, and the training's step.
SPARE = re.compile(r".*(?:Adam|beta\d_power|global_step|Momentum).*")
NORM = Norm("instance", 1e-3)
CONTRACTING, EXPANDING, EACH = 3, 3, 3
TOLD = {
    "padding": "same: zeros, as TensorFlow pads",
    "norm": "instance, of each picture, epsilon 0.001",
    "upsampling": "transposed convolution",
    "input": "RGB 0-255",
    "output": "tanh * 150 + 127.5, RGB 0-255",
}


def recognises(source: Source) -> bool:
    return bool(_numbered(source))


def read(source: Source, said: Said) -> Found:
    """The net. Raises MisfitCheckpoint for variables that are missing, unknown or of wrong shapes."""
    said.only(source)
    numbered = _numbered(source)
    convs = max(len(numbered) // EACH, CONTRACTING + EXPANDING)
    residuals = (convs - CONTRACTING - EXPANDING) // 2
    blocks = _blocks(residuals)
    names = [conv.name for conv in _convs(blocks)]
    _check(source, numbered, names)
    tensors = {
        f"{name}.{part}": source.tensor(numbered[EACH * at + offset])
        for at, name in enumerate(names)
        for offset, part in enumerate(("weight", "shift", "scale"))
    }
    output = Output("tanh", scale=150.0, offset=127.5, white=255.0)
    net = Net("lengstrom", Input(scale=255.0), 0, blocks, output, dict(_turned(tensors)))
    return Found(source.name, net, {fact: f"{value} ({LAYOUT})" for fact, value in TOLD.items()})


def _numbered(source: Source) -> dict[int, str]:
    """Number -> variable's name."""
    return {int(match[1] or 0): name for name in source.shapes if (match := NAME.fullmatch(name))}


def _blocks(residuals: int) -> tuple[Block, ...]:
    def conv(name: str, **facts: Any) -> Conv:
        return Conv(name, padding="same", norm=NORM, **facts)

    return (
        conv("conv1"),
        conv("conv2", stride=2),
        conv("conv3", stride=2),
        *(
            Residual(
                conv(f"residual.{number}.conv1"),
                Conv(f"residual.{number}.conv2", padding="same", norm=NORM, activation="none"),
            )
            for number in range(1, residuals + 1)
        ),
        Conv("expand.conv1", padding="same", upsampling="transposed", norm=NORM),
        Conv("expand.conv2", padding="same", upsampling="transposed", norm=NORM),
        Conv("expand.conv3", padding="same", norm=NORM, activation="none"),
    )


def _convs(blocks: tuple[Block, ...]) -> Iterator[Conv]:
    return iter(Net("", Input(), 0, blocks, Output(), {}).convs)


def _check(source: Source, numbered: Mapping[int, str], names: list[str]) -> None:
    wanted = dict(_wanted(source, numbered, names))
    missing = [_named(number) for number in wanted if number not in numbered]
    known = {numbered[number] for number in wanted if number in numbered}
    unused = sorted(name for name in source.shapes if name not in known and not SPARE.fullmatch(name))
    misfit = [
        f"{numbered[number]}: {list(source.shapes[numbered[number]])}, {list(shape)} is expected"
        for number, shape in wanted.items()
        if number in numbered and source.shapes[numbered[number]] != shape
    ]
    if missing or unused or misfit:
        raise MisfitCheckpoint(str(source), missing, misfit, unused, LAYOUT)


def _named(number: int) -> str:
    return f"Variable_{number}" if number else "Variable"


def _wanted(source: Source, numbered: Mapping[int, str], names: list[str]) -> Iterator[tuple[int, Shape]]:
    into = 3
    for at, name in enumerate(names):
        shape = source.shapes.get(numbered.get(EACH * at, ""), ())
        kernel = 9 if name in (names[0], names[-1]) else 3
        transposed = name in ("expand.conv1", "expand.conv2")
        wide = shape[2 if transposed else 3] if len(shape) == 4 else 1
        wide = 3 if name == names[-1] else into if name.startswith("residual") else wide
        yield EACH * at, (kernel, kernel, wide, into) if transposed else (kernel, kernel, into, wide)
        yield from ((EACH * at + offset, (wide,)) for offset in (1, 2))
        into = wide


def _turned(tensors: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """The tensors, kernels transposed to [out, in, k, k]."""
    for name, tensor in tensors.items():
        if tensor.ndim != 4:
            yield name, tensor
        elif name.startswith(("expand.conv1", "expand.conv2")):
            yield name, tensor.transpose(2, 3, 0, 1).copy()
        else:
            yield name, tensor.transpose(3, 2, 0, 1).copy()
