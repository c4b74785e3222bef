"""The field `model`: a bundle, a bundle and an adapter, or an adapter alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from impasto_client.catalogue import Catalogue
from impasto_gateway.choosing import choice_of
from impasto_gateway.errors import Refusal
from tests.helpers.gateways import CATALOGUE, adapter, bundle

TWO = Catalogue(
    default="studio",
    bundles=(*CATALOGUE.bundles, bundle("other", "diffusion")),
    adapters=(
        *CATALOGUE.adapters,
        replace(adapter("both", "lora", ""), fits=("other", "studio")),
        replace(adapter("others", "lora", ""), fits=("other", "stylizer")),
        adapter("studio", "lora", "other"),
        adapter("gone", "lora", "nowhere"),
    ),
    unread=(),
)


def chosen(model: str) -> tuple[str, str | None]:
    choice = choice_of(model, TWO)
    return choice.bundle.name, None if choice.adapter is None else choice.adapter.name


def test_an_adapter_alone_goes_to_the_default_bundle_or_to_the_only_one_that_it_fits() -> None:
    assert chosen("neon") == ("studio", "neon")
    assert chosen("both") == ("studio", "both")
    assert chosen("wave") == ("stylizer", "wave")
    assert chosen("other:both") == ("other", "both")


def test_a_bundle_comes_before_an_adapter_of_its_name() -> None:
    assert chosen("studio") == ("studio", None)


@pytest.mark.parametrize("model", ["others", "gone", "no-such"])
def test_an_adapter_that_could_mean_several_bundles_or_none_is_refused(model: str) -> None:
    with pytest.raises(Refusal, match=f"model: there is no '{model}'"):
        chosen(model)
