"""Means and variances that are merged of tiles."""

from __future__ import annotations

import numpy as np

from impasto_server.families.feedforward.moments import Moments


def test_tiles_together_have_the_moments_of_the_whole() -> None:
    """Also of values that are far from zero: a channel of ten times its deviation."""
    draws = np.random.default_rng(0).standard_normal((3, 96, 80))
    values = (draws * [[[1.0]], [[0.01]], [[5.0]]] + [[[0.0]], [[0.1]], [[-50.0]]]).astype(np.float32)
    moments = Moments(3)
    for tile in (values[:, :32], values[:, 32:, :7], values[:, 32:, 7:]):
        moments.add(tile)
    scaling, exact = moments.scaling(1e-5), values.astype(np.float64)
    gain = 1 / np.sqrt(exact.var((1, 2)) + 1e-5)
    assert np.allclose(scaling.mean, exact.mean((1, 2)), rtol=1e-6, atol=1e-6)
    assert np.allclose(scaling.gain, gain, rtol=1e-5)


def test_a_norm_is_a_scale_and_a_shift() -> None:
    values = np.random.default_rng(1).standard_normal((2, 8, 8)).astype(np.float32)
    moments = Moments(2)
    moments.add(values)
    vector = np.array([9, 9, 2, 3, 10, 20, 9], np.float32)
    scale, shift = moments.scaling(0.0).with_style(vector, at=2)
    normed = values * scale[:, None, None] + shift[:, None, None]
    assert np.allclose(normed.mean((1, 2)), [10, 20], atol=1e-4)
    assert np.allclose(normed.std((1, 2)), [2, 3], rtol=1e-4)


def test_a_constant_channel_has_no_variance() -> None:
    """Rounding never makes it negative."""
    moments = Moments(1)
    for _ in range(3):
        moments.add(np.full((1, 5, 7), 1 / 3, np.float32))
    assert np.allclose(moments.scaling(0.25).gain, 2, rtol=1e-5)
