"""<lora:NAME:WEIGHT> in prompts."""

from __future__ import annotations

import pytest

from impasto_gateway.errors import Refusal
from impasto_gateway.lora import tagged


@pytest.mark.parametrize(
    ("prompt", "rest", "adapters"),
    [
        ("a red boat", "a red boat", {}),
        ("a red boat <lora:neon:0.8>", "a red boat", {"neon": 0.8}),
        ("a <lora:neon> boat", "a boat", {"neon": 1.0}),
        ("<lora:neon:-1.5><lora:glass:2>boat", "boat", {"neon": -1.5, "glass": 2.0}),
        ("a <LoRA:neon:1> boat", "a boat", {"neon": 1.0}),
        ("a boat in <sks03> style,  two  blanks", "a boat in <sks03> style,  two  blanks", {}),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2", {}),
        ("<lora:neon:0.8>", "", {"neon": 0.8}),
    ],
)
def test_tags_become_adapters(prompt: str, rest: str, adapters: dict[str, float]) -> None:
    said = tagged(prompt)
    assert (said.prompt, said.adapters) == (rest, adapters)


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("a boat <lora:neon:strong>", "'<lora:neon:strong>' is not an adapter with a weight"),
        ("a boat <lora:neon:nan>", "is not an adapter with a weight"),
        ("a boat <lora:neon:1:0.5>", "is not an adapter with a weight"),
        ("a boat <lora::1>", "is not an adapter with a weight"),
        ("a boat <lora:neon:0.8", "'<lora:neon:0.8' has no end"),
        ("<lora:neon:1> <lora:neon:1>", "names an adapter that was named before"),
        ("<lora:a<lora:b:1>", "'<lora:a' has no end"),
    ],
)
def test_tags_that_cannot_be_read_are_refused(prompt: str, problem: str) -> None:
    with pytest.raises(Refusal, match=problem) as caught:
        tagged(prompt)
    assert (caught.value.status, caught.value.param) == (400, "prompt")


def test_a_long_prompt_of_openings_is_read_quickly() -> None:
    with pytest.raises(Refusal):
        tagged("<lora:" * 10_000)
