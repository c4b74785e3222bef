"""Small CLIPs and nets that the tests of text recipes share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from impasto_export.feedforward.found import Predictor
from impasto_fit.pictures import Picture
from impasto_fit.text import trunk
from impasto_fit.text.ghiasi import Ghiasi
from impasto_fit.text.prior import Prior
from impasto_fit.text.texture import TextureClip
from tests.helpers import cut_nets

MINI = Path(__file__).parents[4] / "studio/mini-clip"
NUMBERS = 6  # of an embedding


def seeing(*words: str) -> TextureClip:
    """Random towers that know these words."""
    torch.manual_seed(7)
    return TextureClip(words).eval().requires_grad_(False)


def photo(seed: int = 0, side: int = 40) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)


def ghiasi(predictor: Predictor | None = None) -> Ghiasi:
    """A trunk of a few channels whose styles are embeddings of six numbers."""
    net = cut_nets.trunk()
    draw = torch.Generator().manual_seed(2)
    weight = torch.randn((net.vector_size, NUMBERS), generator=draw) * 0.3
    bias = torch.from_numpy(cut_nets.style(net))
    return Ghiasi(net, trunk.tensors(net), weight, bias, predictor, net.digest)


def prior() -> Prior:
    return Prior.of(torch.randn((20, NUMBERS), generator=torch.Generator().manual_seed(3)))
