"""What is read in a painted picture: the asked look, by two readers that share nothing; the photograph's edges."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from studio.gallery.looks.names import LOOKS
from studio.nets.look_judge import LookJudge
from torch import Tensor
from torch.nn import functional as F

from impasto_fit.pictures import Picture, unit
from impasto_fit.text.texture import TextureClip

CUT = 128  # px: both readers learnt from pictures of this size
NEAR = 2  # px: how far an edge may lie from where it was
LOW, HIGH = 60, 160  # Canny's thresholds


@dataclass(frozen=True)
class Reading:
    """Whether each reader names the asked look, and F1 of the edges, 0..1."""

    clip: bool
    judge: bool
    edges: float


@dataclass(frozen=True)
class Readers:
    """Each names one of all looks, from the sum over cuts of a picture."""

    clip: TextureClip
    judge: LookJudge

    @torch.no_grad()
    def read(self, painted: Picture, photo: Picture, look: str) -> Reading:
        pictures = cuts(painted)
        names = [one.name for one in LOOKS]
        cosines = (self.clip.see(pictures) @ self.clip.hear(names).T).mean(0)
        logits = self.judge(pictures).softmax(1).mean(0)
        named = self.judge.names[int(logits.argmax())]
        return Reading(names[int(cosines.argmax())] == look, named == look, edge_f1(painted, photo))


def cuts(picture: Picture) -> Tensor:
    """Nine squares of 128 px in three rows, [9, 3, 128, 128]; a smaller picture is enlarged first."""
    pixels = unit(picture)
    short = min(pixels.shape[2:])
    if short < CUT:
        pixels = F.interpolate(pixels, scale_factor=CUT / short, mode="bilinear", recompute_scale_factor=True)
    height, width = (length - CUT for length in pixels.shape[2:])
    rows = [(round(height * i / 2), round(width * j / 2)) for i in range(3) for j in range(3)]
    return torch.cat([pixels[..., y : y + CUT, x : x + CUT] for y, x in rows])


def edges(picture: Picture) -> NDArray[np.bool_]:
    """Canny's edges of a picture that was softened, so that grain has none."""
    soft = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.5)
    return np.asarray(cv2.Canny(soft, LOW, HIGH) > 0)


def edge_f1(painted: Picture, photo: Picture) -> float:
    """The harmonic mean of precision and recall of edges, each found again within 2 px."""
    found, wanted = edges(painted), edges(photo)
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision, recall = (found & _wider(wanted)).sum() / found.sum(), (wanted & _wider(found)).sum() / wanted.sum()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _wider(lines: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(cv2.dilate(lines.astype(np.uint8), np.ones((2 * NEAR + 1,) * 2, np.uint8)) > 0)
