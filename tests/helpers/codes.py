"""When a picture's tokens are right: a token is the codebook's vector that is nearest to a latent, which is rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LATENTS = 1e-4  # relative, what graphs are allowed


@torch.no_grad()
def assert_nearest(found: NDArray[np.int64], vqvae: Any, image: Tensor, where: NDArray[np.bool_] | None = None) -> None:
    """`found` [n, h, w] of `image` [n, 3, H, W] in 0 to 1 are the model's own tokens, `where` bool [n, h, w] says so.

    Of two vectors either is right where a latent that is off by LATENTS has the other one nearer: moving z by d moves
    the difference of two squared distances by 2 d · (a - b).
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
