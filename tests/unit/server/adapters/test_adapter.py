from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from impasto_server.adapters.adapter import Adapter, Embedding, parse
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument
from tests.helpers import toy, toy_masked


def test_the_scale_is_folded_into_b(manifest: Manifest) -> None:
    b = np.ones((2, toy.CHANNELS), np.float16)
    adapter = parse(toy.adapter_bytes(unet__mix__B=b), "d", "x", manifest)
    assert isinstance(adapter, Adapter)
    factors = adapter.factors["unet"]["mix"]
    np.testing.assert_array_equal(factors["lora_B"], np.full((2, toy.CHANNELS), 0.5, np.float32))


def headed(text: str) -> bytes:
    """A file of this header and nothing else."""
    return len(text).to_bytes(8, "little") + text.encode()


NAN = np.full((2, toy.CHANNELS), np.nan, np.float32)
INFINITE = np.array(np.inf, np.float32)
WIDE = np.zeros((toy.CHANNELS + 1, 2), np.float32)
NO_RANK = np.zeros((toy.CHANNELS, 0), np.float32)
INTEGERS = np.zeros((toy.CHANNELS, 2), np.int32)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (toy.adapter_bytes()[:100], "truncated"),
        (toy.adapter_bytes()[:-8], "can't be used"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "truncated"),
        (headed("[" * 100_000), "it has no impasto header"),
        (headed(json.dumps({"__metadata__": {"impasto": "[" * 100_000}})), "it has no impasto header"),
        (toy.adapter_bytes(unet__mix__B=NAN), "NaN"),
        (toy.adapter_bytes(unet__mix__scale=INFINITE), "NaN or infinity"),
        (toy.adapter_bytes(unet__mix__A=WIDE), r"A \[5, 2\]"),
        (toy.adapter_bytes(unet__mix__A=NO_RANK), r"A \[4, 0\]"),
        (toy.adapter_bytes(unet__mix__A=INTEGERS), "I32"),
        (toy.adapter_bytes(unet__conv__A=NAN), "fit nowhere: unet.conv.A"),
    ],
)
def test_a_damaged_file_is_refused_before_a_byte_reaches_the_bank(data: bytes, why: str, manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse(data, "d", "x", manifest)


def test_an_adapter_of_another_backbone_is_refused(manifest: Manifest) -> None:
    other = manifest.model_copy(update={"architecture": "b" * 64})
    with pytest.raises(InvalidArgument, match="another backbone than 'toy'"):
        parse(toy.adapter_bytes(), "d", "x", other)


def test_an_embedding_is_read_with_the_words_it_was_trained_in(manifest: Manifest) -> None:
    found = parse(toy.embedding_bytes(stages=6, places=2), "d", "x", manifest)
    assert isinstance(found, Embedding)
    assert (found.stages, found.places, found.nbytes) == (6, 2, 6 * 2 * toy.WIDTH * 4)
    assert found.prompt == "{context} in {style} style"


def test_an_embedding_may_fill_a_clip_text(manifest: Manifest) -> None:
    found = parse(toy.embedding_bytes(places=75), "d", "x", manifest)
    assert isinstance(found, Embedding)
    assert found.places == 75


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (toy.embedding_bytes(width=12), "embedding 'x' is 12 wide, but text_encoder of 'toy' is 8"),
        (toy.embedding_bytes(stages=65), r"\[65, 1, 8\], not \[stages, vectors, width\]"),
        (toy.embedding_bytes(places=76), r"\[6, 76, 8\]"),
        (toy.embedding_bytes(stages=0), r"\[0, 1, 8\]"),
        (toy.embedding_bytes(prompt="in {style}"), "lacks the prompts"),
        (toy.embedding_bytes(style_prompt=None), "lacks the prompts"),
        (toy.embedding_bytes(kind="hypernetwork"), "know its kind 'hypernetwork'"),
    ],
)
def test_an_embedding_that_does_not_fit_is_refused(data: bytes, why: str, manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse(data, "d", "x", manifest)


@pytest.mark.parametrize(("gelu", "tanh"), [("exact", 0.0), ("tanh", 1.0)])
def test_a_bottleneck_adapter_says_which_gelu_it_has(
    gelu: Literal["exact", "tanh"], tanh: float, masked_manifest: Manifest
) -> None:
    adapter = parse(toy_masked.bottleneck_bytes(rank=3, gelu=gelu), "d", "x", masked_manifest)
    assert isinstance(adapter, Adapter)
    assert adapter.factors.keys() == {"transformer"}
    assert adapter.factors["transformer"].keys() == {"block"}
    factors = adapter.factors["transformer"]["block"]
    assert (factors["down"].shape, factors["up"].shape) == ((3, toy.WIDTH), (3, toy.WIDTH))
    np.testing.assert_array_equal(factors["tanh"], np.full((3, 1), tanh, np.float32))
    assert adapter.nbytes == 4 * 3 * (2 * toy.WIDTH + 1)


def test_a_lora_of_the_masked_family_has_no_gelu(masked_manifest: Manifest) -> None:
    adapter = parse(toy_masked.lora_bytes(text_encoder=True), "d", "x", masked_manifest)
    assert isinstance(adapter, Adapter)
    assert {graph: list(sites) for graph, sites in adapter.factors.items()} == {
        "transformer": ["mix"],
        "text_encoder": ["proj"],
    }
    assert adapter.factors["transformer"]["mix"].keys() == {"lora_A", "lora_B"}


@pytest.mark.parametrize("data", [toy.adapter_bytes, toy_masked.lora_bytes, toy_masked.bottleneck_bytes])
def test_the_words_it_was_trained_in_come_with_an_adapter(
    data: Callable[..., bytes], manifest: Manifest, masked_manifest: Manifest
) -> None:
    facts = manifest if data is toy.adapter_bytes else masked_manifest
    for prompt in (None, "{context} in stained glass style"):
        found = parse(data(header={} if prompt is None else {"prompt": prompt}), "d", "x", facts)
        assert isinstance(found, Adapter)
        assert found.prompt == prompt


def test_an_adapter_of_the_other_family_is_refused(manifest: Manifest, masked_manifest: Manifest) -> None:
    """Also where the architecture's digest would say so: this says it in words."""
    said = (
        "^ADAPTER_NAMES: adapter 'x' is for a diffusion backbone, but 'toy-masked' is masked; name an adapter that was"
    )
    with pytest.raises(InvalidArgument, match=said):
        parse(toy.adapter_bytes(), "d", "x", masked_manifest)
    for data in (toy_masked.lora_bytes(), toy_masked.bottleneck_bytes()):
        with pytest.raises(InvalidArgument, match="'x' is for a masked backbone, but 'toy' is diffusion"):
            parse(data, "d", "x", manifest)


def test_an_embedding_is_for_any_family(masked_manifest: Manifest) -> None:
    """It is words; only their width matters."""
    assert isinstance(parse(toy.embedding_bytes(), "d", "x", masked_manifest), Embedding)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (toy_masked.bottleneck_bytes(header={"gelu": "quick"}), "its gelu is 'quick', neither 'exact' nor 'tanh'"),
        (toy_masked.bottleneck_bytes(header={"gelu": None}), "its gelu is None"),
        (
            toy_masked.bottleneck_bytes(header={"prompt": "in glass"}),
            "its prompt 'in glass' has no place for",
        ),
        (toy_masked.lora_bytes(header={"prompt": "{context} {context}"}), "has no place for {context}"),
        (toy_masked.lora_bytes(header={"prompt": 7}), "its prompt 7 has no place"),
        (toy_masked.lora_bytes(header={"format": 2}), "its format is 2, but this server reads 1"),
        (
            toy_masked.lora_bytes(header={"kind": "bottleneck", "gelu": "tanh"}),
            "it is a bottleneck, but transformer.mix.A is a lora's",
        ),
        (
            toy_masked.bottleneck_bytes(header={"kind": "lora"}),
            "it is a lora, but transformer.block.A is a bottleneck's",
        ),
        (toy_masked.bottleneck_bytes(transformer__block__A=WIDE), r"transformer.block is A \[5, 2\]"),
        (toy_masked.bottleneck_bytes(transformer__block__B=NAN), "transformer.block is .* needs A .8, r., B .r, 8."),
        (toy_masked.bottleneck_bytes(transformer__block__scale=INFINITE), "NaN or infinity"),
        (toy_masked.bottleneck_bytes(transformer__attn__A=WIDE), "fit nowhere: transformer.attn.A"),
    ],
)
def test_a_damaged_adapter_of_the_masked_family_is_refused(data: bytes, why: str, masked_manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse(data, "d", "x", masked_manifest)
