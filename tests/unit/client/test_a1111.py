"""A1111's text: read as its users' programs write it, in a time that grows with its length and no faster."""

from __future__ import annotations

import time

import pytest

from impasto_client import a1111
from impasto_client.a1111 import Parameters

SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 5.5, Seed: 42"


def test_prompt_negative_prompt_and_settings_are_parted() -> None:
    said = a1111.read(f'a red boat,\nat night\nNegative prompt: fog,\nrain\n{SETTINGS}, Lora hashes: "a: 1, b: 2"')
    numbers = {"Steps": "20", "Sampler": "Euler a", "CFG scale": "5.5", "Seed": "42"}
    assert said == Parameters("a red boat,\nat night", "fog,\nrain", {**numbers, "Lora hashes": "a: 1, b: 2"})


def test_what_is_no_pair_is_passed_over() -> None:
    said = a1111.read(f'a boat\n, (odd), {SETTINGS}, odd, Model: "half, Version: v1')
    assert said.settings == {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "5.5",
        "Seed": "42",
        "Model": '"half',
        "Version": "v1",
    }


@pytest.mark.parametrize("last", ["a boat", "Steps: 1, Seed: 2", SETTINGS + "a" * 20_000])
def test_a_line_that_holds_no_settings_is_the_prompts(last: str) -> None:
    assert a1111.read(f"a boat\n{last}") == Parameters(f"a boat\n{last}", "", {})


@pytest.mark.parametrize("piece", ["a", " ", "a ", "a:", 'a: "', 'aa: "\\",', ","])
def test_no_line_takes_longer_than_its_parts(piece: str) -> None:
    short, long = (f"{SETTINGS}, {piece * (length // len(piece))}!" for length in (2000, 16_000))
    assert seconds(long, 1) < 4 * seconds(short, 8)


def seconds(text: str, times: int) -> float:
    """The least of several tries."""

    def once() -> float:
        begun = time.process_time()
        for _ in range(2 * times):
            a1111.read(text)
        return time.process_time() - begun

    return min(once() for _ in range(3))
