from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toy
from impasto_server.adapters import Registry, parse
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
    factors = parse(toy.adapter_bytes(unet__mix__B=b), "d", "x", manifest).factors["unet"]["mix"]
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
        (toy.adapter_bytes(unet__conv__A=NAN), "belong to no site: unet.conv.A"),
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
