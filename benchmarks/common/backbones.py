"""Backbones to measure on: a checkpoint, its bundle, its plain graph, and random adapters.

mini     studio/mini-diffusion as it is
unet140  Stable Diffusion 1.5's UNet at 0.4 of its width (142 M parameters, cross-attention 768 wide, 77 tokens, 32 x 32
         latents) and a two-layer text encoder, both of random weights, around the studio's autoencoder

They are made anew at every run in .impasto/bench, but for exported graphs, which stay until the exporter changes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common.bench import ROOT
from safetensors.numpy import save_file
from torch import Tensor, nn

from impasto_export import architecture, atomic, manifest, splice
from impasto_export.adapters import importer
from impasto_export.adapters.importer import Said
from impasto_export.adapters.registry import Registry
from impasto_export.architecture import Json
from impasto_export.checkpoints.checkpoint import Stored
from impasto_export.families import DIFFUSION, Family
from impasto_export.link import link
from impasto_export.tracing import folding, graphs, masked, recipes, sites, skeleton, texts, weightless
from impasto_export.tracing.recipes import Recipe
from impasto_export.weights import read_header

KEPT = ROOT / ".impasto" / "bench"
STUDIO = ROOT / "studio" / "mini-diffusion"
PUBLIC = ROOT / "export" / "architectures"
LORA_FILE = "pytorch_lora_weights.safetensors"

NAMES = tuple(f"style-{number}" for number in range(8))
# As diffusers' training scripts: the attention projections, rank 8 or 16, alpha = rank.
ADAPTED = {
    "unet": (".to_q", ".to_k", ".to_v", ".to_out.0"),
    "text_encoder": (".q_proj", ".k_proj", ".v_proj", ".out_proj"),
}
RANKS = (8, 16)
STRENGTH = 0.3  # of an adapter's output, to its input: plainly seen in the picture

SD_UNET: Json = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 32,
    "in_channels": 16,  # the studio's latents
    "out_channels": 16,
    "block_out_channels": [128, 256, 512, 512],  # SD 1.5: 320, 640, 1280, 1280
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
SD_TEXT: Json = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 2,
    "max_position_embeddings": 77,
    "vocab_size": 1024,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}


@dataclass(frozen=True)
class Backbone:
    """Where everything lies. `plain` is the denoiser's graph without adapter inputs; `registry` has NAMES."""

    name: str
    checkpoint: Path
    bundle: Path
    plain: Path
    loras: Path
    registry: Path

    def manifest(self) -> Json:
        return manifest.load(self.bundle)

    def lora(self, adapter: str) -> Path:
        """The folder with the adapter's file in diffusers' layout."""
        return self.loras / adapter

    def unet(self) -> Any:
        """The UNet in torch without weights, on the meta device: what it computes can be counted, not run."""
        config = architecture.read_json(self.checkpoint / "unet" / "config.json")
        with torch.device("meta"):
            return graphs.build("unet", config)


@dataclass(frozen=True)
class Kind:
    """What the backbones of a family have in common.

    `denoiser` is the graph that runs at every step; `plain` makes the recipe of the same without adapter inputs, from
    the components' configs; `adapt` fills `loras` and `registry` in a folder for the bundle of this manifest. The
    graphs of `studio` are shipped.
    """

    family: Family
    denoiser: str
    studio: Path
    plain: Callable[[Mapping[str, Json]], Recipe]
    adapt: Callable[[Path, Json], None]


def public(name: str) -> dict[str, Json]:
    """What a public checkpoint states of each of its components."""
    return {path.parent.name: architecture.read_json(path) for path in sorted((PUBLIC / name).glob("*/config.json"))}


def mini(say: Callable[[str], object] = str) -> Backbone:
    return made(UNET, "mini", lambda _: STUDIO, say)


def unet140(say: Callable[[str], object] = str) -> Backbone:
    return made(UNET, "unet140", _random_checkpoint, say)


BACKBONES: dict[str, Callable[[Callable[[str], object]], Backbone]] = {"mini": mini, "unet140": unet140}


def made(kind: Kind, name: str, make: Callable[[Path], Path], say: Callable[[str], object]) -> Backbone:
    """`make` writes a checkpoint into the folder it's given, or says where there is one."""
    say(f"{name}: checkpoint")
    with atomic.folder(KEPT / name) as draft:
        found = make(draft / "checkpoint")
        exported = _exported(kind, name, found, say)
        say(f"{name}: bundle and adapters")
        link(found, draft / "bundle", [] if found == kind.studio else [exported])
        plain = _place_plain(kind.denoiser, exported, draft).relative_to(draft)
        kind.adapt(draft, manifest.load(draft / "bundle"))
    place = KEPT / name
    checkpoint = place / "checkpoint" if found.is_relative_to(draft) else found
    return Backbone(name, checkpoint, place / "bundle", place / plain, place / "loras", place / "registry")


# the graphs


def _exported(kind: Kind, name: str, checkpoint: Path, say: Callable[[str], object]) -> Path:
    """A folder with the skeletons of the checkpoint's architecture, where none is shipped, and the plain one."""
    configs = {part: architecture.read_json(checkpoint / part / "config.json") for part in kind.family.parts}
    kept = KEPT / f"{name}-graphs-{_ingredients(kind.family, configs)}"
    if kept.is_dir():
        return kept
    with atomic.folder(kept) as draft:
        if checkpoint != kind.studio:
            graphs.export(checkpoint, draft / "skeleton", name, lambda text: say(f"{name}: {text}"))
        say(f"{name}: exporting {kind.denoiser} without adapter inputs")
        (draft / f"{kind.denoiser}.onnx").write_bytes(graphs.trace(kind.plain(configs)))
    return kept


def _ingredients(family: Family, configs: Mapping[str, Json]) -> str:
    """What exported graphs depend on, in a few letters."""
    digest = hashlib.sha256()
    for part, config in configs.items():
        digest.update(architecture.canonical_json(family.parts[part].facts(config)))
    for module in (folding, graphs, masked, recipes, sites, skeleton, texts, weightless):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:12]


class Plain(nn.Module):
    """sample [lanes, C, h, w], timestep [lanes], context [lanes, T, D] -> model output [lanes, C, h, w]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        output: Tensor = self.model(sample, timestep, context, return_dict=False)[0]
        return output


def _plain_unet(configs: Mapping[str, Json]) -> Recipe:
    """The exporter's own recipe, less what it adds for adapters."""
    config, tokens = configs["unet"], configs["text_encoder"]["max_position_embeddings"]
    stride = 2 ** (len(config["block_out_channels"]) - 1)
    adapted = recipes.unet(graphs.build("unet", config), tokens, stride)
    return replace(
        adapted,
        module=Plain(graphs.build("unet", config)),
        args=adapted.args[:3],
        dynamic=adapted.dynamic[:3],
        inputs=adapted.inputs[:3],
        sites=(),
    )


def _place_plain(denoiser: str, exported: Path, folder: Path) -> Path:
    """The plain graph, over the same weights file as the bundle's, in a bundle of its own."""
    (folder / "plain").mkdir()
    weights, graph = (folder / "plain" / f"{denoiser}.{suffix}" for suffix in ("safetensors", "onnx"))
    weights.hardlink_to(folder / "bundle" / weights.name)
    tensors = {name: Stored(weights.name, tensor) for name, tensor in read_header(weights).tensors.items()}
    model = splice.read(exported / graph.name)
    graph.write_bytes(splice.point(model, tensors))
    record, fed = manifest.load(folder / "bundle"), {port.name for port in model.graph.input}
    facts = record["graphs"][denoiser]
    plain = {"file": graph.name, "inputs": [port for port in facts["inputs"] if port["name"] in fed], "sites": []}
    record = {**record, "graphs": {denoiser: {**facts, **plain}}}
    (folder / "plain" / "manifest.json").write_text(json.dumps(record))  # an engine on a GPU looks for its sizes there
    return graph


# the checkpoint


def _random_checkpoint(folder: Path) -> Path:
    """Weights of torch's own initialisation, saved as fp16; autoencoder, schedule and vocabulary are the studio's."""
    for part, config, seed in (("unet", SD_UNET, 1), ("text_encoder", SD_TEXT, 2)):
        torch.manual_seed(seed)
        graphs.build(part, config).half().save_pretrained(folder / part)
    for part in ("vae", "scheduler", "tokenizer"):
        shutil.copytree(STUDIO / part, folder / part)
    shutil.copy(STUDIO / "model_index.json", folder)
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "model_max_length": SD_TEXT["max_position_embeddings"]})
    )
    return folder


# adapters


def _adapt(folder: Path, record: Json) -> None:
    for number, adapter in enumerate(NAMES):
        write_lora(folder / "loras" / adapter, record, RANKS[number % len(RANKS)], seed=number)
        register(folder / "registry", adapter, folder / "loras" / adapter, record)


UNET = Kind(DIFFUSION, "unet", STUDIO, _plain_unet, _adapt)


def write_lora(
    folder: Path, record: Json, rank: int, seed: int, adapted: Mapping[str, tuple[str, ...]] = ADAPTED
) -> None:
    """A random LoRA of diffusers' layout for the backbone that the manifest `record` describes.

    `adapted` says which of its layers, by graph and by the endings of their names.
    """
    draw = np.random.default_rng(seed)
    tensors = {}
    for graph, endings in adapted.items():
        for site in record["graphs"][graph]["sites"]:
            if not site["name"].endswith(endings):
                continue
            a = draw.standard_normal((rank, site["in_features"])) / site["in_features"] ** 0.5
            b = draw.standard_normal((site["out_features"], rank)) * STRENGTH / rank**0.5
            for role, array in (("A", a), ("B", b)):
                tensors[f"{graph}.{site['name']}.lora_{role}.weight"] = array.astype(np.float16)
    folder.mkdir(parents=True)
    save_file(tensors, folder / LORA_FILE)


def register(registry: Path, name: str, source: Path, record: Json, trigger: str = "") -> str:
    """What `impasto adapters import` does; another `trigger` makes another adapter of the same weights. The digest."""
    return Registry(registry).put(name, importer.convert(source, record, Said(trigger=trigger)).data)
