"""Quilting: a cut is the cheapest path, blocks come from the picture and join, and only plain ones are taken."""

from __future__ import annotations

import numpy as np
import pytest
from studio.recipes.quilt import before_the_cut, quilted

SIDE = 12


def stripes(height: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Upright, four pixels apart: an overlap of a third of a block has one."""
    return np.repeat((np.arange(width) % 4 < 2)[None], height, 0).astype(np.float32)


def test_the_cut_is_the_cheapest_path() -> None:
    costs = np.full((5, 5), 9, np.float32)
    for row, column in enumerate([2, 3, 2, 1, 0]):
        costs[row, column] = 0
    assert before_the_cut(costs).sum(1).tolist() == [2, 3, 2, 1, 0]


def test_a_cut_moves_by_one_column_a_row() -> None:
    costs = np.full((2, 5), 5, np.float32)
    costs[0, 0] = costs[1, 4] = 0  # too far apart to be joined
    left = before_the_cut(costs).sum(1)
    assert abs(int(left[0]) - int(left[1])) <= 1


def test_a_regular_picture_goes_on_regularly() -> None:
    marks = stripes(64, 64)
    tone = np.zeros_like(marks)
    laid = quilted(
        marks, tone, np.ones_like(marks, bool), np.zeros((96, 96), np.float32), SIDE, np.random.default_rng(0)
    )
    assert laid.shape == (96, 96)
    assert set(np.unique(laid)) <= {0, 1}
    begins = np.flatnonzero(np.diff(laid[40]) == 1)
    assert set(np.diff(begins)) == {4}


def test_blocks_are_taken_from_plain_places_alone() -> None:
    marks, plain = np.zeros((64, 64), np.float32), np.ones((64, 64), bool)
    marks[:, 32:], plain[:, 32:] = 1, False
    wanted = np.zeros((48, 48), np.float32)
    laid = quilted(marks, np.zeros_like(marks), plain, wanted, SIDE, np.random.default_rng(0))
    assert laid.mean() < 0.1
    with pytest.raises(ValueError, match="choose a smaller block"):
        quilted(marks, marks, np.zeros_like(plain), wanted, SIDE, np.random.default_rng(0))


def test_blocks_have_the_tone_that_is_wanted() -> None:
    ramp = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None], 64, 0)
    wanted = np.repeat(np.linspace(1, 0, 64, dtype=np.float32)[None], 64, 0)
    laid = quilted(0.01 * ramp, ramp, np.ones_like(ramp, bool), wanted, SIDE, np.random.default_rng(0))
    assert laid[:, :16].mean() > laid[:, -16:].mean() + 0.004
