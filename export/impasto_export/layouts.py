"""How LoRA files in the wild spell a site and a role, and which of their keys a bottleneck adapter cannot carry."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["A", "B", "alpha"]
TEXT_PREFIX = "text_model."
PEFT_PREFIX = "base_model.model."

# Key endings: PEFT's and new diffusers', diffusers' training scripts', diffusers' text encoder before PEFT.
ENDINGS: dict[str, Role] = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora.down.weight": "A",
    ".lora.up.weight": "B",
    ".lora_linear_layer.down.weight": "A",
    ".lora_linear_layer.up.weight": "B",
    ".alpha": "alpha",
}
# diffusers' attention-processor LoRA: `….attn1.processor.to_q_lora.down.weight`, and its text encoder's form.
PROCESSOR = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
TEXT_PROCESSOR = {"to_q_lora": "q_proj", "to_k_lora": "k_proj", "to_v_lora": "v_proj", "to_out_lora": "out_proj"}
PROCESSOR_ENDINGS: dict[str, Role] = {".down.weight": "A", ".up.weight": "B"}

REFUSED = {
    "lora_magnitude_vector": "DoRA changes the base weight's norm; no bottleneck adapter can",
    "dora_scale": "DoRA changes the base weight's norm; no bottleneck adapter can",
    "hada_w": "LoHa is a product of two low-rank matrices; no bottleneck adapter can",
    "lokr_w": "LoKr is a Kronecker product; no bottleneck adapter can",
    "lora_mid": "LoCon with a Tucker core adapts convolutions",
    ".oft_": "OFT rotates the base weight",
    "lora_embedding_": "LoRA of an embedding table",
    "modules_to_save": "a whole retrained module, not LoRA",
    "lora_A.bias": "LoRA with a bias",
    "lora_B.bias": "LoRA with a bias",
}
REFUSED_PREFIXES = {
    "lora_unet_": "kohya layout, not read yet; convert it with diffusers first",
    "lora_te": "kohya layout, not read yet; convert it with diffusers first",
    "text_encoder_2.": "second text encoder: an adapter of another backbone",
}
# family -> its backbone's graph, which is also what its LoRAs' keys begin with
BACKBONES = {"diffusion": "unet", "masked": "transformer"}


@dataclass(frozen=True)
class Piece:
    """What one key holds. `graph` and `site` are the bundle's names."""

    graph: str
    site: str
    role: Role


def read(key: str, sites: Mapping[str, Mapping[str, tuple[int, int]]]) -> Piece | str:
    """The piece that `key` names among the bundle's `sites` (graph -> site -> sizes), or why there is none."""
    reasons = [reason for mark, reason in REFUSED.items() if mark in key]
    reasons += [reason for prefix, reason in REFUSED_PREFIXES.items() if key.startswith(prefix)]
    foreign = [graph for graph in BACKBONES.values() if graph not in sites and key.startswith(f"{graph}.")]
    reasons += [f"an adapter of a {graph} backbone" for graph in foreign]
    if reasons:
        return reasons[0]
    split = _split(key)
    if split is None:
        return "not a LoRA key of the diffusers or PEFT layout"
    path, role = split
    for graph, name in _candidates(path, sites):
        if name in sites.get(graph, {}):
            return Piece(graph, name, role)
    return "names no linear layer of this backbone that takes adapters"


def _split(key: str) -> tuple[str, Role] | None:
    """(path of the layer, role), or None when the ending is unknown."""
    for ending, role in PROCESSOR_ENDINGS.items():
        head, _, layer = key.removesuffix(ending).rpartition(".")
        if key.endswith(ending) and layer in PROCESSOR:
            text = ".self_attn" in head
            return f"{head.removesuffix('.processor')}.{(TEXT_PROCESSOR if text else PROCESSOR)[layer]}", role
    for ending, role in ENDINGS.items():
        if key.endswith(ending):
            return key.removesuffix(ending), role
    return None


def _candidates(path: str, graphs: Collection[str]) -> list[tuple[str, str]]:
    """Graph and site names that `path` may mean: by its prefix, or for PEFT's files, which have none, by any."""
    for graph in graphs:
        if path.startswith(f"{graph}."):
            return [(graph, _site(graph, path.removeprefix(f"{graph}.")))]
    return [(graph, _site(graph, path)) for graph in graphs]


def _site(graph: str, path: str) -> str:
    name = path.removeprefix(PEFT_PREFIX)
    # Libraries disagree on whether the text model's own name is part of the path.
    return TEXT_PREFIX + name.removeprefix(TEXT_PREFIX) if graph == "text_encoder" else name


def is_lora(key: str) -> bool:
    """Whether the key has a LoRA ending of a known layout, whatever layer it names."""
    return _split(key) is not None


def speaks_of_lora(key: str) -> bool:
    """Whether the key is of a LoRA or of its kin, also of those that are refused."""
    return is_lora(key) or any(mark in key for mark in REFUSED) or key.startswith(tuple(REFUSED_PREFIXES))


def families(keys: Collection[str]) -> set[str]:
    """The families whose backbone some of the keys name."""
    return {family for family, graph in BACKBONES.items() if any(key.startswith(f"{graph}.") for key in keys)}
