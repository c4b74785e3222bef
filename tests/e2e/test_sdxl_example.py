"""The example of an SDXL checkpoint with LoRAs of three layouts, as a reader runs it, on random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_client.gallery import GAP, LABEL_WIDTH, MARGIN, SHOWN
from impasto_export import manifest
from impasto_export.adapters import layers
from impasto_export.link import link
from tests.helpers import lora_files, twins
from tests.helpers.lora_files import Array, Shape

from .test_examples import example, pixels

Layers = Mapping[str, Mapping[str, Shape]]
SIDE = 32  # pixels of its pictures


def diffusers_file(folder: Path, known: Layers) -> Path:
    """As diffusers' training scripts save: the part, then the layer."""
    return lora_files.write(folder / "diffusers.safetensors", peft_names(known, 1, "{graph}."))


def kohya_file(folder: Path, known: Layers) -> Path:
    """As kohya's trainers save for SDXL."""
    tensors = lora_files.kohya(known, lora_files.lora, alpha=8.0, seed=2, names=lora_files.SDXL)
    return lora_files.write(folder / "kohya.safetensors", tensors)


def peft_folder(folder: Path, known: Layers) -> Path:
    """As PEFT saves one model's adapter, with its config."""
    lora_files.write(folder / "peft" / "adapter_model.safetensors", peft_names(known, 3, "base_model.model."))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (folder / "peft" / "adapter_config.json").write_text(json.dumps(config))
    return folder / "peft"


def peft_names(known: Layers, seed: int, prefix: str) -> dict[str, Array]:
    draw, tensors = np.random.default_rng(seed), {}
    for graph, modules in known.items():
        for module, shape in modules.items():
            parts = lora_files.lora(shape, 4, draw)
            name = f"{prefix.format(graph=graph)}{module}"
            tensors[f"{name}.lora_A.weight"] = parts["lora_down.weight"]
            tensors[f"{name}.lora_B.weight"] = parts["lora_up.weight"]
    return tensors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL's topology at reduced width."""
    return twins.save(tmp_path_factory.mktemp("sdxl") / "checkpoint", "sdxl")


@pytest.fixture(scope="module")
def skeleton(twin_skeletons: Callable[[str], Path]) -> Path:
    """Its graphs: SDXL's own come with impasto, those of this width don't."""
    return twin_skeletons("sdxl")


@pytest.fixture
def loras(checkpoint: Path, skeleton: Path, tmp_path: Path) -> list[Path]:
    """One of each layout, for every layer that can have an adapter; PEFT's is for one model."""
    record = manifest.load(link(checkpoint, tmp_path / "sizes", [skeleton]).folder)
    known = {
        graph: {module: (out, into) for module, (into, out) in modules.items()}
        for graph, modules in layers.site_sizes(record).items()
    }
    files = tmp_path / "files"
    return [diffusers_file(files, known), kohya_file(files, known), peft_folder(files, {"unet": known["unet"]})]


def test_every_lora_paints_its_own_picture(checkpoint: Path, skeleton: Path, loras: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    places = ["--home", str(tmp_path / "home"), "--graphs", str(skeleton), "--out", str(out)]
    named = [f"lora-{number}={lora}" for number, lora in enumerate(loras)]
    said = example("sdxl.py", str(checkpoint), *named, "--steps", "2", *places)
    commands = [line.split()[2] for line in said.splitlines() if line.startswith("$ impasto ")]
    assert commands == ["link", *["adapters"] * 6, "serve"]
    plain_and_styled = columns(pixels(out), 1 + len(loras))
    for one, other in combinations(plain_and_styled, 2):
        assert np.abs(one - other).mean() > 10  # levels of 255; rounding changes some values by one
    assert pixels(tmp_path / "sheet-mix.png").shape == (SIDE, SIDE, 3)


def columns(gallery: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """The pictures of a gallery's only row."""
    side = SHOWN // SIDE * SIDE
    left, bottom = MARGIN + LABEL_WIDTH + GAP, len(gallery) - MARGIN
    return [gallery[bottom - side : bottom, x : x + side] for x in range(left, left + count * (side + GAP), side + GAP)]
