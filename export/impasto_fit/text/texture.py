"""Two small towers that know words for textures: the shape of `studio/texture-clip`, and of others like it.

The picture's tower is convolutions whose means and deviations at three sizes are what it says: how a surface is made,
wherever it is. The text's tower adds up vectors of words, each as heavily as the word matters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from impasto_fit.provenance import digest_of

FORMAT = "impasto-texture-clip"
SIDE = 96  # px
WIDTHS = (32, 64, 128, 192)
JOINT = 128
WORD = re.compile(r"\w+")
HOTTEST = 100.0  # CLIP's bound of what cosines are multiplied by


def split(text: str) -> list[str]:
    """Words in lower case; a hyphen ends one."""
    return WORD.findall(text.lower())


class Stage(nn.Module):
    """Half the size, then once more around."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(into, out, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.around = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(self.down(x)), 0.1)
        return F.leaky_relu(x + self.norm2(self.around(x)), 0.1)


class PictureTower(nn.Module):
    """[n, 3, 96, 96] in 0..1 to [n, 128]."""

    def __init__(self, widths: Sequence[int] = WIDTHS, joint: int = JOINT) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList(Stage(*pair) for pair in pairwise(widths))
        seen = 2 * (3 + sum(widths))
        self.wide = nn.Linear(seen, 2 * joint)
        self.out = nn.Linear(2 * joint, joint)
        self.level = nn.BatchNorm1d(seen)

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures * 2 - 1
        found = [x]
        x = F.leaky_relu(self.norm(self.stem(x)), 0.1)
        found.append(x)
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        means = [part.mean((2, 3)) for part in found]
        spreads = [(part.var((2, 3), unbiased=False) + 1e-4).sqrt() for part in found]
        said: Tensor = self.out(F.gelu(self.wide(self.level(torch.cat([*means, *spreads], 1)))))
        return said


class WordTower(nn.Module):
    """Numbers of words [n, T], 0 for nothing, to [n, 128]."""

    def __init__(self, words: int, joint: int = JOINT) -> None:
        super().__init__()
        self.vectors = nn.Embedding(words + 1, joint, padding_idx=0)
        self.weights = nn.Embedding(words + 1, 1, padding_idx=0)
        self.wide = nn.Linear(joint, 2 * joint)
        self.out = nn.Linear(2 * joint, joint)

    def forward(self, numbers: Tensor) -> Tensor:
        heavy = self.weights(numbers)[..., 0].exp() * (numbers > 0)
        mean = (self.vectors(numbers) * heavy[..., None]).sum(1) / heavy.sum(1, keepdim=True).clamp(min=1e-6)
        said: Tensor = mean + self.out(F.gelu(self.wide(mean)))
        return said


class TextureClip(nn.Module):
    """Both towers, and the words that are known, in the order of their numbers from 1."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.numbers = {word: number for number, word in enumerate(self.vocabulary, 1)}
        self.pictures = PictureTower()
        self.words = WordTower(len(self.vocabulary))
        self.scale = nn.Parameter(torch.tensor(2.7))  # the logarithm of what cosines are multiplied by
        self.side = SIDE
        self.digest = ""

    def numbered(self, texts: Sequence[str]) -> Tensor:
        """int64 [n, T]; words that aren't known are left out."""
        rows = [[self.numbers[word] for word in split(text) if word in self.numbers] for text in texts]
        longest = max(1, *map(len, rows)) if rows else 1
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def see(self, pictures: Tensor) -> Tensor:
        """[n, 3, H, W] in 0..1 to unit vectors [n, 128]; other sizes than 96 px are changed to it."""
        if pictures.shape[2:] != (SIDE, SIDE):
            pictures = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
        return F.normalize(self.pictures(pictures))

    def unknown(self, text: str) -> list[str]:
        """Its words that no training had, in order."""
        return [word for word in split(text) if word not in self.numbers]

    def hear(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n, 128]."""
        return F.normalize(self.words(self.numbered(texts)))


def save(folder: Path, clip: TextureClip, licence: str) -> None:
    """config.json and model.safetensors, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "license": licence, "side": SIDE, "vocabulary": clip.vocabulary}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    state = {name: value for name, value in clip.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file({name: value.half().contiguous() for name, value in state.items()}, folder / "model.safetensors")


def load(folder: Path) -> TextureClip:
    """In float32, for reading alone: norms stay as they are."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    clip = TextureClip(config["vocabulary"])
    state = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    counters = {name for name in clip.state_dict() if name.endswith("num_batches_tracked")}
    clip.load_state_dict(state | {name: torch.tensor(0) for name in counters})
    clip.digest = digest_of(folder / "model.safetensors")
    return clip.eval().requires_grad_(False)
