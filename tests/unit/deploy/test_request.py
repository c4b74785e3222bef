"""What a router reads of a request: its bundle and all that it wears."""

from __future__ import annotations

from impasto_client.wire import encode
from impasto_deploy.ray.request import wanted


def test_adapters_and_styles_are_one_set() -> None:
    asked = encode("a boat", adapters={"neon": 0.5, "ink": 0.5}, style="sks03", model="photo")
    assert wanted(asked).bundle == "photo"
    assert wanted(asked).adapters == {"neon", "ink", "sks03"}


def test_the_order_and_the_weights_of_a_mix_do_not_matter() -> None:
    one = encode("a boat", adapters={"neon": 0.5, "ink": 0.5})
    other = encode("another", adapters={"ink": 1.0, "neon": 0.1}, seed=3)
    assert wanted(one) == wanted(other)


def test_requests_without_adapters_are_spread() -> None:
    plain = encode("a boat")
    assert wanted(plain).adapters == frozenset()
    assert wanted(plain).spread != wanted(plain).spread
