"""mini-clip as it is read: unit rows for pictures and captions, whose products are scores, and what those find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor

from studio import painter
from studio.nets.folders import replaced
from studio.nets.tokenizer import tokenise, write_classic_files
from studio.painter import ALL_STYLES, Bytes, Scene
from studio.pictures import paint_all
from studio.places import HERE

CLIP = HERE / "mini-clip"
WORDS: tuple[tuple[str, ...], ...] = (painter.OBJECTS, painter.COLOURS, tuple(painter.BACKGROUNDS), painter.STYLES)


@dataclass(frozen=True)
class Scorer:
    """A CLIPModel in fp32 and the processor that goes with it."""

    model: CLIPModel
    processor: CLIPProcessor

    @classmethod
    def load(cls, folder: Path = CLIP) -> Scorer:
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
        return cls(model.eval(), CLIPProcessor.from_pretrained(folder))

    def save(self, folder: Path = CLIP) -> None:
        """In fp16."""
        with replaced(folder) as fresh:
            self.model.half().save_pretrained(fresh, safe_serialization=True)
            self.model.float()
            self.processor.image_processor.save_pretrained(fresh)  # preprocessor_config.json, which every version reads
            self.processor.tokenizer.save_pretrained(fresh)
            write_classic_files(fresh)

    @torch.no_grad()
    def pictures(self, images: Bytes) -> Tensor:
        """Unit rows [N, E] of pictures uint8 [N, H, W, 3]."""
        shown = [Image.fromarray(image) for image in images]
        pixels = self.processor.image_processor(shown, return_tensors="pt").pixel_values
        return F.normalize(torch.cat([self.model.get_image_features(p).pooler_output for p in pixels.split(128)]))

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        """Unit rows [N, E]."""
        tokens = tokenise(self.processor.tokenizer, list(captions))
        return F.normalize(torch.cat([self.model.get_text_features(t).pooler_output for t in tokens.split(128)]))


@dataclass(frozen=True)
class Retrieval:
    """Shares of captions whose picture is nearest, and of pictures whose caption is, averaged over `draws`."""

    pictures: float
    captions: float
    draws: int

    def __str__(self) -> str:
        return f"text to image {self.pictures:.1%}, image to text {self.captions:.1%} over {self.draws} draws"


def first_hits(cosines: Tensor) -> float:
    """The share of rows whose largest entry is the one on the diagonal."""
    return float((cosines.argmax(1) == torch.arange(len(cosines))).float().mean())


def retrieval(scorer: Scorer, draws: int = 10, among: int = 100) -> Retrieval:
    """R@1 among `among` distinct unseen captions with a picture each."""
    found = []
    for seed in range(71, 71 + draws):
        scenes = painter.unseen_scenes(among, seed)
        captions = scorer.captions([painter.caption(scene) for scene in scenes])
        cosines = captions @ scorer.pictures(paint_all(scenes)).T
        found.append((first_hits(cosines), first_hits(cosines.T)))
    pictures, back = np.mean(found, 0).tolist()
    return Retrieval(pictures, back, draws)


def reading_report(scorer: Scorer, count: int = 200) -> str:
    """For each of the four words, how often a picture is nearest to its caption among those with another such word."""
    scenes = painter.unseen_scenes(count, seed=81)
    pictures = scorer.pictures(paint_all(scenes))
    parts = []
    for place, (name, words) in enumerate(zip(("object", "colour", "background", "style"), WORDS, strict=True)):
        asked = [astuple(scene) for scene in scenes]
        others = [(*row[:place], word, *row[place + 1 :]) for row in asked for word in words]
        rows = scorer.captions([painter.caption(Scene(*row)) for row in others]).view(count, len(words), -1)
        best = torch.einsum("nwe,ne->nw", rows, pictures).argmax(1).tolist()
        hits = [words[i] == row[place] for i, row in zip(best, asked, strict=True)]
        parts.append(f"{name} {np.mean(hits):.1%}")
    return f"the right word among its kind: {', '.join(parts)} of {count} pictures"


def auc(same: NDArray[Any], other: NDArray[Any]) -> float:
    """How often one of `same` is above one of `other`."""
    return float(np.searchsorted(np.sort(other), same).mean() / len(other))


def style_report(scorer: Scorer, count: int = 32) -> list[str]:
    """A line for each held-out style: cosines of its pictures with its own and with any other style's.

    All styles paint the same `count` scenes, and only pictures of different objects are compared, so that nothing
    but the style tells the two kinds of pairs apart.
    """
    scenes = painter.training_scenes(count, seed=91)
    rows = {s: scorer.pictures(paint_all([replace(scene, style=s) for scene in scenes])) for s in ALL_STYLES}
    apart = np.array([[a.object != b.object for a in scenes] for b in scenes])
    lines = []
    for style in painter.HELD_OUT_STYLES:
        cosines = {other: (rows[style] @ rows[other].T).numpy()[apart] for other in ALL_STYLES}
        same, other = cosines.pop(style), np.concatenate(list(cosines.values()))
        means = f"cosine {same.mean():.2f} with its own, {other.mean():.2f} with others"
        lines.append(f"{style}: {means}, AUC {auc(same, other):.3f}")
    return lines


def draw_sheet(scorer: Scorer, path: Path, rows: int = 5) -> None:
    """For each of `rows` unseen captions, which are printed, the five nearest of 100 pictures, the nearest first."""
    scenes = painter.unseen_scenes(100, seed=70)
    images = paint_all(scenes)
    captions = [painter.caption(scene) for scene in scenes[:rows]]
    best = (scorer.captions(captions) @ scorer.pictures(images).T).topk(5)
    print(*captions, sep="\n")
    nearest = [images[i] for i in best.indices.flatten().tolist()]
    labels = [f"{value:.2f}" for value in best.values.flatten().tolist()]
    painter.contact_sheet(nearest, 5, labels).save(path, optimize=True)
