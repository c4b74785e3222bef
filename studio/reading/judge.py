"""The judge: a small CNN that names the object, the colour and the style of a picture, or says `unclear`.

It looks twice. From afar, 64 px, it sees what is painted and in which colour; from near, 128 px, whether the style's
marks are there: in a picture of 64 px a dot of stipple and a blot are the same. Used only to measure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from studio.painter import Bytes, Scene
from studio.pictures import to_tensor
from studio.places import HERE

JUDGE = HERE / "judge"
SIDE = 128
FAR_SIDE = 64
FAR_WIDTHS = (24, 48, 96, 128)
NEAR_WIDTHS = (24, 32, 64, 96)
UNCLEAR = "unclear"  # no object that could be named; no style whose marks are there
IGNORED = -100  # a target that isn't learnt


@dataclass(frozen=True)
class Reading:
    """Names of the painter's; the object and the style may be `UNCLEAR`."""

    object: str
    colour: str
    style: str


@dataclass(frozen=True)
class Labels:
    """The names behind each head's logits, `UNCLEAR` the last of objects and styles."""

    objects: tuple[str, ...]
    colours: tuple[str, ...]
    styles: tuple[str, ...]

    def targets(self, scenes: Sequence[Scene | Reading]) -> Tensor:
        """int64 [N, 3]; `IGNORED` where a name isn't one of ours."""
        rows = [
            (_place(self.objects, s.object), _place(self.colours, s.colour), _place(self.styles, s.style))
            for s in scenes
        ]
        return torch.tensor(rows)


def _place(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else IGNORED


@dataclass(frozen=True)
class Doubt:
    """How likely an object and a style must be at least to be named."""

    object: float
    style: float


def _block(into: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]


class Network(nn.Module):
    """float [N, 3, 128, 128] in -1..1 to logits of objects, colours and styles."""

    def __init__(self, objects: int, colours: int, styles: int) -> None:
        super().__init__()
        far: list[nn.Module] = []
        for into, out in zip((3, *FAR_WIDTHS), (*FAR_WIDTHS, FAR_WIDTHS[-1]), strict=True):
            far += _block(into, out)
        self.trunk = nn.Sequential(*far, nn.Flatten(), nn.Dropout(0.2))
        first = NEAR_WIDTHS[0]
        near: list[nn.Module] = [nn.Conv2d(3, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
        for into, out in pairwise(NEAR_WIDTHS):
            near += _block(into, out)
        self.near = nn.Sequential(*near)
        seen = FAR_WIDTHS[-1] * (FAR_SIDE // 32) ** 2
        self.heads = nn.ModuleList([nn.Linear(seen, objects), nn.Linear(seen, colours)])
        self.style = nn.Linear(seen + 2 * NEAR_WIDTHS[-1], styles)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        far, marks = self.trunk(F.adaptive_avg_pool2d(pixels, FAR_SIDE)), self.near(pixels)
        near = torch.cat([marks.mean((2, 3)), marks.amax((2, 3))], 1)  # wherever they are
        return (*(head(far) for head in self.heads), self.style(torch.cat([far, near], 1)))


@dataclass(frozen=True)
class Judge:
    labels: Labels
    network: Network
    doubt: Doubt

    @classmethod
    def load(cls, path: Path = JUDGE) -> Judge:
        facts = json.loads((path / "labels.json").read_text())
        doubt = Doubt(**facts.pop("doubt"))
        labels = Labels(**{head: tuple(values) for head, values in facts.items()})
        network = Network(*(len(row) for row in astuple(labels)))
        network.half().load_state_dict(load_file(path / "judge.safetensors"))
        return cls(labels, network.float().eval(), doubt)

    def save(self, path: Path = JUDGE) -> None:
        path.mkdir(parents=True, exist_ok=True)
        names = {"objects": self.labels.objects, "colours": self.labels.colours, "styles": self.labels.styles}
        doubt = {"object": self.doubt.object, "style": self.doubt.style}
        (path / "labels.json").write_text(json.dumps(names | {"doubt": doubt}, indent=2) + "\n")
        weights = {name: value.contiguous() for name, value in self.network.half().state_dict().items()}
        save_file(weights, path / "judge.safetensors")
        self.network.float()

    def read(self, images: Bytes) -> list[Reading]:
        """What each picture, uint8 [N, H, W, 3], shows."""
        objects, colours, styles = self.chances(images)
        rows = zip(
            _named(self.labels.objects, objects, self.doubt.object),
            _named(self.labels.colours, colours, 0),
            _named(self.labels.styles, styles, self.doubt.style),
            strict=True,
        )
        return [Reading(*row) for row in rows]

    @torch.no_grad()
    def chances(self, images: Bytes) -> tuple[Tensor, ...]:
        """For each head [N, names], of the picture and of its mirror image together."""
        parts = []
        for part in np.array_split(images, max(1, len(images) // 64)):
            pixels = shrink(to_tensor(part))
            both = zip(self.network(pixels), self.network(pixels.flip(3)), strict=True)
            parts.append([((one + other) / 2).softmax(1) for one, other in both])
        return tuple(torch.cat(head) for head in zip(*parts, strict=True))


def _named(names: Sequence[str], chances: Tensor, least: float) -> list[str]:
    best, which = chances.max(1)
    return [names[i] if chance >= least else UNCLEAR for chance, i in zip(best.tolist(), which.tolist(), strict=True)]


@dataclass(frozen=True)
class Verdict:
    """Shares of pictures in which the judge reads what the scene asked for."""

    object: float
    colour: float
    style: float
    count: int

    def __str__(self) -> str:
        return f"object {self.object:.1%}, colour {self.colour:.1%}, style {self.style:.1%} of {self.count}"


def verdict(readings: Sequence[Reading], scenes: Sequence[Scene]) -> Verdict:
    pairs = list(zip(readings, scenes, strict=True))

    def share(name: str) -> float:
        return float(np.mean([getattr(r, name) == getattr(s, name) for r, s in pairs]))

    return Verdict(share("object"), share("colour"), share("style"), len(pairs))


def shrink(pixels: Tensor) -> Tensor:
    """Larger pictures are averaged to 128 px."""
    return pixels if pixels.shape[-1] == SIDE else F.adaptive_avg_pool2d(pixels, SIDE)
