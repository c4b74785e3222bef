"""Backbones of the masked family to measure on, as backbones.py has those of the other.

mini       studio/mini-muse as it is; its base alone is measured
cascade    the same with its second stage
amused256  aMUSEd-256 with random weights: its transformer (604 M parameters, 22 layers, 8192 codes), its text encoder
           and its VQ model, all at their sizes, and the studio's vocabulary

Each has eight LoRAs of the attention's projections and eight bottleneck adapters for its base; where there is a second
stage, also eight pairs of bottleneck adapters for both. The large checkpoint takes a minute and 1.7 GB, and is kept in
.impasto/bench.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common import backbones
from benchmarks.common.backbones import KEPT, NAMES, STRENGTH, Backbone, Kind, public, register, write_lora
from benchmarks.common.bench import ROOT
from safetensors.numpy import save_file
from torch import Tensor, nn

from impasto_export import atomic
from impasto_export.adapters.sources import BOTTLENECK
from impasto_export.architecture import Json, canonical_json
from impasto_export.families import MASKED
from impasto_export.tracing import graphs, masked
from impasto_export.tracing.recipes import Recipe

STUDIO = ROOT / "studio" / "mini-muse"
RANK = 16
ADAPTED = {"transformer": (".to_q", ".to_k", ".to_v", ".to_out.0")}
BOTTLENECKS = tuple(f"bottleneck-{number}" for number in range(len(NAMES)))
PAIRS = tuple(f"pair-{number}" for number in range(len(NAMES)))
# After cross-attention and after the MLP; after self-attention where a stack has no other.
PAPER_PLACES = {
    "transformer": {"attn2": r".+\.attn2", "ff": r".+\.ff"},
    "upscaler": {
        "low_attn1": r"low_layers\.\d+\.attn1",
        "low_ff": r"low_layers\.\d+\.ff",
        "attn2": r"layers\.\d+\.attn2",
        "ff": r"layers\.\d+\.ff",
    },
}
HALVES = {"transformer": BOTTLENECK, "upscaler": "upscaler.safetensors"}

# What aMUSEd-256 states of each component, but for the studio's tokenizer's ends.
AMUSED: dict[str, Json] = public("amused-256")
AMUSED["text_encoder"] |= {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
SEEDS = {"text_encoder": 1, "transformer": 2, "vqvae": 3}
# On the matrices of torch's own initialisation, which makes every layer's output smaller than its input.
GAIN = 3**0.5


def mini(say: Callable[[str], object] = str) -> Backbone:
    return backbones.made(TRANSFORMER, "mini-muse", lambda _: STUDIO, say)


def amused256(say: Callable[[str], object] = str) -> Backbone:
    return backbones.made(TRANSFORMER, "amused256", lambda _: random_checkpoint(say), say)


# A cascade's figures are other ones than those of its base alone.
BACKBONES: dict[str, Callable[[Callable[[str], object]], Backbone]] = {
    "mini": mini,
    "cascade": mini,
    "amused256": amused256,
}


class Plain(nn.Module):
    """The exporter's module without its banks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, context: Tensor, pooled: Tensor, micro_conditions: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids, context, pooled, micro_conditions)
        return logits


def _plain_transformer(configs: Mapping[str, Json]) -> Recipe:
    """The exporter's own recipe, less what it adds for adapters: what lanes say of them, and the banks after it."""
    config, tokens = configs["transformer"], configs["text_encoder"]["max_position_embeddings"]
    with torch.device("meta"):  # for its ports alone
        adapted_model = graphs.build("transformer", config)
    adapted = masked.transformer(adapted_model, tokens, 2 if config["downsample"] else 1)
    return replace(
        adapted,
        module=Plain(graphs.build("transformer", config)),
        args=adapted.args[:4],
        dynamic=adapted.dynamic[:4],
        inputs=adapted.inputs[:4],
        sites=(),
    )


# adapters


def _adapt(folder: Path, record: Json) -> None:
    for seed, (lora, bottleneck, pair) in enumerate(zip(NAMES, BOTTLENECKS, PAIRS, strict=True)):
        write_lora(folder / "loras" / lora, record, RANK, seed, ADAPTED)
        register(folder / "registry", lora, folder / "loras" / lora, record)
        places = folder / "bottlenecks" / bottleneck, pair_folder(folder, pair)
        write_bottleneck(places[0], record, RANK, seed)
        register(folder / "registry", bottleneck, places[0], record)
        if "upscaler" in record["graphs"]:
            write_bottleneck(places[1], record, RANK, seed, HALVES)
            register(folder / "registry", pair, places[1], record)


TRANSFORMER = Kind(MASKED, "transformer", STUDIO, _plain_transformer, _adapt)


def pair_folder(backbone: Path, name: str) -> Path:
    """Where the files of a pair lie that is registered under this name."""
    return backbone / "pairs" / name


def write_bottleneck(
    folder: Path, record: Json, rank: int, seed: int, graphs: Collection[str] = ("transformer",)
) -> None:
    """A random bottleneck adapter of the studio's layout, at the paper's places of these graphs, a file for each, for
    the bundle of this manifest."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for graph in graphs:
        tensors: dict[str, Any] = {}
        names: dict[str, list[str]] = {place: [] for place in PAPER_PLACES[graph]}
        for site in record["graphs"][graph]["sites"]:
            places = PAPER_PLACES[graph].items() if site.get("kind") == "bottleneck" else ()
            for place in (place for place, pattern in places if re.fullmatch(pattern, site["name"])):
                width = site["in_features"]
                names[place].append(site["name"])
                for part, shape, size in (("down", (width, rank), width**-0.5), ("up", (rank, width), STRENGTH)):
                    tensors[f"{site['name']}.{part}"] = (draw.standard_normal(shape) * size).astype(np.float16)
        entry = {"gelu": "exact", "shared": False, "sites": names}
        save_file(tensors, folder / HALVES[graph], {"bottleneck": json.dumps(entry)})


# the checkpoint


def random_checkpoint(say: Callable[[str], object]) -> Path:
    """AMUSED with random weights, saved as fp16; schedule and vocabulary are the studio's. Made once."""
    facts = hashlib.sha256(canonical_json({"configs": AMUSED, "seeds": SEEDS, "gain": GAIN})).hexdigest()
    kept = KEPT / f"amused256-checkpoint-{facts[:12]}"
    if kept.is_dir():
        return kept
    with atomic.folder(kept) as draft:
        for part, config in AMUSED.items():
            say(f"amused256: random {part}")
            _random(part, config, SEEDS[part]).half().save_pretrained(draft / part)
        shutil.copytree(STUDIO / "tokenizer", draft / "tokenizer")
        shutil.copytree(STUDIO / "scheduler", draft / "scheduler")
        shutil.copy(STUDIO / "model_index.json", draft)
        _correct(draft / "tokenizer" / "tokenizer_config.json", "model_max_length", 77)
        _correct(draft / "scheduler" / "scheduler_config.json", "mask_token_id", 8255)
    return kept


def _random(part: str, config: Json, seed: int) -> Any:
    """Layers that keep the size of what goes through them, and codes that differ: logits that say something."""
    torch.manual_seed(seed)
    module = graphs.build(part, config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "quantize" in name:
                parameter.normal_()
            elif parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(GAIN)
    return module


def _correct(path: Path, key: str, value: int) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
