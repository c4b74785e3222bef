"""What realsize.py runs graphs on: the same inputs for either side, and a random LoRA at a few of a backbone's sites.

A graph with adapter sites is run on two lanes, the first without an adapter and the second under the LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.parts.realsize.backbones import Backbone
from numpy.typing import NDArray
from onnx import ValueInfoProto
from safetensors.numpy import load_file, save_file

from impasto_export import splice
from impasto_export.architecture import LORA, Architecture, Graph, Port, Site

Array = NDArray[Any]
Feeds = dict[str, Array]

LANES = 2
RANK, ALPHA = 4, 2.0
SCALE = ALPHA / RANK
STRENGTH = 0.6  # of a site's adapter, to its input
# Endings of the adapted layers' names.
ADAPTED = (".attn1.to_q", ".attn2.to_v", ".ff.net.2", ".q_proj", ".mlp.fc2")
SEED = 6
CONTEXT = 77  # tokens, of a ControlNet that takes any number
# transformers takes the 2 of older configs for the vocabulary's highest id.
LEGACY_END = 2


def feeds(backbone: Backbone, name: str) -> Feeds:
    """The inputs of the graph `name` but its banks."""
    found = backbone.architecture()
    graph, draw = found.graphs[name], np.random.default_rng(SEED)
    sizes = _sizes(backbone, found, graph)
    return {port.name: _values(port, found, name, sizes, backbone.pixels, draw) for port in graph.inputs}


def _sizes(backbone: Backbone, found: Architecture, graph: Graph) -> Mapping[str, int]:
    """Of the dynamic dimensions. A size that isn't named is 1, which a ControlNet's residuals may be."""
    unit = "tokens" if "tokens" in found.sizes else "latents"
    side = backbone.pixels // found.sizes[unit]["factor"]
    lanes, pixels = LANES if graph.sites else 1, backbone.pixels
    fine = side * found.sizes.get("upscale", {"scale": 1})["scale"]
    grids = {"h": side, "w": side, "fine_h": fine, "fine_w": fine, "H": pixels, "W": pixels}
    return {"lanes": lanes, "n": 1, **grids, "tokens": CONTEXT, f"{LORA}_K": RANK}


def _values(
    port: Port, found: Architecture, graph: str, sizes: Mapping[str, int], pixels: int, draw: np.random.Generator
) -> Array:
    shape = tuple(size if isinstance(size, int) else sizes.get(size, 1) for size in port.shape)
    stated: dict[str, Sequence[float]] = {
        "timestep": (801, 1),
        "time_ids": (pixels, pixels, 0, 0, pixels, pixels),
        "micro_conds": (pixels, pixels, 0, 0, 6),
        "conditioning_scale": (0.5,),
    }
    if port.name.endswith("_rows"):
        return np.arange(shape[0] * shape[1]).reshape(shape)
    if port.name.endswith("_weights"):
        return np.ones(shape, np.float32)
    if port.name in stated:
        values = np.array(stated[port.name], np.float32)
        return np.broadcast_to(values if len(shape) > 1 else values[: shape[0]], shape).copy()
    if port.dtype == "int64":
        return _ids(port.name, shape, found, graph, draw)
    return draw.standard_normal(shape, np.float32)


def _ids(name: str, shape: tuple[int, ...], found: Architecture, graph: str, draw: np.random.Generator) -> Array:
    """Texts that end before they are full, or image tokens."""
    config = found.components[found.graphs[graph].component].config
    count = config.get("num_vq_embeddings") or config["low_vocab_size" if name == "low_ids" else "vocab_size"]
    ids = draw.integers(0, count, shape)
    if "eos_token_id" in config or "max_position_embeddings" in config:
        stated = config.get("eos_token_id", LEGACY_END)
        end, high = (count - 1 if stated == LEGACY_END else stated), shape[1] // 2
        ids[ids == end] = 1
        ids[:, high:] = end
    return ids


# the LoRA


def write_lora(found: Architecture, path: Path) -> None:
    """A random LoRA of rank RANK in diffusers' layout, which states no alpha; empty where nothing can be adapted."""
    draw = np.random.default_rng(SEED)
    tensors: dict[str, Array] = {}
    for graph, sites in _adapted(found).items():
        for site in sites:
            a = draw.standard_normal((RANK, site.in_features), np.float32) / np.float32(site.in_features**0.5)
            b = draw.standard_normal((site.out_features, RANK), np.float32) * np.float32(STRENGTH / RANK**0.5)
            tensors[f"{graph}.{site.name}.lora_A.weight"] = a
            tensors[f"{graph}.{site.name}.lora_B.weight"] = b
    save_file(tensors, path)


def _adapted(found: Architecture) -> dict[str, list[Site]]:
    return {
        name: [site for site in graph.sites if site.kind == LORA and site.name.endswith(ADAPTED)]
        for name, graph in found.graphs.items()
    }


def deltas(path: Path, graph: str) -> dict[str, Array]:
    """What the LoRA adds to each weight [out, in] of `graph`'s component, by the adapted layer's name."""
    tensors, suffix = load_file(path), ".lora_A.weight"
    layers = [key.removesuffix(suffix) for key in tensors if key.startswith(f"{graph}.") and key.endswith(suffix)]
    return {
        layer.removeprefix(f"{graph}."): SCALE * tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}{suffix}"]
        for layer in layers
    }


def banks(file: Path, graph: Graph, name: str, adapter: Path | None) -> Feeds:
    """Of every site the first lane's rows, of nothing, and the second one's, of the imported `adapter`."""
    own = {port.name for port in graph.inputs}
    inputs = [value for value in splice.read(file).graph.input if value.name not in own]
    found = {value.name: np.zeros(_table(value), np.float32) for value in inputs}
    tensors = load_file(adapter) if adapter else {}
    for site in graph.sites:
        key = f"{name}.{site.name}"
        if f"{key}.A" in tensors:
            found[f"{site.name}.lora_A"][RANK:] = tensors[f"{key}.A"].T
            found[f"{site.name}.lora_B"][RANK:] = tensors[f"{key}.B"] * tensors[f"{key}.scale"]
    return found


def _table(bank: ValueInfoProto) -> tuple[int, int]:
    """Every lane's rows of a bank; of a form that no adapter here has, one."""
    rows, width = bank.type.tensor_type.shape.dim
    return LANES * (RANK if rows.dim_param == "R" else 1), width.dim_value
