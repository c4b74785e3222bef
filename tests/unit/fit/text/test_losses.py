"""CLIPstyler's losses, each against a naive one in float64 that reads like the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from impasto_fit.text import losses

Row = NDArray[np.float64]


def unit(row: Row) -> Row:
    return row / math.sqrt(float((row * row).sum()))


def naive_directional(found: Row, start: Row, wanted: Row) -> float:
    return 1 - float(unit(found - start) @ wanted)


def naive_patches(found: Row, start: Row, wanted: Row, slack: float) -> float:
    total = 0.0
    for patch in found:
        away = naive_directional(patch, start, wanted)
        total += 0.0 if away <= slack else away
    return total / len(found)


def naive_variation(picture: Row) -> float:
    """[3, H, W]: pixel by pixel."""
    channels, height, width = picture.shape
    total = 0.0
    for dy, dx in ((0, 1), (1, 0), (-1, 1), (1, 1)):
        squares = 0.0
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        squares += (picture[c, y, x] - picture[c, y + dy, x + dx]) ** 2
        total += math.sqrt(squares)
    return total


@pytest.fixture
def rows() -> Row:
    drawn = np.random.default_rng(3).standard_normal((8, 6))
    return np.stack([unit(row) for row in drawn])


def test_the_directional_loss(rows: Row) -> None:
    start, wanted, found = rows[0], rows[1], rows[2:]
    got = losses.directional(*map(torch.from_numpy, (found, start[None], wanted)))
    assert got.tolist() == pytest.approx([naive_directional(row, start, wanted) for row in found], abs=1e-12)


def test_a_move_in_the_wanted_direction_costs_nothing(rows: Row) -> None:
    start = torch.from_numpy(rows[:1])
    wanted = torch.from_numpy(rows[1])
    assert losses.directional(start + 0.3 * wanted, start, wanted).item() == pytest.approx(0, abs=1e-12)
    assert losses.directional(start - 0.3 * wanted, start, wanted).item() == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("slack", [0.0, 0.7, 1.1, 2.0])
def test_patches_that_have_learnt_enough_cost_nothing(rows: Row, slack: float) -> None:
    start, wanted, found = rows[0], rows[1], rows[2:]
    got = losses.patches(torch.from_numpy(found), torch.from_numpy(start[None]), torch.from_numpy(wanted), slack)
    assert got.item() == pytest.approx(naive_patches(found, start, wanted, slack), abs=1e-12)


def test_the_slack_is_the_papers() -> None:
    assert losses.SLACK == 0.7


def test_the_four_norms_of_smoothness() -> None:
    pictures = np.random.default_rng(5).random((2, 3, 4, 5))
    wanted = np.mean([naive_variation(picture) for picture in pictures])
    assert losses.variation(torch.from_numpy(pictures)).item() == pytest.approx(wanted, abs=1e-12)
