"""Random cuts and perspectives, against pixels that are looked up one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from impasto_fit.text import views


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def looked_up(picture: Tensor, homography: Tensor) -> Tensor:
    """[C, H, W], bilinearly, one pixel after the other."""
    height, width = picture.shape[1:]
    out = torch.zeros_like(picture)
    for y in range(height):
        for x in range(width):
            u, v, w = (homography @ torch.tensor([x, y, 1.0], dtype=torch.float64)).tolist()
            u, v = u / w, v / w
            for i in (math.floor(v), math.floor(v) + 1):
                for j in (math.floor(u), math.floor(u) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        out[:, y, x] += picture[:, i, j] * (1 - abs(v - i)) * (1 - abs(u - j))
    return out


def test_cuts_are_squares_of_the_picture() -> None:
    picture = torch.arange(3 * 8 * 10).view(1, 3, 8, 10).float()
    found = views.cuts(picture, 5, 4, seeded())
    places = {picture[0, :, y : y + 4, x : x + 4].numpy().tobytes() for y in range(5) for x in range(7)}
    assert found.shape == (5, 3, 4, 4)
    assert all(row.contiguous().numpy().tobytes() in places for row in found)


def test_a_warp_looks_every_pixel_up() -> None:
    picture = torch.rand((1, 3, 6, 7), generator=seeded(), dtype=torch.float64)
    homography = torch.tensor([[0.9, 0.1, 0.3], [-0.05, 1.1, -0.4], [0.01, -0.02, 1.0]], dtype=torch.float64)
    found = views.warped(picture, homography[None])
    torch.testing.assert_close(found[0], looked_up(picture[0], homography), atol=1e-9, rtol=0)


def test_corners_go_where_they_were_sent() -> None:
    start = torch.tensor([[[0.0, 0], [7, 0], [7, 5], [0, 5]]], dtype=torch.float64)
    towards = torch.tensor([[[1.0, 1], [6, 0], [5, 4], [0, 5]]], dtype=torch.float64)
    found = torch.cat([towards, torch.ones(1, 4, 1)], 2) @ views.homographies(towards, start).transpose(1, 2)
    torch.testing.assert_close(found[..., :2] / found[..., 2:], start)


def test_without_distortion_nothing_changes() -> None:
    pictures = torch.rand((2, 3, 9, 9), generator=seeded())
    torch.testing.assert_close(views.aside(pictures, 0.0, seeded()), pictures, atol=1e-5, rtol=0)


def test_the_seed_decides_and_gradients_flow() -> None:
    pictures = torch.rand((2, 3, 9, 9), generator=seeded(), requires_grad=True)
    first, again, other = (views.aside(pictures, 0.5, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first.sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_free_is_black(seed: int) -> None:
    found = views.aside(torch.ones(1, 3, 32, 32), 0.5, seeded(seed))
    assert found.min() == 0
    assert found[..., 16, 16].min() == pytest.approx(1, abs=1e-5)
