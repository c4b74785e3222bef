"""LoRA files of every layout, imported and run as a lane, against diffusers' `load_lora_weights` on the same file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from impasto_export import manifest
from impasto_export.adapters import importer, layers
from impasto_export.architecture import Json
from impasto_export.weights import read_header, read_tensor
from tests.helpers import lora_files
from tests.helpers.engines import Array, banks, fill, picked, run
from tests.helpers.likeness import range_db

from .conftest import Studio, diffusers_pipeline

# Of the output's range over the error's root mean square. A wrong alpha or a layer left out is far below it.
DECIBELS = 50
STRENGTH = 0.7
GRAPHS = ("unet", "text_encoder")
TARGETS = {"unet": ["to_q", "to_k", "to_out.0", "ff.net.2", "proj_in"], "text_encoder": ["k_proj", "out_proj", "fc2"]}


def sites(record: Json) -> dict[str, dict[str, tuple[int, int]]]:
    """graph -> module -> shape of its weight, of all that have a bank."""
    sizes = layers.site_sizes(record)
    return {graph: {name: (out, into) for name, (into, out) in sizes[graph].items()} for graph in GRAPHS}


def bank(record: Json, graph: str, adapter: Path, strength: float) -> dict[str, Array]:
    """The adapter's rows, all ranks padded to the largest, and one lane's pick of them, with the strength."""
    header = read_header(adapter)
    names = [key.removesuffix(".A") for key in header.tensors if key.startswith(f"{graph}.") and key.endswith(".A")]
    rank = max(header.tensors[f"{name}.A"].shape[1] for name in names)
    tables = banks(record["graphs"][graph], {"lora": rank})
    for name in names:
        a, b, scale = (read_tensor(header, f"{name}.{role}").astype(np.float32) for role in ("A", "B", "scale"))
        site = name.removeprefix(f"{graph}.")
        fill(tables[f"{site}.lora_A"], 0, rank, a.T)
        fill(tables[f"{site}.lora_B"], 0, rank, b * scale)
    return {**tables, **picked("lora", np.zeros(1, np.int64), rank, strength)}


def feeds(graph: str) -> dict[str, Array]:
    """One row's inputs."""
    draw = np.random.default_rng(5)
    if graph == "text_encoder":
        return {"input_ids": draw.integers(0, 500, (1, 32))}
    return {
        "sample": draw.standard_normal((1, 16, 8, 12)).astype(np.float32),
        "timestep": np.array([500.0], np.float32),
        "encoder_hidden_states": draw.standard_normal((1, 32, 128)).astype(np.float32),
    }


def ours(bundle: Path, graph: str, adapter: Path, strength: float) -> Array:
    record = manifest.load(bundle)
    lane = {**feeds(graph), **bank(record, graph, adapter, strength)}
    return run("onnxruntime", bundle, graph, lane)[0]


def theirs(pipe: Any, graph: str) -> Array:
    given = {name: torch.from_numpy(value) for name, value in feeds(graph).items()}
    with torch.no_grad():
        output = getattr(pipe, graph)(*given.values(), return_dict=False)[0]
    return np.asarray(output)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return diffusers_pipeline()


@pytest.fixture
def loaded(pipe: Any) -> Iterator[Callable[[Path], Any]]:
    """The pipeline with a file's adapter at STRENGTH, until the test ends."""

    def load(file: Path) -> Any:
        pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="style")
        pipe.set_adapters("style", STRENGTH)
        return pipe

    yield load
    pipe.unload_lora_weights()


def diffusers_file(folder: Path, record: Json, states_alpha: bool) -> Path:
    """As diffusers' training scripts save; with the configs in the header, or as older ones did, without."""
    pipe, arguments = diffusers_pipeline(), {}
    torch.manual_seed(3)
    for graph in GRAPHS:
        config = LoraConfig(
            r=4, lora_alpha=6 if states_alpha else 4, use_rslora=states_alpha, target_modules=TARGETS[graph],
            rank_pattern={TARGETS[graph][0]: 8}, alpha_pattern={} if states_alpha else {TARGETS[graph][0]: 8},
            init_lora_weights=False,
        )  # fmt: skip
        getattr(pipe, graph).add_adapter(config)
        arguments[f"{graph}_lora_layers"] = get_peft_model_state_dict(getattr(pipe, graph))
        if states_alpha:
            arguments[f"{graph}_lora_adapter_metadata"] = config.to_dict()
    StableDiffusionPipeline.save_lora_weights(folder, **arguments)
    return folder / "pytorch_lora_weights.safetensors"


def processor_file(folder: Path, record: Json) -> Path:
    """As diffusers saved attention processors before PEFT."""
    names = {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_v": "to_v_lora", "to_out.0": "to_out_lora"}
    draw, tensors = np.random.default_rng(1), {}
    for module, shape in sites(record)["unet"].items():
        owner, _, layer = module.rpartition(".attn1.")
        if layer in names:
            parts = lora_files.lora(shape, 4, draw)
            for role in ("down", "up"):
                key = f"unet.{owner}.attn1.processor.{names[layer]}.{role}.weight"
                tensors[key] = parts[f"lora_{role}.weight"]
    return lora_files.write(folder / "old.safetensors", tensors)


def kohya_file(folder: Path, record: Json) -> Path:
    """As kohya's trainer saves for SD 1.x: alpha is not the rank, and layers differ in both."""
    some = {graph: dict(list(modules.items())[::2]) for graph, modules in sites(record).items()}
    others = {graph: dict(list(modules.items())[1::2]) for graph, modules in sites(record).items()}
    tensors = lora_files.kohya(some, lora_files.lora, rank=4, alpha=1.0, seed=1)
    tensors |= lora_files.kohya(others, lora_files.lora, rank=8, alpha=1.0, seed=2)
    return lora_files.write(folder / "kohya.safetensors", tensors)


FILES: Mapping[str, Callable[[Path, Json], Path]] = {
    "diffusers, configs in the header": lambda folder, record: diffusers_file(folder, record, True),
    "diffusers, no alpha": lambda folder, record: diffusers_file(folder, record, False),
    "diffusers before PEFT": processor_file,
    "kohya": kohya_file,
}


@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_a_file_as_a_lane(
    write: Callable[[Path, Json], Path], studio: Studio, loaded: Callable[[Path], Any], tmp_path: Path
) -> None:
    record = manifest.load(studio.bundle)
    file, adapter = write(tmp_path, record), tmp_path / "imported.safetensors"
    adapter.write_bytes(importer.convert(file, record).data)
    pipe = loaded(file)
    for graph in GRAPHS:
        if not any(key.startswith(f"{graph}.") for key in read_header(adapter).tensors):
            continue
        expected = theirs(pipe, graph)
        assert range_db(ours(studio.bundle, graph, adapter, STRENGTH), expected) >= DECIBELS
        for wrong in (0.0, 2 * STRENGTH):
            assert range_db(ours(studio.bundle, graph, adapter, wrong), expected) < DECIBELS - 5, "strength must matter"
