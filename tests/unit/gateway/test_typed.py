"""Texts of a form as the values that JSON would have given."""

from __future__ import annotations

from typing import Any

import pytest

from impasto_gateway.errors import Refusal
from impasto_gateway.typed import typed


@pytest.mark.parametrize(
    ("word", "text", "value"),
    [
        ("prompt", "7", "7"),
        ("steps", "7", 7),
        ("num_inference_steps", "7", 7),
        ("seed", "9223372036854775807", 2**63 - 1),
        ("partial_images", "3", 3),
        ("strength", "0.5", 0.5),
        ("timeout", "20", 20.0),
        ("stream", "true", True),
        ("stream", "False", False),
        ("upscale", "1", True),
        ("adapters", "neon", "neon"),
        ("adapters", '{"neon": 0.5}', {"neon": 0.5}),
        ("adapters", {"neon": "0.5"}, {"neon": 0.5}),
        ("style", ["starry", "wave"], ["starry", "wave"]),
        ("style", '["starry", "wave"]', ["starry", "wave"]),
        ("style_image_weights", "[0.5, 0.5]", [0.5, 0.5]),
        ("style_image_weights", ["0.5", "0.5"], [0.5, 0.5]),
        ("quality", "high", "high"),
        ("unknown", "7", "7"),
    ],
)
def test_a_text_becomes_its_words_kind(word: str, text: Any, value: Any) -> None:
    assert typed({word: text}) == {word: value}
    assert type(typed({word: text})[word]) is type(value)


@pytest.mark.parametrize(
    ("word", "text", "problem"),
    [
        ("steps", "many", "'many' is not a whole number"),
        ("steps", "7.5", "'7.5' is not a whole number"),
        ("n", "0_1", "'0_1' is not a whole number"),
        ("n", "１", "is not a whole number"),
        ("n", " 1", "is not a whole number"),
        ("strength", "0_1", "is not a number"),
        ("strength", "٣", "is not a number"),
        ("adapters", '{"neon": 0.5, "neon": 1}', "neon: it stands there twice"),
        ("adapters", '{"neon": 1e999}', "is too large"),
        ("seed", "9" * 5000, "is not a whole number"),
        ("strength", "nan", "'nan' is not a number"),
        ("strength", "1e999", "is not a number"),
        ("stream", "perhaps", "neither true nor false"),
        ("adapters", '{"neon": ', "it is not JSON"),
        ("adapters", '{"neon": NaN}', "NaN is not JSON"),
        ("adapters", "[" * 100_000, "more than 20000 values"),
        ("style_image_weights", ["half"], "'half' is not a number"),
    ],
)
def test_a_text_of_another_kind_is_refused(word: str, text: Any, problem: str) -> None:
    with pytest.raises(Refusal, match=problem) as caught:
        typed({word: text})
    assert caught.value.param == word
