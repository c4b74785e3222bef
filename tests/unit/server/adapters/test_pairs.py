"""Adapters in pairs: factors for both stages of a cascade in one page, and files that are no pair refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.adapters.adapter import Adapter, Delta, parse
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.header import Header
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.registry import Registry
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Bundle, Manifest
from impasto_server.catalogue import Catalogue
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import InvalidArgument
from impasto_server.families import open_bundle
from impasto_server.guidance import Mix
from impasto_server.settings import EngineName
from impasto_server.stats import Stats
from tests.helpers import toy, toy_masked

BOTH = ("transformer", "upscaler")
STAGES = ["base", "upscale"]
PAGE_RANK = 4
Made = Callable[..., bytes]


@pytest.fixture(scope="module")
def cascade(two_stage_bundle: Path) -> Bundle:
    return open_bundle(two_stage_bundle)


@pytest.fixture
def two(cascade: Bundle) -> Manifest:
    return cascade.manifest


@pytest.fixture
def one(masked_manifest: Manifest) -> Manifest:
    return masked_manifest


def adapter(data: bytes, manifest: Manifest, digest: str = "d") -> Adapter:
    found = parse(data, digest, "glass", manifest)
    assert isinstance(found, Adapter)
    return found


MADE = pytest.mark.parametrize("made", [toy_masked.lora_bytes, toy_masked.bottleneck_bytes], ids=["lora", "bottleneck"])


@MADE
def test_a_pair_has_factors_for_both_stages(made: Made, two: Manifest) -> None:
    pair, base = adapter(made(stages=BOTH), two), adapter(made(), two)
    assert pair.factors.keys() == set(BOTH)
    assert base.factors.keys() == {"transformer"}
    assert pair.nbytes == 2 * base.nbytes, "host memory is counted for both"


def test_the_rank_is_that_of_the_larger_half(two: Manifest) -> None:
    tensors = {"upscaler__mix__A": (toy.WIDTH, 7), "upscaler__mix__B": (7, toy.WIDTH)}
    ones: dict[str, Any] = {key: np.ones(size, "<f4") for key, size in tensors.items()}
    wide = toy_masked.lora_bytes(rank=2, stages=BOTH, **ones)
    pair, layout = adapter(wide, two), Layout.of(two, PAGE_RANK, "f32")
    assert pair.rank == 7
    assert layout.need(pair).places == 2


# pages


def bank_of(manifest: Manifest, pages: int) -> Bank:
    layout = Layout.of(manifest, PAGE_RANK, "f32")
    return Bank(layout, layout.bytes_for(dict.fromkeys(layout.kinds, pages)), Stats())


def test_a_page_has_rows_for_every_graph_so_a_cascades_costs_more(one: Manifest, two: Manifest) -> None:
    """And a base's half alone takes as many of them as a pair."""
    single, cascade = Layout.of(one, PAGE_RANK, "f32"), Layout.of(two, PAGE_RANK, "f32")
    row = 4 * PAGE_RANK * 2 * toy.WIDTH  # bytes of A and B at one site
    assert cascade.page_bytes("lora") - single.page_bytes("lora") == row
    assert cascade.page_bytes("bottleneck") == 2 * single.page_bytes("bottleneck")
    assert cascade.pages_in(1 << 16)["bottleneck"] == single.pages_in(1 << 16)["bottleneck"] // 2
    needs = [cascade.need(adapter(toy_masked.bottleneck_bytes(stages=graphs), two)) for graphs in (BOTH, BOTH[:1])]
    assert needs[0] == needs[1] == ("bottleneck", 1)


@MADE
def test_a_page_holds_both_halves_and_of_the_base_alone_nothing_behind_it(made: Made, two: Manifest) -> None:
    bank, mixes = bank_of(two, pages=1), {name: Mix.of([(name, 1.0)]) for name in ("pair", "base")}
    styles = {"pair": adapter(made(1, stages=BOTH), two, "pair"), "base": adapter(made(2), two, "base")}
    kind = styles["pair"].kind
    site, part = ("mix", "lora_B") if kind == "lora" else ("block", "up")
    for name in ("pair", "base", "pair"):  # each in the page that the other had
        pages = bank.take([mixes[name]], styles, pytest.fail)
        assert pages == {mixes[name]: {kind: ((1, 1.0),)}}
        for graph in BOTH:
            rows = bank.rows(graph, f"{site}.{part}", kind, 1)
            factors = styles[name].factors.get(graph)
            expected = np.zeros((2, toy.WIDTH), np.float32) if factors is None else factors[site][part]
            np.testing.assert_array_equal(rows[:2], expected)
        bank.leave([mixes[name]])


@MADE
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_second_stage_of_a_base_alone_is_plain(
    made: Made, engine: EngineName, cascade: Bundle, two: Manifest
) -> None:
    """In one batch with a pair, whose second half it must not get."""
    bank = bank_of(two, pages=4)
    styles = {"pair": adapter(made(1, stages=BOTH), two, "pair"), "base": adapter(made(1), two, "base")}
    mixes = [Mix.of([("base", 1.0)]), Mix.of([("pair", 1.0)]), Mix()]
    pages = bank.take(mixes, styles, pytest.fail)
    assert pages is not None
    draw = np.random.default_rng(0)
    context = np.repeat(draw.standard_normal((1, toy.LENGTH, toy.WIDTH)).astype(np.float32), 3, axis=0)
    feeds = {
        "input_ids": np.repeat(draw.integers(0, toy_masked.FINE_CODES, (1, 8, 8)), 3, axis=0),
        "low_ids": np.repeat(draw.integers(0, toy_masked.CODES, (1, 4, 4)), 3, axis=0),
        "encoder_hidden_states": context,
    }
    compiled = AdaptedEngine(cascade, "upscaler", Runtime(engine, "f32", 1), bank)
    (found,) = compiled.run(feeds, [Seat(pages[mix]) for mix in mixes])
    base, pair, nobody = found
    np.testing.assert_allclose(base, nobody, atol=1e-5)
    assert np.abs(pair - nobody).max() > 0.05, "the second half must matter"


# files by other hands

DEEP = np.ones((toy.WIDTH, 2), np.float32)
WIDE = np.ones((toy.WIDTH + 1, 2), np.float32)
LORA_KEYS: dict[str, Any] = {
    "upscaler__mix__A": DEEP,
    "upscaler__mix__B": DEEP.T.copy(),
    "upscaler__mix__scale": np.array(1, "<f4"),
}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (toy_masked.bottleneck_bytes(stages=("upscaler",)), "it is half a pair, for the stage upscale alone"),
        (
            toy_masked.lora_bytes(stages=("upscaler",), text_encoder=True),
            "it is half a pair, for the stage upscale alone",
        ),
        (
            toy_masked.bottleneck_bytes(stages=BOTH, header={"stages": None}),
            "its header says that it is for base, but its tensors are for base and upscale",
        ),
        (
            toy_masked.lora_bytes(header={"stages": STAGES}),
            "its header says that it is for base and upscale, but its tensors are for base",
        ),
        (
            toy_masked.bottleneck_bytes(header={"stages": STAGES}, **LORA_KEYS),
            "it is a bottleneck, but upscaler.mix.A is a lora's; an adapter has one kind in all stages",
        ),
        (
            toy_masked.bottleneck_bytes(stages=BOTH, **LORA_KEYS),
            "it is a bottleneck, but upscaler.mix.A is a lora's; an adapter has one kind in all stages",
        ),
        (
            toy_masked.lora_bytes(stages=BOTH, upscaler__mix9__A=DEEP),
            "it has tensors that fit nowhere: upscaler.mix9.A",
        ),
        (toy_masked.lora_bytes(stages=BOTH, upscaler__mix__A=WIDE), r"upscaler.mix is A \[9, 2\], B \[2, 8\]"),
        (
            toy_masked.lora_bytes(stages=BOTH, upscaler__mix__B=np.full((2, 8), np.nan, "<f4")),
            "upscaler.mix carries NaN",
        ),
    ],
)
def test_what_is_no_pair_is_refused_by_name(data: bytes, why: str, two: Manifest, tmp_path: Path) -> None:
    digest = toy.register(tmp_path, "glass", data)
    with pytest.raises(InvalidArgument, match=f"^ADAPTER_NAMES: adapter 'glass' can't be used: .*{why}") as raised:
        Registry(tmp_path).load(digest, "glass", two)
    assert str(raised.value).endswith("import it again from its source file")


@MADE
def test_a_pair_for_a_bundle_of_one_stage_is_refused_by_name(made: Made, one: Manifest, tmp_path: Path) -> None:
    digest = toy.register(tmp_path, "glass", made(stages=BOTH))
    with pytest.raises(InvalidArgument) as raised:
        Registry(tmp_path).load(digest, "glass", one)
    assert str(raised.value) == (
        "ADAPTER_NAMES: adapter 'glass' is a pair, with a half for the stage 'upscale', which 'toy-masked' doesn't "
        "have; name an adapter of the base alone, or in MODEL a bundle with both stages"
    )
    headless = toy.register(tmp_path, "headless", made(stages=BOTH, header={"stages": None}))
    with pytest.raises(InvalidArgument, match="it has tensors that fit nowhere: upscaler"):
        Registry(tmp_path).load(headless, "headless", one)


def delta(**header: object) -> bytes:
    usual = {"kind": "delta", "family": "masked", "architecture": toy_masked.ARCHITECTURE, "forms": ["dora"]}
    return toy_masked.lora_bytes(stages=BOTH, header={**usual, **header})


def test_a_pair_that_is_to_be_merged_is_one_of_both_stages_too(one: Manifest, two: Manifest, tmp_path: Path) -> None:
    digest = toy.register(tmp_path, "paint", delta())
    assert isinstance(Registry(tmp_path).load(digest, "paint", two), Delta)
    with pytest.raises(InvalidArgument, match="'paint' is a pair, with a half for the stage 'upscale'"):
        Registry(tmp_path).load(digest, "paint", one)


def test_a_text_encoders_lora_is_no_half(one: Manifest, two: Manifest) -> None:
    """Both stages read what it says."""
    data = toy_masked.lora_bytes(stages=(), text_encoder=True)
    for manifest in (one, two):
        assert adapter(data, manifest).factors.keys() == {"text_encoder"}


# what is told of them


@pytest.mark.parametrize(
    ("data", "adapts", "fits"),
    [
        (toy_masked.bottleneck_bytes(stages=BOTH), STAGES, ["cascade"]),
        (toy_masked.bottleneck_bytes(), ["base"], ["cascade", "muse"]),
        (delta(), STAGES, ["cascade"]),
        (toy_masked.lora_bytes(header={"stages": ["base", "\ud800"]}), ["base", "?"], []),
        (toy_masked.lora_bytes(header={"stages": "both"}), ["base"], ["cascade", "muse"]),
        (toy.embedding_bytes(), [], ["cascade", "muse"]),
    ],
)
def test_the_catalogue_says_which_stages_an_adapter_has(
    data: bytes, adapts: list[str], fits: list[str], cascade: Bundle, masked_bundle: Path, tmp_path: Path
) -> None:
    toy.register(tmp_path, "glass", data)
    catalogue = Catalogue([open_bundle(cascade.folder, "cascade"), open_bundle(masked_bundle, "muse")], tmp_path)
    (found,) = json.loads(json.dumps(catalogue.read()))["adapters"]
    catalogue.close()
    assert (found["adapts"], found["fits"]) == (adapts, fits)


def test_a_header_alone_tells_the_stages() -> None:
    assert Header.of(toy_masked.lora_bytes(stages=BOTH), "glass").adapts == ("base", "upscale")


@pytest.mark.parametrize("said", [["base", "upscale", "upscale"], ["base", 3], [["base"], "upscale"]])
@pytest.mark.parametrize("kind", ["lora", "delta"])
def test_a_header_whose_stages_are_not_different_names_is_refused(
    said: list[Any], kind: str, two: Manifest, tmp_path: Path
) -> None:
    data = toy_masked.lora_bytes(stages=BOTH, header={"kind": kind, "forms": ["dora"], "stages": said})
    digest, registry = toy.register(tmp_path, "glass", data), Registry(tmp_path)
    problem = (
        "^ADAPTER_NAMES: adapter 'glass' can't be used: its header has the stages .*, which are not different names"
    )
    with pytest.raises(InvalidArgument, match=problem):
        registry.load(digest, "glass", two)
    with pytest.raises(InvalidArgument, match=problem):
        registry.header(digest, "glass")
