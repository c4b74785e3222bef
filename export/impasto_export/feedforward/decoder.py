"""Read CLIPstyler's fast net: vgg_normalised's encoder up to relu4_1, then a decoder; two Sequentials in two files.
Only the decoder is trained for a style; AdaIN's own decoder, of the same layout, gives the photo back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from impasto_export.errors import CheckpointError, MisfitCheckpoint
from impasto_export.feedforward import fit, source
from impasto_export.feedforward.fit import Shape
from impasto_export.feedforward.found import Found, Said
from impasto_export.feedforward.net import Array, Block, Conv, Input, Net, Output, Pool
from impasto_export.feedforward.source import Source

LAYOUT, ENCODER = "CLIPstyler's fast decoder", "vgg_normalised"
NAME = "clipstyler-fast"
CONTRAST = 1.5
# Index in the Sequential -> outputs and inputs. The encoder's first conv is 1×1 and converts RGB to VGG's input.
FIRST = 0
ENCODING = {
    FIRST: (3, 3), 2: (64, 3), 5: (64, 64), 9: (128, 64), 12: (128, 128), 16: (256, 128), 19: (256, 256),
    22: (256, 256), 25: (256, 256), 29: (512, 256),
}  # fmt: skip
POOLED = (9, 16, 29)
DECODING = {
    1: (256, 512), 5: (256, 256), 8: (256, 256), 11: (256, 256), 14: (128, 256), 18: (128, 128), 21: (64, 128),
    25: (64, 64), 28: (3, 64),
}  # fmt: skip
DOUBLED, LAST = (5, 18, 25), 28
PREFIX = "decoder"
TOLD = {
    "padding": "reflect",
    "norm": "none",
    "upsampling": "nearest",
    "input": f"RGB 0-1 ({ENCODER}'s first convolution turns it)",
    "output": f"RGB 0-1, contrast * {CONTRAST}",
}


def recognises(given: Source) -> bool:
    """Whether it has a decoder's first or last convolution: 512 inputs at 1, or 3 outputs at 28."""
    return given.shapes.get("1.weight") == (256, 512, 3, 3) or given.shapes.get("28.weight") == (3, 64, 3, 3)


def read(given: Source, said: Said) -> Found:
    """The net. Raises MisfitCheckpoint for tensors that are not the decoder's or the encoder's, CheckpointError without
    --encoder."""
    said.only(given, "encoder")
    held = tensors(given)
    if said.encoder is None:
        problem = f"it needs the encoder {ENCODER}, which isn't in the file"
        raise CheckpointError(f"{given}: {LAYOUT}; {problem}; name {ENCODER}.pth with --encoder")
    net = of({**_encoder(said.encoder), **held})
    told = {fact: f"{value} ({LAYOUT})" for fact, value in TOLD.items()}
    return Found(given.name, net, {**told, "encoder": f"{said.encoder.name}, to relu4_1 (--encoder)"})


def of(tensors: Mapping[str, Array]) -> Net:
    """The net of these tensors: `encoder.0.weight` and so on, `decoder.1.weight` and so on."""
    return Net(NAME, Input(), 0, tuple(_blocks()), Output(contrast=CONTRAST), tensors)


def tensors(given: Source) -> dict[str, Array]:
    """The decoder's tensors under the net's names. Raises MisfitCheckpoint when it is not a whole decoder."""
    fit.check(given, LAYOUT, dict(_wanted(DECODING)))
    return {f"{PREFIX}.{name}": given.tensor(name) for name in dict(_wanted(DECODING))}


def _encoder(place: Path) -> dict[str, Array]:
    """The encoder's tensors, up to relu4_1. Raises CheckpointError for another file."""
    with source.opened(place) as held:
        if held is None:
            raise CheckpointError(
                f"--encoder: {place} holds no tensors; give {ENCODER}.pth, or the same as .safetensors"
            )
        wanted = dict(_wanted(ENCODING))
        misfit = [
            f"{name}: {list(held.shapes[name])}"
            for name in wanted
            if held.shapes.get(name, wanted[name]) != wanted[name]
        ]
        missing = [name for name in wanted if name not in held.shapes]
        if misfit or missing:
            raise MisfitCheckpoint(f"--encoder: {place}", missing, misfit, [], f"{ENCODER}, an encoder of AdaIN")
        return {f"encoder.{name}": held.tensor(name) for name in wanted}


def _wanted(convs: Mapping[int, tuple[int, int]]) -> Iterator[tuple[str, Shape]]:
    for place, (out, into) in convs.items():
        kernel = 3 if (out, into) != (3, 3) else 1
        yield f"{place}.weight", (out, into, kernel, kernel)
        yield f"{place}.bias", (out,)


def _blocks() -> Iterator[Block]:
    for place in ENCODING:
        if place in POOLED:
            yield Pool()
        yield Conv(f"encoder.{place}", activation="none" if place == FIRST else "relu")
    for place in DECODING:
        yield Conv(
            f"{PREFIX}.{place}",
            upsampling="nearest" if place in DOUBLED else "none",
            activation="none" if place == LAST else "relu",
        )
