"""Lanes under adapters of any ranks, through the server's bank and engines, against torch with each lane's own weights.

The naive side takes a lane at a time: a copy of the model whose Linears have the lane's whole mix added to their
weights. Its sums are in another order, so numbers agree to TOLERANCE of the largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.adapters.adapter import Adapter
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Bundle, Site
from impasto_server.engines.runtime import Runtime
from impasto_server.families import open_bundle
from impasto_server.families.diffusion.unet import unsteered
from impasto_server.guidance import Mix
from impasto_server.settings import EngineName
from impasto_server.stats import Stats
from tests.helpers import checkpoints
from tests.helpers.engines import relative_error

Array = NDArray[np.float32]

TOLERANCE = 1e-4
RANKS = (4, 16, 64, 128)
LANES = 6  # under none to five adapters


def random_adapter(digest: str, rank: int, sites: tuple[Site, ...], seed: int) -> Adapter:
    draw = np.random.default_rng(seed)

    def factors(site: Site) -> dict[str, Array]:
        a = draw.standard_normal((rank, site.in_features), np.float32) / np.float32(np.sqrt(site.in_features))
        return {"lora_A": a, "lora_B": draw.standard_normal((rank, site.out_features), np.float32) * 0.2 / rank}

    return Adapter(digest, "lora", {"unet": {site.name: factors(site) for site in sites}}, 0)


def feeds(opened: Bundle) -> dict[str, Array]:
    draw = np.random.default_rng(0)
    return {
        "sample": draw.standard_normal((LANES, checkpoints.CHANNELS, 8, 12), np.float32),
        "timestep": np.linspace(1, 950, LANES, dtype=np.float32),
        "encoder_hidden_states": draw.standard_normal((LANES, 32, 128), np.float32),
        **unsteered(opened.manifest.graphs["unet"], LANES),
    }


def naive(rows: Mapping[str, Array], mixes: list[Mix], adapters: Mapping[str, Adapter]) -> Array:
    model, found = checkpoints.model("unet", 1), []
    for lane, mix in enumerate(mixes):
        own: Any = deepcopy(model)
        for digest, weight in mix.parts:
            for name, factors in adapters[digest].factors["unet"].items():
                update = weight * factors["lora_B"].T @ factors["lora_A"]
                own.get_submodule(name).weight.data += torch.from_numpy(update)
        inputs = [torch.from_numpy(rows[name][lane : lane + 1]) for name in rows if "residual" not in name]
        with torch.no_grad():
            found.append(own(*inputs, return_dict=False)[0].numpy())
    return np.concatenate(found)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_lanes_of_mixed_ranks_equal_torch_with_their_own_weights(engine: EngineName, bundle: Path) -> None:
    opened = open_bundle(bundle)
    sites = opened.manifest.graphs["unet"].sites
    adapters = {f"d{n}": random_adapter(f"d{n}", rank, sites, n) for n, rank in enumerate(2 * RANKS)}
    draw = np.random.default_rng(1)
    mixes = [
        Mix.of([(f"d{n}", float(draw.uniform(-1, 1))) for n in draw.choice(len(adapters), size=lane, replace=False)])
        for lane in range(LANES)
    ]
    layout = Layout.of(opened.manifest, 16, "f32")
    bank = Bank(layout, layout.bytes_for({"lora": 28}), Stats())
    pages = bank.take(mixes, adapters, pytest.fail)
    assert pages is not None
    compiled = AdaptedEngine(opened, "unet", Runtime(engine, "f32", 1), bank)
    rows = feeds(opened)
    (found,) = compiled.run(rows, [Seat(pages[mix]) for mix in mixes])
    expected = naive(rows, mixes, adapters)
    for lane in range(LANES):
        assert relative_error(found[lane], expected[lane]) <= TOLERANCE
    (without,) = compiled.run(rows, [Seat()] * LANES)
    assert relative_error(without[0], expected[0]) <= TOLERANCE
    assert all(relative_error(without[lane], expected[lane]) > 0.01 for lane in range(1, LANES)), "adapters must matter"
