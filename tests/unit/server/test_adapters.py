from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toy
from impasto_server.adapters import Adapter, Embedding, Registry, parse
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument, NotFound


def test_a_name_is_resolved_anew_each_time(registry: Path) -> None:
    names = Registry(registry)
    before = names.resolve("neon")
    after = toy.register(registry, "neon", toy.adapter_bytes(9))
    assert names.resolve("neon") == after != before


def test_an_unknown_name_is_answered_with_the_nearest(registry: Path) -> None:
    with pytest.raises(NotFound, match=r"^ADAPTER_NAMES: no adapter 'staned-glass'; did you mean 'stained-glass'"):
        Registry(registry).resolve("staned-glass")


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "UPPER", "a/b", "neon\n"])
def test_a_name_cannot_leave_the_registry(name: str, registry: Path) -> None:
    with pytest.raises(NotFound):
        Registry(registry).resolve(name)


def test_the_scale_is_folded_into_b(manifest: Manifest) -> None:
    b = np.ones((2, toy.CHANNELS), np.float16)
    adapter = parse(toy.adapter_bytes(unet__mix__B=b), "d", "x", manifest)
    assert isinstance(adapter, Adapter)
    factors = adapter.factors["unet"]["mix"]
    np.testing.assert_array_equal(factors.b, np.full((2, toy.CHANNELS), 0.5, np.float32))


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
        (toy.adapter_bytes(unet__mix__B=NAN), "NaN"),
        (toy.adapter_bytes(unet__mix__scale=INFINITE), "NaN or infinity"),
        (toy.adapter_bytes(unet__mix__A=WIDE), r"A \[5, 2\]"),
        (toy.adapter_bytes(unet__mix__A=NO_RANK), r"A \[4, 0\]"),
        (toy.adapter_bytes(unet__mix__A=INTEGERS), "I32"),
        (toy.adapter_bytes(unet__conv__A=NAN), "belong nowhere: unet.conv.A"),
    ],
)
def test_a_damaged_file_is_refused_before_a_byte_reaches_the_bank(data: bytes, why: str, manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse(data, "d", "x", manifest)


def test_an_adapter_of_another_backbone_is_refused(manifest: Manifest) -> None:
    other = manifest.model_copy(update={"architecture": "b" * 64})
    with pytest.raises(InvalidArgument, match="another backbone than 'toy'"):
        parse(toy.adapter_bytes(), "d", "x", other)


def test_bytes_that_belie_their_digest_are_refused(registry: Path, manifest: Manifest) -> None:
    digest = Registry(registry).resolve("neon")
    (registry / "objects" / f"{digest}.safetensors").write_bytes(toy.adapter_bytes(7))
    with pytest.raises(InvalidArgument, match="digest"):
        Registry(registry).load(digest, "neon", manifest)


def test_an_embedding_is_read_with_the_words_it_was_trained_in(manifest: Manifest) -> None:
    found = parse(toy.embedding_bytes(stages=6, places=2), "d", "x", manifest)
    assert isinstance(found, Embedding)
    assert (found.stages, found.places, found.nbytes) == (6, 2, 6 * 2 * toy.WIDTH * 4)
    assert found.prompt == "{context} in {style} style"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (toy.embedding_bytes(width=12), "embedding 'x' is 12 wide, text_encoder of 'toy' 8"),
        (toy.embedding_bytes(stages=65), r"\[65, 1, 8\], not \[stages, vectors, width\]"),
        (toy.embedding_bytes(places=33), r"\[6, 33, 8\]"),
        (toy.embedding_bytes(stages=0), r"\[0, 1, 8\]"),
        (toy.embedding_bytes(prompt="in {style}"), "lacks the prompts"),
        (toy.embedding_bytes(style_prompt=None), "lacks the prompts"),
        (toy.embedding_bytes(kind="hypernetwork"), "of the kind 'hypernetwork'"),
    ],
)
def test_an_embedding_that_does_not_fit_is_refused(data: bytes, why: str, manifest: Manifest) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse(data, "d", "x", manifest)
