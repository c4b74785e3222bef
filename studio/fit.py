"""A new style on the trained stylizer, from one picture: its vector alone is learnt, the network stays as it is.

python -m studio.fit vector PICTURE --name N --out F --perceptual SQUEEZENET.npz
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from impasto_fit.pictures import unit
from studio.gallery.crops import Crops
from studio.gallery.packages import PackageError, fetch
from studio.gallery.photographs import HELD_OUT, photographs, shrunk
from studio.gallery.styles import scaled
from impasto_fit.pixels.lesson import Lesson, Teacher
from impasto_fit.nets.perceptual import Perceptual
from impasto_fit.nets.precision import half_precision
from studio.nets.predictor import SIDE
from studio.nets.stylizer import Stylizer
from studio.nets.stylizer_files import StyleFacts, digest, load_stylizer, save_vector
from studio.painter import Bytes
from studio.places import STYLIZER
from studio.training.loop import Budget, Loop
from studio.training.optimisers import Optimisers

RATE = 5e-2
CROP = 224  # px
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def embedded(folder: Path, picture: Bytes) -> Tensor:
    """The predictor's embedding [1, 100] of the picture's middle square."""
    side = min(picture.shape[:2])
    y, x = ((length - side) // 2 for length in picture.shape[:2])
    square = unit(picture[y : y + side, x : x + side])
    small = F.interpolate(square, SIDE, mode="bicubic", antialias=True).clamp(0, 1)
    session = onnxruntime.InferenceSession(folder / "predictor.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"picture": small.numpy()})[0])


@dataclass(frozen=True)
class Fit:
    """One style in training, in the eyes of `teacher`, on crops of photographs."""

    network: Stylizer
    teacher: Teacher
    crops: Crops
    batch: int

    def vector(self, lesson: Lesson, start: Tensor, budget: Budget) -> tuple[Tensor, list[float]]:
        """The vector [N] that was found from `start` [N], and the losses on the way."""
        vector = nn.Parameter(start.clone())
        loop = Loop("vector", budget, Optimisers(torch.optim.Adam([vector], RATE, (0.9, 0.99))), warmup=5)
        loop.run(lambda: self._loss(vector, lesson))
        return vector.detach(), loop.losses

    def _loss(self, vector: Tensor, lesson: Lesson) -> Tensor:
        photo = self.crops.draw(self.batch, CROP).to(memory_format=torch.channels_last)
        with half_precision("cpu"):
            painted = self.network(photo, vector.expand(self.batch, -1))
        return self.teacher.loss(painted, photo, [lesson] * self.batch, self.crops.rng).mean()


def photographs_of(folder: Path | None) -> list[Bytes]:
    """Those of a folder, or of the packages.

    Raises:
        PackageError: there are none.
    """
    if folder is None:
        return [photo for name, photo in photographs(fetch()).items() if name not in HELD_OUT]
    found = [shrunk(path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in ENDINGS]
    if not found:
        raise PackageError(f"--photos: no {', '.join(ENDINGS)} under {folder}; give a folder of photographs")
    return found


def fit(options: argparse.Namespace) -> None:
    network = load_stylizer(options.network)
    photos = photographs_of(options.photos)
    teacher = Teacher.of(Perceptual.load(options.perceptual), photos[:12])
    picture = scaled(np.asarray(Image.open(options.picture).convert("RGB")))
    start = network.expanded(embedded(options.network, picture))[0]
    task = Fit(network, teacher, Crops(photos, np.random.default_rng(options.seed)), options.batch)
    vector, losses = task.vector(teacher.lesson(picture), start, Budget(options.steps, options.minutes))
    facts = StyleFacts(options.name, options.title or options.picture.stem, options.licence, digest(options.network))
    save_vector(options.out, vector, facts)
    print(f"{options.out}: {len(losses)} steps, loss {np.mean(losses[:10]):.2f} to {np.mean(losses[-10:]):.2f}")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studio.fit", description=__doc__)
    vector = parser.add_subparsers(required=True, metavar="WHAT").add_parser("vector", help="a style from one picture")
    vector.add_argument("picture", type=Path)
    vector.add_argument("--name", required=True)
    vector.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    vector.add_argument("--title", help="who painted what, for the file")
    vector.add_argument("--licence", default="unknown", help="the picture's, for the file")
    vector.add_argument("--network", type=Path, default=STYLIZER, help="the stylizer's folder")
    vector.add_argument("--photos", type=Path, help="a folder to paint from; the packages' photographs otherwise")
    vector.add_argument("--perceptual", type=Path, required=True, help="SqueezeNet 1.0 as an .npz of arrays")
    vector.add_argument("--steps", type=int, default=150)
    vector.add_argument("--minutes", type=float, default=5.0)
    vector.add_argument("--batch", type=int, default=4)
    vector.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    fit(arguments().parse_args())
