from __future__ import annotations

import numpy as np
import pytest
from studio.reading.psnr import MOST_DB, mean_psnr_db, psnr_db

BLACK = np.zeros((4, 4, 3), np.uint8)


def test_equal_pictures_have_the_most_and_opposite_ones_none() -> None:
    assert psnr_db(BLACK, BLACK) == MOST_DB
    assert psnr_db(BLACK, BLACK + np.uint8(255)) == pytest.approx(0, abs=1e-6)


def test_a_tenth_of_the_peak_is_twenty_decibels() -> None:
    assert psnr_db(np.full(8, 0.3), np.full(8, 0.2), peak=1) == pytest.approx(20)


def test_a_mean_is_over_pictures() -> None:
    black, other = np.stack([BLACK] * 2), np.stack([np.full_like(BLACK, 51), np.full_like(BLACK, 5)])
    assert mean_psnr_db(black, other) == pytest.approx((13.98 + 34.15) / 2, abs=0.01)
