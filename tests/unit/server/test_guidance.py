from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from impasto_server.guidance import (
    ClassifierFree,
    DreamStyler,
    Guidance,
    Lane,
    Mix,
    Mixes,
    Prompts,
    Text,
    combine,
    dreamstyler_code,
)

MIX = Mix.of([("digest", 0.9)])
MIXES = Mixes(MIX)
FULL, NULL, CONTEXT, STYLE = (
    Text.of(words) for words in ("a boat in <neon> style", "blurry", "a boat", "<neon> style")
)
SAID = Prompts(FULL, NULL, CONTEXT, STYLE)
STRENGTH = st.floats(-50, 50)


def guided(guidance: Guidance, predictions: dict[Text, NDArray[np.float64]]) -> NDArray[np.float64]:
    """In float64, so that what is compared is the coefficients."""
    lanes = np.stack([predictions[lane.text] for lane in guidance.lanes])
    return np.tensordot(np.array(guidance.coefficients), lanes, axes=1)


def predictions(seed: int) -> dict[Text, NDArray[np.float64]]:
    drawn = np.random.default_rng(seed).standard_normal((4, 4, 3, 3))
    return dict(zip((FULL, NULL, CONTEXT, STYLE), drawn, strict=True))


def test_classifier_free_is_two_lanes_with_the_papers_coefficients() -> None:
    guidance = ClassifierFree(5.0)(SAID, MIXES)
    assert guidance.lanes == (Lane(NULL, MIX), Lane(FULL, MIX))
    assert guidance.coefficients == (-4.0, 5.0)


def test_a_lane_that_cannot_matter_is_not_run() -> None:
    assert ClassifierFree(1.0)(SAID, MIXES).lanes == (Lane(FULL, MIX),)
    assert DreamStyler(5.0, 3.0, 3.0)(SAID, MIXES).lanes == (Lane(NULL, MIX), Lane(FULL, MIX))


def test_one_lane_is_run_even_if_none_matters() -> None:
    assert len(Guidance.over((0.0, 0.0, Lane(NULL, MIX)), (0.0, 0.0, Lane(FULL, MIX))).lanes) == 1


@given(st.floats(0, 50), st.integers(0, 1000))
def test_combining_equals_the_formula_in_float64(scale: float, seed: int) -> None:
    given_ = predictions(seed)
    guidance = ClassifierFree(scale)(SAID, Mixes())
    outputs = [given_[lane.text].astype(np.float32) for lane in guidance.lanes]
    expected = given_[NULL] + scale * (given_[FULL] - given_[NULL])
    np.testing.assert_allclose(combine(guidance.coefficients, outputs), expected, atol=1e-6 * (1 + scale) * 8)


def equation_11(
    found: dict[Text, NDArray[np.float64]], scale: float, style: float, content: float
) -> NDArray[np.float64]:
    """As the paper writes it, term by term."""
    null, v, v_c, v_s = found[NULL], found[FULL], found[CONTEXT], found[STYLE]
    guided = null + scale * (v - null)
    guided += content * (v_c - null) + style * (v - v_c) + style * (v_s - null) + content * (v - v_s)
    return guided


@given(STRENGTH, STRENGTH, STRENGTH, st.integers(0, 1000))
def test_dreamstyler_is_equation_11(scale: float, style: float, content: float, seed: int) -> None:
    drawn = predictions(seed)
    expected = equation_11(drawn, scale, style, content)
    np.testing.assert_allclose(guided(DreamStyler(scale, style, content)(SAID, MIXES), drawn), expected, atol=1e-10)


@given(STRENGTH, STRENGTH, st.integers(0, 1000))
def test_the_published_code_halves_the_style_and_content_terms(style: float, content: float, seed: int) -> None:
    drawn = predictions(seed)
    expected = equation_11(drawn, 5.0, style / 2, content / 2)
    np.testing.assert_allclose(guided(dreamstyler_code(5.0, style, content)(SAID, MIXES), drawn), expected, atol=1e-10)


@given(STRENGTH)
def test_without_style_and_content_strengths_dreamstyler_is_classifier_free(scale: float) -> None:
    """λs = λc = 0 leaves null + λn(v - null): the same lanes, the same coefficients."""
    assert DreamStyler(scale, 0.0, 0.0)(SAID, MIXES) == ClassifierFree(scale)(SAID, MIXES)


def test_the_coefficients_of_the_papers_constants() -> None:
    guidance = DreamStyler(scale=5.0, style=0.5, content=3.0)(SAID, MIXES)
    assert [lane.text for lane in guidance.lanes] == [NULL, FULL, CONTEXT, STYLE]
    assert guidance.coefficients == pytest.approx((-7.5, 8.5, 2.5, -2.5))
    assert sum(guidance.coefficients) == pytest.approx(1.0)


def test_a_mix_is_the_same_in_any_order_and_without_zeros() -> None:
    assert Mix.of([("b", 1.0), ("a", 0.5), ("c", 0.0)]) == Mix.of([("a", 0.5), ("b", 1.0)])
