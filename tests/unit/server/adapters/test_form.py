"""A form of adapters is one entry of FORMS: here one that the server has never heard of, a gain for each channel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.adapters.adapter import Adapter, heaviest, parse
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.form import FORMS, Form
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Bundle, Manifest
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import InvalidArgument
from impasto_server.families import open_bundle
from impasto_server.guidance import Mix
from impasto_server.settings import EngineName
from impasto_server.stats import Stats
from tests.helpers import toy

Array = NDArray[Any]

GAIN = Form(
    units=lambda site: {"gain": (site.in_features,)},
    stored=lambda site, rank: {"gamma": (site.in_features,)},
    read=lambda tensors, header: {"gain": tensors["gamma"][None]},
    neutral=1.0,
    rank=1,
)
GRAPH = f"""
<ir_version: 10, opset_import: ["" : 18]>
unet (float[lanes,{toy.CHANNELS}] sample, int64[lanes,gain_K] gain_rows, float[lanes,gain_K] gain_weights,
      float[P,{toy.CHANNELS}] "mix.gain")
  => (float[lanes,{toy.CHANNELS}] y)
<int64[1] one = {{1}}, int64[1] last = {{2}}>
{{
  gains = Gather("mix.gain", gain_rows)
  weights = Unsqueeze(gain_weights, last)
  weighed = Mul(gains, weights)
  gain = ReduceSum<keepdims=0>(weighed, one)
  y = Mul(sample, gain)
}}
"""


@pytest.fixture
def gained(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose backbone has a site of that form, which this server knows now."""
    monkeypatch.setitem(FORMS, "gain", GAIN)
    onnx.save(onnx.parser.parse_model(GRAPH), tmp_path / "unet.onnx")
    manifest = open_bundle(bundle).manifest
    site = manifest.graphs["unet"].sites[0].model_copy(update={"kind": "gain"})
    ports = [port for port in manifest.graphs["unet"].inputs if port.name == "sample"]
    unet = manifest.graphs["unet"].model_copy(update={"sites": (site,), "inputs": tuple(ports), "plain": None})
    return Bundle(tmp_path, manifest.model_copy(update={"graphs": {"unet": unet}}))


def gain_bytes(gamma: Array, **header: object) -> bytes:
    usual = {"format": 1, "kind": "gain", "family": "diffusion", "architecture": toy.ARCHITECTURE}
    return save({"unet.mix.gamma": gamma.astype(np.float32)}, {"impasto": json.dumps({**usual, **header})})


def gains(manifest: Manifest, **gammas: Array) -> dict[str, Adapter]:
    found = {digest: parse(gain_bytes(gamma), digest, digest, manifest) for digest, gamma in gammas.items()}
    return {digest: adapter for digest, adapter in found.items() if isinstance(adapter, Adapter)}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_form_of_ones_own_goes_through_the_bank_and_an_engine(engine: EngineName, gained: Bundle) -> None:
    draw = np.random.default_rng(0)
    gammas = {name: draw.standard_normal(toy.CHANNELS).astype(np.float32) for name in ("warm", "cold")}
    bank = Bank(Layout.of(gained.manifest, 16, "f32"), 1 << 12, Stats())
    compiled = AdaptedEngine(gained, "unet", Runtime(engine, "f32", 1), bank)
    mixes = [Mix(), Mix.of([("warm", 1.0)]), Mix.of([("cold", -0.5), ("warm", 2.0)])]
    pages = bank.take(mixes, gains(gained.manifest, **gammas), pytest.fail)
    assert pages is not None
    x = draw.standard_normal((3, toy.CHANNELS)).astype(np.float32)
    (found,) = compiled.run({"sample": x}, [Seat(pages[mix]) for mix in mixes])
    expected = x * np.stack([np.ones(toy.CHANNELS), gammas["warm"], 2 * gammas["warm"] - 0.5 * gammas["cold"]])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    (plain,) = compiled.run({"sample": x}, [Seat()] * 3)
    np.testing.assert_array_equal(plain, x)


@pytest.mark.parametrize(
    ("gamma", "why"),
    [(np.ones(5), r"unet.mix is gamma \[5\], but this backbone needs gamma \[4\]"), (np.full(4, np.nan), "NaN")],
)
def test_its_files_are_checked_as_anybodys(gamma: Array, why: str, gained: Bundle) -> None:
    with pytest.raises(InvalidArgument, match=why):
        gains(gained.manifest, bad=gamma)


def test_its_files_are_no_larger_than_they_need_to_be(gained: Bundle) -> None:
    without = gained.manifest.model_copy(update={"graphs": {}})
    assert heaviest(gained.manifest) - heaviest(without) == 4 * toy.CHANNELS


def test_every_form_reads_what_it_stores(manifest: Manifest) -> None:
    """Of every rank: as many units as there are, of the shapes that it says."""
    site = manifest.graphs["unet"].sites[0]
    for form in FORMS.values():
        for rank in (1, 7) if form.rank is None else (form.rank,):
            tensors: Mapping[str, Any] = {
                name: np.ones(shape, np.float32) for name, shape in form.stored(site, rank).items()
            }
            factors = form.read(tensors, {"gelu": "tanh"})
            assert {part: array.shape[1:] for part, array in factors.items()} == form.units(site)
            assert {len(array) for array in factors.values()} == {rank}
