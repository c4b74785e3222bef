"""The judge: one small CNN that names the object, the colour and the style of a picture. Used only to measure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
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
SIDE = 64
WIDTHS = (24, 48, 96, 128)


@dataclass(frozen=True)
class Reading:
    object: str
    colour: str
    style: str


@dataclass(frozen=True)
class Labels:
    """The names behind each head's logits."""

    objects: tuple[str, ...]
    colours: tuple[str, ...]
    styles: tuple[str, ...]

    def targets(self, scenes: Sequence[Scene]) -> Tensor:
        """int64 [N, 3]."""
        rows = [
            (self.objects.index(s.object), self.colours.index(s.colour), self.styles.index(s.style)) for s in scenes
        ]
        return torch.tensor(rows)


class Network(nn.Module):
    """float [N, 3, 64, 64] in -1..1 to three rows of logits."""

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out in zip((3, *WIDTHS), (*WIDTHS, WIDTHS[-1]), strict=True):
            layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleList(nn.Linear(WIDTHS[-1] * (SIDE // 32) ** 2, n) for n in classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        seen = self.trunk(pixels)
        return tuple(head(seen) for head in self.heads)


@dataclass(frozen=True)
class Judge:
    labels: Labels
    network: Network

    @classmethod
    def load(cls, path: Path = JUDGE) -> Judge:
        names = json.loads((path / "labels.json").read_text())
        labels = Labels(**{head: tuple(values) for head, values in names.items()})
        network = Network([len(row) for row in astuple(labels)])
        network.half().load_state_dict(load_file(path / "judge.safetensors"))
        return cls(labels, network.float().eval())

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        names = {"objects": self.labels.objects, "colours": self.labels.colours, "styles": self.labels.styles}
        (path / "labels.json").write_text(json.dumps(names, indent=2) + "\n")
        save_file(self.network.half().state_dict(), path / "judge.safetensors")
        self.network.float()

    @torch.no_grad()
    def read(self, images: Bytes) -> list[Reading]:
        """What each picture, uint8 [N, H, W, 3], shows."""
        logits = [self.network(shrink(to_tensor(part))) for part in np.array_split(images, max(1, len(images) // 64))]
        heads = [torch.cat(head).argmax(1).tolist() for head in zip(*logits, strict=True)]
        names = (self.labels.objects, self.labels.colours, self.labels.styles)
        rows = zip(*([row[i] for i in best] for row, best in zip(names, heads, strict=True)), strict=True)
        return [Reading(*row) for row in rows]


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
    return F.adaptive_avg_pool2d(pixels, SIDE)
