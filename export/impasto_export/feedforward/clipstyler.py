"""Read CLIPstyler's U-Net: 4×4 convolutions of stride 2 down, bilinear up, zero padding, instance norms without
weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from impasto_export.feedforward import fit
from impasto_export.feedforward.fit import Shape
from impasto_export.feedforward.found import Found, Said
from impasto_export.feedforward.net import Array, Block, Conv, Input, Join, Keep, Net, Norm, Output, Residual
from impasto_export.feedforward.source import Source

LAYOUT = "CLIPstyler's U-Net"
MARKS = ("conv_init.weight", "down1.downsample.weight", "conv_fin.weight")
NORM = Norm("instance", 1e-5)
CONTRAST = 1.5
LEVELS = 3
TOLD = {
    "padding": "zero",
    "norm": "instance, of each picture, without weights, epsilon 1e-05",
    "upsampling": "bilinear",
    "input": "RGB 0-1",
    "output": f"sigmoid, RGB 0-1, contrast * {CONTRAST}",
}


def recognises(source: Source) -> bool:
    return sum(name in source.shapes for name in MARKS) > 1


def read(source: Source, said: Said) -> Found:
    """The net. Raises MisfitCheckpoint for names or shapes that are not this layout's."""
    said.only(source)
    wanted = shapes(fit.outputs(source, MARKS[0]))
    fit.check(source, LAYOUT, wanted)
    net = of({name: source.tensor(name) for name in wanted})
    return Found(source.name, net, {fact: f"{value} ({LAYOUT})" for fact, value in TOLD.items()})


def of(tensors: Mapping[str, Array]) -> Net:
    """The net of these tensors, which have the names and shapes of `shapes`."""
    return Net("clipstyler", Input(), 0, tuple(_blocks()), Output("sigmoid", contrast=CONTRAST), tensors)


def shapes(width: int) -> dict[str, Shape]:
    """Names and shapes of the tensors of a net this wide at full size."""
    return dict(_wanted(width))


def _wanted(width: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of the tensors. `width` is the channels at full size; each level below the first has twice as
    many as the one above."""
    wide = [width * 2**level for level in range(LEVELS + 1)]
    yield from _conv("conv_init", width, 3, 1)
    yield from _unit("init", width, width)
    for level in range(1, LEVELS + 1):
        yield from _unit(f"down{level}", wide[max(level - 2, 0)], wide[level - 1])
        yield from _conv(f"down{level}.downsample", wide[level - 1], wide[level - 1], 4)
        yield from _unit(f"up{level}", wide[level] + wide[level - 1], wide[level - 1])
    yield from _unit("encoding", wide[LEVELS - 1], wide[LEVELS])
    yield from _unit("out", 2 * width, width)
    yield from _conv("conv_fin", 3, width, 1)


def _unit(name: str, into: int, out: int) -> Iterator[tuple[str, Shape]]:
    yield from _conv(f"{name}.conv.0", out, into, 3)
    yield from _conv(f"{name}.conv.3", out, out, 3)
    yield from _conv(f"{name}.skip", out, into, 1)


def _conv(name: str, out: int, into: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, into, kernel, kernel)
    yield f"{name}.bias", (out,)


def _blocks() -> Iterator[Block]:
    yield _plain("conv_init")
    yield _ran("init")
    yield Keep("init")
    for level in range(1, LEVELS + 1):
        yield _ran(f"down{level}")
        yield Keep(f"down{level}")
        yield Conv(f"down{level}.downsample", 2, "same", activation="none")
    yield _ran("encoding")
    for level in range(LEVELS, 0, -1):
        yield Join(f"down{level}")
        yield _ran(f"up{level}")
    yield Join("init", smaller=False)
    yield _ran("out")
    yield _plain("conv_fin")


def _ran(name: str) -> Residual:
    first, second = (Conv(f"{name}.conv.{at}", padding="zero", norm=NORM) for at in (0, 3))
    return Residual(first, second, _plain(f"{name}.skip"))


def _plain(name: str) -> Conv:
    return Conv(name, padding="valid", activation="none")
