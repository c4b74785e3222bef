from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from impasto_server.guidance import (
    ClassifierFree,
    Compose,
    DreamStyler,
    DreamStylerCode,
    Guidance,
    Lane,
    Mix,
    Mixes,
    Prompts,
    Rule,
    StyleDrop,
    Text,
    combine,
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


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_a_scale_of_1_or_less_is_no_guidance(scale: float) -> None:
    """As in diffusers, where Turbo is asked for 0; by the formula that is the negative prompt alone."""
    guidance = ClassifierFree(scale)(SAID, MIXES)
    assert (guidance.lanes, guidance.coefficients) == ((Lane(FULL, MIX),), (1.0,))


def test_a_mix_is_the_same_whoever_names_its_weights() -> None:
    assert Mix.of([("a", 0.8), ("b", 0.0)]) == Mix.of([("a", float(np.float32(0.8)))])


def test_one_lane_is_run_even_if_none_matters() -> None:
    assert len(Guidance.over((0.0, 0.0, Lane(NULL, MIX)), (0.0, 0.0, Lane(FULL, MIX))).lanes) == 1


@given(st.floats(1, 50), st.integers(0, 1000))
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
    np.testing.assert_allclose(guided(DreamStylerCode(5.0, style, content)(SAID, MIXES), drawn), expected, atol=1e-10)


@given(st.floats(1, 50))
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


# StyleDrop: t is FULL, c CONTEXT, n NULL; G is the plain backbone, Ĝs and Ĝc are the adapted ones.

STYLED, OBJECT = Mix.of([("style", 1.0)]), Mix.of([("content", 1.0)])
BOTH = Mixes(STYLED, OBJECT)
GAMMA = st.floats(0, 1)
CASES = (
    (StyleDrop(2.0, 5.0), Lane(FULL, STYLED)),
    (Compose(2.0, 5.0, 0.0), Lane(FULL, STYLED)),
    (Compose(2.0, 5.0, 1.0), Lane(CONTEXT, OBJECT)),
    (ClassifierFree(7.5), Lane(FULL, STYLED)),
    (DreamStyler(5.0, 0.5, 3.0), Lane(FULL, STYLED)),
)


def logits(seed: int) -> dict[Lane, NDArray[np.float64]]:
    """Of every text under every mix, [codes, h, w]."""
    rng = np.random.default_rng(seed)
    return {
        Lane(text, mix): rng.standard_normal((5, 3, 3))
        for text in (FULL, NULL, CONTEXT, STYLE)
        for mix in (Mix(), STYLED, OBJECT)
    }


def summed(guidance: Guidance, found: dict[Lane, NDArray[np.float64]], strength: float = 1.0) -> NDArray[np.float64]:
    return np.tensordot(guidance.at(strength), [found[lane] for lane in guidance.lanes], axes=1)


def equation_4(
    found: dict[Lane, NDArray[np.float64]], text: Text, adapted: Mix, style: float, words: float
) -> NDArray[np.float64]:
    """As the paper writes it, term by term: λA is `style`, λB `words`."""
    g_hat, g, null = found[Lane(text, adapted)], found[Lane(text, Mix())], found[Lane(NULL, Mix())]
    guided: NDArray[np.float64] = g_hat + style * (g_hat - g) + words * (g - null)
    return guided


@given(STRENGTH, STRENGTH, st.integers(0, 1000))
def test_styledrop_is_equation_4(style: float, words: float, seed: int) -> None:
    found = logits(seed)
    expected = equation_4(found, FULL, STYLED, style, words)
    np.testing.assert_allclose(summed(StyleDrop(style, words)(SAID, BOTH), found), expected, atol=1e-10)


@given(STRENGTH, STRENGTH, GAMMA, st.integers(0, 1000))
def test_compose_is_section_3_4(style: float, words: float, gamma: float, seed: int) -> None:
    """(1 - γ)·l_s + γ·l_c, either half Eq. 4 with its own adapter and prompt."""
    found = logits(seed)
    l_s = equation_4(found, FULL, STYLED, style, words)
    l_c = equation_4(found, CONTEXT, OBJECT, style, words)
    guidance = Compose(style, words, gamma)(SAID, BOTH)
    np.testing.assert_allclose(summed(guidance, found), (1 - gamma) * l_s + gamma * l_c, atol=1e-10)


@given(STRENGTH, STRENGTH)
def test_all_style_is_equation_4_and_all_content_is_too(style: float, words: float) -> None:
    """Lane for lane: γ = 0 runs nothing of the content, γ = 1 nothing of the style."""
    assert Compose(style, words, 0.0)(SAID, BOTH) == StyleDrop(style, words)(SAID, BOTH)
    of_content = Prompts(CONTEXT, NULL)
    assert Compose(style, words, 1.0)(SAID, BOTH) == StyleDrop(style, words)(of_content, Mixes(OBJECT))


def test_styledrops_lanes_and_coefficients() -> None:
    guidance = StyleDrop(2.0, 5.0)(SAID, BOTH)
    assert guidance.lanes == (Lane(FULL, STYLED), Lane(FULL, Mix()), Lane(NULL, Mix()))
    assert guidance.coefficients == (3.0, 3.0, -5.0)
    assert StyleDrop(2.0, 0.0)(SAID, BOTH).coefficients == (3.0, -2.0)  # λB = 0: nothing says the null
    assert StyleDrop(5.0, 5.0)(SAID, BOTH).lanes == (Lane(FULL, STYLED), Lane(NULL, Mix()))  # λA = λB
    assert StyleDrop(0.0, 0.0)(SAID, BOTH).lanes == (Lane(FULL, STYLED),)


def test_composing_takes_five_lanes_that_share_one_null() -> None:
    guidance = Compose(style_strength=2.0, text_strength=5.0, gamma=0.6)(SAID, BOTH)
    assert guidance.lanes == (
        Lane(FULL, STYLED),
        Lane(FULL, Mix()),
        Lane(CONTEXT, OBJECT),
        Lane(CONTEXT, Mix()),
        Lane(NULL, Mix()),
    )
    assert guidance.coefficients == pytest.approx((1.2, 1.2, 1.8, 1.8, -5.0))
    assert sum(guidance.coefficients) == pytest.approx(1.0)


def test_prompts_that_say_the_same_share_their_plain_lane() -> None:
    """Nothing told the content's half from the style's but its adapter."""
    guidance = Compose(2.0, 5.0, 0.5)(Prompts(FULL, NULL, FULL), BOTH)
    assert guidance.lanes == (Lane(FULL, STYLED), Lane(FULL, Mix()), Lane(FULL, OBJECT), Lane(NULL, Mix()))
    assert guidance.coefficients == pytest.approx((1.5, 3.0, 1.5, -5.0))


@pytest.mark.parametrize(("rule", "alone"), CASES)
def test_without_strengths_the_adapted_conditional_lane_is_alone(rule: Rule, alone: Lane) -> None:
    guidance = rule(SAID, BOTH)
    counted = {lane: c for lane, c in zip(guidance.lanes, guidance.at(0.0), strict=True) if c}
    assert counted == {alone: 1.0}
    assert guidance.at(1.0) == guidance.coefficients


def test_composing_without_strengths_is_the_two_adapted_lanes_by_their_shares() -> None:
    guidance = Compose(2.0, 5.0, 0.25)(SAID, BOTH)
    counted = {lane: c for lane, c in zip(guidance.lanes, guidance.at(0.0), strict=True) if c}
    assert counted == {Lane(FULL, STYLED): 0.75, Lane(CONTEXT, OBJECT): 0.25}


@given(GAMMA, STRENGTH, STRENGTH, GAMMA, st.integers(0, 1000))
def test_a_ramp_is_the_rule_with_weaker_strengths(
    strength: float, style: float, words: float, gamma: float, seed: int
) -> None:
    """Muse's: the strengths themselves rise, so each rule has to be linear in them."""
    found = logits(seed)
    for rule, weaker in (
        (Compose(style, words, gamma), Compose(strength * style, strength * words, gamma)),
        (DreamStyler(style, 0.5, 3.0), DreamStyler(1 + strength * (style - 1), strength * 0.5, strength * 3.0)),
        (ClassifierFree(words), ClassifierFree(1 + strength * (words - 1))),
    ):
        expected = summed(weaker(SAID, BOTH), found)
        np.testing.assert_allclose(summed(rule(SAID, BOTH), found, strength), expected, atol=1e-10)


def test_a_lane_that_counts_at_some_step_of_a_ramp_is_there() -> None:
    """A strength of -1 takes the adapted lane away, but only at the end."""
    guidance = StyleDrop(-1.0, 5.0)(SAID, BOTH)
    assert dict(zip(guidance.lanes, guidance.coefficients, strict=True))[Lane(FULL, STYLED)] == 0
    assert dict(zip(guidance.lanes, guidance.unguided, strict=True))[Lane(FULL, STYLED)] == 1


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=5), st.integers(0, 1000))
def test_combining_leaves_its_inputs_alone_and_is_float32(coefficients: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = [rng.standard_normal((4, 3, 3)).astype(np.float32) for _ in coefficients]
    kept = [output.copy() for output in outputs]
    found = combine(coefficients, outputs)
    assert found.dtype == np.float32
    expected = np.tensordot(np.array(coefficients), np.stack(outputs).astype(np.float64), axes=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(outputs, kept)
