"""Lanes of one batch, each with adapters of its own, or none: what the engine is told, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.adapters.adapted import AdaptedEngine, bucket
from impasto_server.adapters.adapter import Adapter, parse
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Bundle
from impasto_server.engines.openvino import OpenVinoEngine, OpenVinoPlain
from impasto_server.engines.runtime import Runtime
from impasto_server.families import open_bundle
from impasto_server.guidance import Mix
from impasto_server.settings import EngineName
from impasto_server.stats import Stats
from tests.helpers import toy

Array = NDArray[Any]

ENGINES = ("onnxruntime", "openvino")
RANKS = (4, 16, 64, 128)
TOLERANCE = 1e-5  # of the largest number: the order in which products are added up


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return open_bundle(bundle)


@pytest.fixture(scope="module")
def adapters(opened: Bundle) -> dict[str, Adapter]:
    """Two of each rank, by digest."""
    found = {}
    for number, rank in enumerate(2 * RANKS):
        data = toy.adapter_bytes(number, rank, unet__mix__scale=np.array(0.5 / rank, np.float32))
        found[f"d{number}"] = parse(data, f"d{number}", f"d{number}", opened.manifest)
    return {digest: one for digest, one in found.items() if isinstance(one, Adapter)}


@pytest.fixture(scope="module")
def bank(opened: Bundle, adapters: dict[str, Adapter]) -> Bank:
    layout = Layout.of(opened.manifest, 16, "f32")
    bank = Bank(layout, layout.bytes_for({"lora": 40}), Stats())
    assert bank.take([Mix.of([(digest, 1.0) for digest in adapters])], adapters, pytest.fail)
    return bank


def unet_feeds(lanes: int) -> dict[str, Array]:
    draw = np.random.default_rng(lanes)
    nothing = np.zeros((lanes, toy.CHANNELS, 1, 1), np.float32)
    return {
        "sample": draw.standard_normal((lanes, toy.CHANNELS, 8, 8)).astype(np.float32),
        "timestep": np.linspace(1, 900, lanes, dtype=np.float32),
        "encoder_hidden_states": draw.standard_normal((lanes, toy.LENGTH, toy.WIDTH)).astype(np.float32),
        "down_residual_0": nothing,
        "mid_residual": nothing,
    }


def seats(bank: Bank, adapters: dict[str, Adapter], mixes: Sequence[Mix]) -> list[Seat]:
    pages = bank.take(mixes, adapters, pytest.fail)
    assert pages is not None
    return [Seat(pages[mix]) for mix in mixes]


def naive(feeds: dict[str, Array], mixes: Sequence[Mix], adapters: dict[str, Adapter]) -> NDArray[np.float64]:
    """A lane at a time, an adapter at a time, in float64: what the toy's graph says."""
    rng = np.random.default_rng(0)  # as toy.write_bundle draws them
    weight, projection = (
        toy.weights(rng, toy.CHANNELS, toy.CHANNELS).astype(np.float64),
        toy.weights(rng, toy.WIDTH, toy.CHANNELS).astype(np.float64),
    )
    found = []
    for lane, mix in enumerate(mixes):
        x = feeds["sample"][lane].transpose(1, 2, 0).astype(np.float64)
        y = x @ weight
        for digest, share in mix.parts:
            factors = adapters[digest].factors["unet"]["mix"]
            y = y + share * (x @ factors["lora_A"].T.astype(np.float64)) @ factors["lora_B"].astype(np.float64)
        shift = feeds["encoder_hidden_states"][lane].mean(axis=0).astype(np.float64) @ projection
        found.append(np.tanh(y + shift + feeds["timestep"][lane] / 1000).transpose(2, 0, 1))
    return np.stack(found)


@pytest.mark.parametrize("engine", ENGINES)
def test_lanes_of_any_ranks_and_mixes_equal_the_naive_sum(
    engine: EngineName, opened: Bundle, bank: Bank, adapters: dict[str, Adapter]
) -> None:
    """Mixes of none to five adapters of ranks 4 to 128 in one batch, from one to thirty-odd pages."""
    compiled = AdaptedEngine(opened, "unet", Runtime(engine, "f32", 1), bank)
    draw = np.random.default_rng(7)
    for lanes in (1, 3, 8):
        mixes = []
        for lane in range(lanes):
            chosen = draw.choice(len(adapters), size=(lane + lanes) % 6, replace=False)
            mixes.append(Mix.of([(f"d{number}", float(draw.uniform(-1, 1))) for number in chosen]))
        feeds = unet_feeds(lanes)
        (found,) = compiled.run(feeds, seats(bank, adapters, mixes))
        np.testing.assert_allclose(found, naive(feeds, mixes, adapters), atol=TOLERANCE)
        (without,) = compiled.run(feeds, [Seat()] * lanes)
        np.testing.assert_allclose(without, naive(feeds, [Mix()] * lanes, adapters), atol=TOLERANCE)
    assert np.abs(found - without).max() > 0.05, "the adapters must matter"


@pytest.mark.parametrize("engine", ENGINES)
def test_an_adapter_that_comes_and_goes_leaves_no_trace(
    engine: EngineName, opened: Bundle, adapters: dict[str, Adapter]
) -> None:
    """A, B over A's page, none, and A again: bit for bit what it was."""
    layout = Layout.of(opened.manifest, 16, "f32")
    small = Bank(layout, layout.bytes_for({"lora": 1}), Stats())
    compiled = AdaptedEngine(opened, "unet", Runtime(engine, "f32", 1), small)
    feeds, one, other, found = unet_feeds(2), Mix.of([("d0", 0.7)]), Mix.of([("d5", 1.0)]), []
    for mix in (one, other, Mix(), one, Mix(), other):
        (place,) = seats(small, adapters, [mix])
        found.append(compiled.run(feeds, [place, place])[0])
        small.leave([mix])
    assert small._stats.read()["bank_evictions"] == 3
    for first, again in ((0, 3), (1, 5), (2, 4)):
        np.testing.assert_array_equal(found[first], found[again])
    assert len({array.tobytes() for array in found}) == 3


def test_few_sizes_of_rows_are_met() -> None:
    assert [bucket(pages, 64) for pages in (0, 1, 2, 3, 5, 9, 33, 64)] == [1, 1, 2, 4, 8, 16, 64, 64]
    assert bucket(5, 6) == 6


class Told(OpenVinoEngine):
    """Notes the rows that it is given."""

    given: list[Array]

    def run(self, feeds: Any) -> list[Array]:
        self.given.append(feeds.get("lora_rows"))
        return super().run(feeds)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    given: list[Array] = []
    monkeypatch.setattr(Told, "given", given, raising=False)
    monkeypatch.setattr("impasto_server.engines.openvino.OpenVinoEngine", Told)
    return given


def test_a_batch_pays_for_its_own_lanes_alone(
    opened: Bundle, bank: Bank, adapters: dict[str, Adapter], told: list[Array]
) -> None:
    """Whatever neighbours had before: a page where nobody has more, although others had thirty."""
    compiled = AdaptedEngine(opened, "unet", Runtime("openvino", "f32", 1), bank)
    wide, small = Mix.of([(digest, 0.1) for digest in adapters]), Mix.of([("d0", 1.0)])
    for mixes in ([small, Mix()], [wide, small], [small, small], [Mix(), Mix()]):
        compiled.run(unet_feeds(2), seats(bank, adapters, mixes))
    assert [rows.shape for rows in told] == [(2, 16), (2, 32 * 16), (2, 16), (2, 16)]
    assert (told[0][1] < 16).all()  # page 0


def test_a_batch_without_adapters_runs_the_plain_graph_if_it_was_prepared(
    opened: Bundle, bank: Bank, adapters: dict[str, Adapter], told: list[Array]
) -> None:
    compiled = AdaptedEngine(opened, "unet", Runtime("openvino", "f32", 1), bank)
    one, two = ((0, 1.0),), ((0, 1.0), (0, 1.0))
    assert compiled.usual == (Seat({"lora": one}), Seat(), Seat({"lora": two}))
    feeds, adapted = unet_feeds(2), seats(bank, adapters, [Mix.of([("d0", 1.0)]), Mix()])
    (before,) = compiled.run(feeds, [Seat()] * 2)
    for seat in compiled.usual:
        compiled.prepare(feeds, [seat] * 2)
    told.clear()
    (plain,) = compiled.run(feeds, [Seat()] * 2)
    assert told == []
    np.testing.assert_allclose(plain, before, atol=TOLERANCE)
    compiled.run(unet_feeds(3), [Seat()] * 3)  # which was not prepared
    compiled.run(feeds, adapted)
    assert [rows.shape for rows in told] == [(3, 16), (2, 16)]
    assert isinstance(compiled._plain, OpenVinoPlain)
