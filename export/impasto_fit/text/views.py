"""Other views of a picture, differentiable: random cuts, and cuts seen from aside."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cuts(picture: Tensor, count: int, side: int, draw: torch.Generator) -> Tensor:
    """`count` random squares of a picture [1, 3, H, W] as [count, 3, side, side]."""
    height, width = picture.shape[2:]
    tops = torch.randint(0, height - side + 1, (count,), generator=draw).tolist()
    lefts = torch.randint(0, width - side + 1, (count,), generator=draw).tolist()
    return torch.cat([picture[..., y : y + side, x : x + side] for y, x in zip(tops, lefts, strict=True)])


def aside(pictures: Tensor, distortion: float, draw: torch.Generator) -> Tensor:
    """Each of [n, 3, H, W] in a random perspective: every corner moves inward by up to `distortion` half sides; what is
    left free is black. As torchvision's RandomPerspective draws it."""
    n, _, height, width = pictures.shape
    corners = torch.tensor([[0.0, 0.0], [width - 1.0, 0.0], [width - 1.0, height - 1.0], [0.0, height - 1.0]])
    inward = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    reach = torch.tensor([width // 2, height // 2]) * distortion
    moved = corners + inward * torch.rand((n, 4, 2), generator=draw) * reach
    return warped(pictures, homographies(moved.double(), corners.double().expand(n, 4, 2)))


def homographies(towards: Tensor, start: Tensor) -> Tensor:
    """[n, 3, 3] that take the points `towards` [n, 4, 2] (x, y) to `start` [n, 4, 2], float64."""
    x, y = towards.unbind(2)
    u, v = start.unbind(2)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = torch.cat(
        [
            torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 2),
            torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 2),
        ],
        1,
    )
    found = torch.linalg.solve(rows, torch.cat([u, v], 1))
    return torch.cat([found, torch.ones_like(found[:, :1])], 1).view(-1, 3, 3)


def warped(pictures: Tensor, homography: Tensor) -> Tensor:
    """Pixel (x, y) of the result [n, 3, H, W] is the picture's at H·(x, y, 1), bilinearly, black outside."""
    n, _, height, width = pictures.shape
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    points = torch.stack([x, y, torch.ones_like(x)], 2).view(1, -1, 3)
    found = points @ homography.transpose(1, 2)
    where = found[..., :2] / found[..., 2:]
    sides = torch.tensor([width, height], dtype=torch.float64)
    grid = ((2 * where + 1) / sides - 1).view(n, height, width, 2)
    return F.grid_sample(pictures, grid.to(pictures), mode="bilinear", padding_mode="zeros", align_corners=False)
