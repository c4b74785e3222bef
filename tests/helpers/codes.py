"""Check a picture's tokens: each must be the codebook vector nearest to the latent, up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LATENTS = 1e-4  # the graphs' tolerance, relative


@torch.no_grad()
def assert_nearest(found: NDArray[np.int64], vqvae: Any, image: Tensor, where: NDArray[np.bool_] | None = None) -> None:
    """Assert that `found` [n, h, w] are the model's tokens of `image` [n, 3, H, W] in 0 to 1, at least at `where` (bool
    [n, h, w]).

    Either of two vectors is accepted if an error of LATENTS in the latent z would exchange them: moving z by d changes
    the difference of the two squared distances by 2 d · (a - b).
    """
    latents = vqvae.encode(image, return_dict=False)[0]
    codes = vqvae.quantize(latents)[2][2].reshape(found.shape)
    z, book = latents.movedim(1, -1).double(), vqvae.quantize.embedding.weight.double()
    there = torch.from_numpy(found if where is None else np.where(where, found, codes))
    ours, theirs = book[there], book[codes]
    further = ((z - ours) ** 2).sum(-1) - ((z - theirs) ** 2).sum(-1)
    room = 2 * LATENTS * z.norm(dim=-1) * (ours - theirs).norm(dim=-1)
    wrong = torch.nonzero(further > room)
    assert not len(wrong), f"[picture, row, column] of tokens that aren't the nearest: {wrong.tolist()}"
