"""Mixes that a bundle carries merged: the same pictures as by lanes, beside lanes, and what only they can carry."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from impasto_server.adapters.adapter import Delta
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.registry import Registry
from impasto_server.adapters.residency import Named
from impasto_server.adapters.seating import Seating
from impasto_server.backbone import Row
from impasto_server.errors import InvalidArgument, SetupError
from impasto_server.families import open_bundle
from impasto_server.guidance import Mix
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.settings import EngineName, Settings
from impasto_server.stats import Stats
from impasto_server.steps import BASE
from tests.helpers import toy
from tests.helpers import toy_architectures as toys
from tests.helpers.asked import altered, pixels, request_of, together

GLASS, DEEP = toy.adapter_bytes(1), toy.adapter_bytes(3, rank=20, text_encoder=True)
PAINT = toys.delta_bytes({}, {})
BOAT = request_of("a red boat", seed=3, width=64, height=64, steps=4, scheduler="euler")
HOT, BOTH = (("glass", 0.8),), (("deep", 0.5), ("glass", -0.5))
PAINTED = (("glass", 0.3), ("paint", 1.0))


@dataclass(frozen=True)
class Shelf:
    """A bundle with pinned mixes, the same one without, and a registry of their adapters."""

    pinned: Path
    plain: Path
    registry: Path

    def open(self, bundle: Path, engine: EngineName = "onnxruntime", **settings: Any) -> Pipeline:
        return Pipeline.load(Settings(bundle, self.registry, engine, "f32", threads=1, **settings))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Pinned are HOT, BOTH, which reaches the text encoder, and PAINTED, of which one part is a delta."""
    folder = tmp_path_factory.mktemp("pinned")
    files = {"glass": GLASS, "deep": DEEP, "paint": PAINT, "neon": toy.adapter_bytes(2)}
    digests = {name: toy.register(folder / "registry", name, data) for name, data in files.items()}
    mixes = [{name: (files[name], digests[name], weight) for name, weight in mix} for mix in (HOT, BOTH, PAINTED)]
    return Shelf(toys.write_pinned(folder / "bundle", mixes), toy.write_bundle(folder / "plain"), folder / "registry")


@pytest.fixture
def pinned(shelf: Shelf) -> Iterator[Pipeline]:
    pipeline = shelf.open(shelf.pinned)
    yield pipeline
    pipeline.close()


@pytest.fixture
def plain(shelf: Shelf) -> Iterator[Pipeline]:
    """By lanes alone."""
    pipeline = shelf.open(shelf.plain)
    yield pipeline
    pipeline.close()


def seats(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, request: Request) -> set[tuple[int, bool]]:
    """The weights of a request's rows, and whether they have pages of the bank."""
    run: Callable[[Sequence[Row]], Any] = pipeline.family.backbones[BASE].run
    found: set[tuple[int, bool]] = set()

    def note(rows: Sequence[Row]) -> Any:
        found.update((row.seat.merged, bool(row.seat.pages)) for row in rows)
        return run(rows)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.family.backbones[BASE], "run", note)
        pipeline.generate(request)
    return found


@pytest.mark.parametrize("adapters", [HOT, BOTH, BOTH[::-1]])
def test_a_pinned_mix_paints_what_the_same_mix_paints_by_lanes(
    adapters: Any, pinned: Pipeline, plain: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = altered(BOAT, adapters=adapters)
    assert seats(pinned, monkeypatch, request) == {((1 if adapters == HOT else 2), 0)}
    assert {weights for weights, _ in seats(plain, monkeypatch, request)} == {0}
    assert np.abs(pixels(pinned.generate(request)) - pixels(plain.generate(request))).max() <= 1
    assert np.abs(pixels(pinned.generate(request)) - pixels(plain.generate(BOAT))).max() > 16


@pytest.mark.parametrize("weight", [float(np.float32(0.8)), 0.8])
def test_a_weight_is_the_same_off_the_wire_and_in_python(
    weight: float, pinned: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seats(pinned, monkeypatch, altered(BOAT, adapters=(("glass", weight),))) == {(1, False)}


@pytest.mark.parametrize("adapters", [(("glass", 0.79),), (("glass", 0.8), ("neon", 0.1)), (("neon", 0.8),)])
def test_another_mix_goes_by_the_bank(adapters: Any, pinned: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    request = altered(BOAT, adapters=adapters)
    assert seats(pinned, monkeypatch, request) == {(0, True)}
    assert pinned.generate(request).meta["pinned"] is False


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_pinned_and_hot_mixes_share_a_server_and_equal_their_solo_runs(engine: EngineName, shelf: Shelf) -> None:
    pipeline = shelf.open(shelf.pinned, engine)
    adapters = (HOT, (), BOTH, (("neon", 0.7),), PAINTED)
    requests = [altered(BOAT, seed=seed, steps=3 + seed % 3, adapters=adapters[seed % 5]) for seed in range(15)]
    try:
        alone = [pixels(pipeline.generate(one)) for one in requests]
        found = [pixels(result) for result in together(pipeline, requests)]
    finally:
        pipeline.close()
    assert max(np.abs(ours - theirs).max() for ours, theirs in zip(found, alone, strict=True)) <= 1


def test_lanes_of_one_request_may_be_on_different_weights(
    pinned: Pipeline, plain: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """StyleDrop's adapted lane is on the mix's own, its plain lanes on the bundle's."""
    request = altered(BOAT, adapters=HOT, guidance="styledrop", style_strength=1.0)
    assert seats(pinned, monkeypatch, request) == {(1, False), (0, False)}
    assert np.abs(pixels(pinned.generate(request)) - pixels(plain.generate(request))).max() <= 1


def test_what_was_used_is_told(pinned: Pipeline) -> None:
    for adapters in (HOT, HOT, BOTH, ()):
        assert pinned.generate(altered(BOAT, adapters=adapters)).meta["pinned"] is bool(adapters)
    stats = pinned.stats.read()
    assert (stats["mix_pinned"], stats["bank_writes"]) == (3, 0)
    assert stats["steps"] == 4 * BOAT.sampling.steps


def test_passes_are_counted_not_batches(pinned: Pipeline) -> None:
    pinned.generate(altered(BOAT, adapters=HOT, guidance="styledrop", style_strength=1.0))
    assert pinned.stats.read()["steps"] == 2 * BOAT.sampling.steps


def test_a_pinned_mix_needs_no_page_of_the_bank(shelf: Shelf) -> None:
    """BOTH takes six pages, and the bank has one."""
    pipeline = shelf.open(shelf.pinned, page_rank=4, bank_bytes=800)
    try:
        assert pipeline.generate(altered(BOAT, adapters=BOTH)).meta["pinned"]
        with pytest.raises(InvalidArgument, match="take 6 pages of rank 4"):
            pipeline.generate(altered(BOAT, adapters=(("deep", 0.5), ("glass", -0.4))))
    finally:
        pipeline.close()


# What only merged weights carry


def test_a_delta_is_fine_within_a_pinned_mix(pinned: Pipeline) -> None:
    meta: dict[str, Any] = pinned.generate(altered(BOAT, adapters=PAINTED)).meta
    assert meta["pinned"] is True
    assert [adapter["name"] for adapter in meta["adapters"]] == ["glass", "paint"]


@pytest.mark.parametrize(
    ("changed", "field", "weight"),
    [
        ({"adapters": (("paint", 1.0),)}, "ADAPTER_NAMES", "1"),
        ({"adapters": (("glass", 0.3), ("paint", 0.9))}, "ADAPTER_NAMES", "0.9"),
        ({"style": ("paint",), "guidance": "styledrop"}, "STYLE", "1"),
    ],
)
def test_a_delta_is_refused_by_lanes(changed: Any, field: str, weight: str, pinned: Pipeline) -> None:
    with pytest.raises(InvalidArgument) as caught:
        pinned.generate(altered(BOAT, **changed))
    assert str(caught.value) == (
        f"{field}: 'paint' changes weights by locon, loha, which only merged weights can carry; merge it into a "
        f"bundle with `impasto export merge BUNDLE --adapter paint:{weight} --out BUNDLE2`, or add --pin to keep the "
        "base weights, too"
    )
    assert pinned.generate(BOAT).image


def test_all_deltas_of_a_mix_are_told_to_be_merged(shelf: Shelf) -> None:
    manifest = open_bundle(shelf.plain).manifest
    bank = Bank(Layout.of(manifest, 16, "f32"), 1 << 20, Stats())
    deltas = {digest: Delta(digest, ("svd",)) for digest in ("d1", "d2")}
    named = [Named("fire", "d1", 0.9), Named("sketch", "d2", 0.1)]
    with pytest.raises(InvalidArgument, match="merge BUNDLE --adapter fire:0.9 --adapter sketch:0.1 --out BUNDLE2"):
        Seating(manifest, bank, Stats()).take([Mix.of([("d1", 0.9), ("d2", 0.1)])], deltas, named, pytest.fail)


def test_a_delta_is_no_embedding(pinned: Pipeline) -> None:
    with pytest.raises(InvalidArgument, match="^PROMPT: 'paint' is an adapter, not an embedding"):
        pinned.generate(altered(BOAT, prompt="a boat in <paint>"))


def test_a_delta_that_belies_its_digest_is_refused(pinned: Pipeline, shelf: Shelf) -> None:
    """Nobody here uses its tensors, yet META names it by the digest, and the words of its header are painted."""
    broken = shelf.registry / "objects" / f"{hashlib.sha256(PAINT).hexdigest()}.safetensors"
    broken.write_bytes(PAINT + b"\0" * 100)
    try:
        with pytest.raises(InvalidArgument, match="^ADAPTER_NAMES: adapter 'paint' can't be used: its bytes don't"):
            pinned.generate(altered(BOAT, adapters=PAINTED))
    finally:
        broken.write_bytes(PAINT)
    assert pinned.generate(altered(BOAT, adapters=PAINTED)).image


def test_a_delta_is_not_held_while_its_digest_is_taken(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be as large as a checkpoint."""
    monkeypatch.setattr("impasto_server.adapters.registry.MAX_HEADER", 1 << 10)
    monkeypatch.setattr("impasto_server.adapters.registry.CHUNK", 1 << 10)
    large = toys.delta_bytes({}, {"unet.mix": np.ones(1 << 20, np.float32)})
    digest = toy.register(tmp_path, "large", large)
    manifest = open_bundle(shelf.plain).manifest
    tracemalloc.start()
    assert isinstance(Registry(tmp_path).load(digest, "large", manifest), Delta)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(large) / 10


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"forms": []}, "its header doesn't say which forms its updates have"),
        ({"architecture": "b" * 64}, "was imported for another backbone than 'toy'"),
        ({"family": "masked"}, "is for a masked backbone, but 'toy' is diffusion"),
        ({"prompt": "a boat"}, "its prompt 'a boat' has no place for {context}"),
    ],
)
def test_a_delta_that_does_not_fit_is_refused(header: Any, why: str, pinned: Pipeline, shelf: Shelf) -> None:
    toy.register(shelf.registry, "strange", toys.delta_bytes(header, {}))
    with pytest.raises(InvalidArgument) as caught:
        pinned.generate(altered(BOAT, adapters=(("strange", 1.0),)))
    assert why in str(caught.value)


# Bundles


@pytest.mark.parametrize(
    ("graphs", "why"),
    [
        ({"unet": {"file": "lost.onnx"}}, "lacks lost.onnx; link the checkpoint again"),
        ({"vae_decoder": {"file": "unet.onnx"}}, "pinned has vae_decoder, but mixes change only text_encoder, unet"),
    ],
)
def test_a_pinned_mix_without_its_graphs_is_refused(graphs: Any, why: str, tmp_path: Path) -> None:
    folder = toy.write_bundle(tmp_path / "bundle")
    mix = {"adapters": [{"name": "glass", "digest": "0" * 64, "weight": 1.0}], "graphs": graphs}
    (folder / "manifest.json").write_text(json.dumps({**toy.manifest(), "pinned": [mix]}))
    with pytest.raises(SetupError, match=why):
        open_bundle(folder)
