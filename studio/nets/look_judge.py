"""A separate judge of looks: a small classifier that has nothing in common with texture-clip but the looks' names.

It sees pictures once, at 64 px, through plain convolutions; it was trained on other pictures, from other seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 64  # px
WIDTHS = (3, 24, 48, 96, 128)


class LookJudge(nn.Module):
    """[n, 3, H, W] in 0..1 to logits [n, looks]; `names` are the looks'."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        layers: list[nn.Module] = []
        for into, out in pairwise(WIDTHS):
            layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(2 * WIDTHS[-1], len(names))

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.shape[2:] != (SIDE, SIDE):
            pictures = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
        marks = self.trunk(pictures * 2 - 1)
        logits: Tensor = self.head(torch.cat([marks.mean((2, 3)), marks.amax((2, 3))], 1))
        return logits

    @torch.no_grad()
    def share(self, pictures: Tensor, name: str) -> float:
        """How many of the pictures are named so, 0..1."""
        return float((self(pictures).argmax(1) == self.names.index(name)).float().mean())


def save(folder: Path, judge: LookJudge) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.json").write_text(json.dumps({"looks": judge.names}, indent=1) + "\n", encoding="utf-8")
    state = {name: value for name, value in judge.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file({name: value.half().contiguous() for name, value in state.items()}, folder / "judge.safetensors")


def load(folder: Path) -> LookJudge:
    judge = LookJudge(json.loads((folder / "labels.json").read_text(encoding="utf-8"))["looks"])
    state = {name: value.float() for name, value in load_file(folder / "judge.safetensors").items()}
    counters = {name for name in judge.state_dict() if name.endswith("num_batches_tracked")}
    judge.load_state_dict(state | {name: torch.tensor(0) for name in counters})
    return judge.eval().requires_grad_(False)
