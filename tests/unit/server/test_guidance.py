from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from impasto_server.guidance import Lane, Mix, classifier_free, combine

STYLE = Mix.of([("digest", 0.9)])


def test_classifier_free_is_two_lanes_with_the_papers_coefficients() -> None:
    guidance = classifier_free("a boat", "blurry", STYLE, 5.0)
    assert guidance.lanes == (Lane("blurry", STYLE), Lane("a boat", STYLE))
    assert guidance.coefficients == (-4.0, 5.0)


def test_a_lane_that_cannot_matter_is_not_run() -> None:
    assert classifier_free("a boat", "", STYLE, 1.0).lanes == (Lane("a boat", STYLE),)
    assert classifier_free("a boat", "", STYLE, 0.0).lanes == (Lane("", STYLE),)


@given(st.floats(0, 50), st.integers(0, 1000))
def test_combining_equals_the_formula_in_float64(scale: float, seed: int) -> None:
    null, cond = np.random.default_rng(seed).standard_normal((2, 4, 3, 3))
    guidance = classifier_free("cond", "null", Mix(), scale)
    by_prompt = {"null": null, "cond": cond}
    outputs = np.stack([by_prompt[lane.prompt] for lane in guidance.lanes]).astype(np.float32)
    expected = null + scale * (cond - null)
    np.testing.assert_allclose(combine(guidance.coefficients, outputs), expected, atol=1e-6 * (1 + scale) * 8)


def test_a_mix_is_the_same_in_any_order_and_without_zeros() -> None:
    assert Mix.of([("b", 1.0), ("a", 0.5), ("c", 0.0)]) == Mix.of([("a", 0.5), ("b", 1.0)])
