"""Read the keys of LoRA files and their variants: the layer and the role that a key names, or why it cannot be used."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from impasto_export import spellings
from impasto_export.adapters.layers import Layers
from impasto_export.spellings import TRANSFORMER, UNET, UPSCALER

# Names of roles here; LoHa's and LoKr's keep the key's own name, which no other form has.
# DoRA's norms are PEFT's magnitude (one for each output) or kohya's dora_scale (one for each output, or each input).
DOWN, UP, MID, ALPHA, MAGNITUDE, DORA_SCALE = "down", "up", "mid", "alpha", "magnitude", "dora_scale"
LOHA, LOKR = "hada_", "lokr_"

# Key endings: PEFT's and new diffusers', diffusers' training scripts', diffusers' text encoder before PEFT, kohya's and
# LyCORIS's.
ENDINGS = {
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,
    ".lora_linear_layer.up.weight": UP,
    ".lora_down.weight": DOWN,
    ".lora_up.weight": UP,
    ".lora_mid.weight": MID,
    ".alpha": ALPHA,
    ".dora_scale": DORA_SCALE,
    ".lora_magnitude_vector.weight": MAGNITUDE,
    ".lora_magnitude_vector": MAGNITUDE,
    **{f".{LOHA}{part}": f"{LOHA}{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".{LOKR}{part}": f"{LOKR}{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
# PEFT's name of the adapter within a key, if the whole model was saved: `….lora_A.default.weight`.
ADAPTER = re.compile(
    rf"(\.(?:lora_[AB]|lora_magnitude_vector|(?:{LOHA}|{LOKR})\w+))\.(?!weight$|bias$)[^.]+(?=$|\.weight$|\.bias$)"
)
# diffusers' attention-processor LoRA: `….attn1.processor.to_q_lora.down.weight`, and its text encoder's form.
PROCESSOR = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
TEXT_PROCESSOR = {"to_q_lora": "q_proj", "to_k_lora": "k_proj", "to_v_lora": "v_proj", "to_out_lora": "out_proj"}
PROCESSOR_ENDINGS = {".down.weight": DOWN, ".up.weight": UP, ".alpha": ALPHA}

NUMBERED = "its layers are numbered, not named, as in the first LoRAs; convert it with another program"
# Part of a key -> why it is refused. A dot is appended to the key before the search.
REFUSED = {
    ".oft_": "OFT rotates the base weight",
    ".on_input.": "IA3 scales a layer's input or output",
    ".a1.weight": "GLoRA changes the base weight and the bias",
    ".a2.weight": "GLoRA changes the base weight and the bias",
    ".b1.weight": "GLoRA changes the base weight and the bias",
    ".b2.weight": "GLoRA changes the base weight and the bias",
    ".lokr_t1": "LoKr with a core in its first factor is not known",
    ".scalar.": "a multiplier that LyCORIS keeps apart during training; save the adapter again with it multiplied in",
    ".diff_b.": "a bias's whole change, but biases take no adapters",
    ".diff.": "a weight's whole change; only low-rank changes are read",
    ".w_norm.": "a normalisation's change, but only linear and convolution layers take adapters",
    ".b_norm.": "a normalisation's change, but only linear and convolution layers take adapters",
    "bundle_emb.": "an embedding within a LoRA file; save it as a separate file and import both",
    "lora_embedding_": "LoRA of an embedding table",
    "modules_to_save": "a whole retrained module, not a LoRA",
    "lora_A.bias": "LoRA with a bias",
    "lora_B.bias": "LoRA with a bias",
    ":up.": NUMBERED,
    ":down.": NUMBERED,
}
# family -> its backbone's graph
BACKBONES = {"diffusion": UNET, "masked": TRANSFORMER}
# Writers whose prefixes only adapters have.
FLATTENED = ("kohya", "lycoris")
# The component of files that name none.
UNNAMED = "unnamed component"
NO_LAYER = "names no layer of this backbone that takes adapters"


@dataclass(frozen=True)
class Piece:
    """What a key holds; `graph` and `module` are the bundle's names."""

    graph: str
    module: str
    role: str


@dataclass(frozen=True)
class Names:
    """A bundle's layers, found under any spelling."""

    layers: Layers

    @cached_property
    def spelled(self) -> Mapping[str, Mapping[str, str]]:
        return {graph: spellings.spelled(graph, modules) for graph, modules in self.layers.items()}

    def find(self, path: str, component: str | None) -> tuple[str, str] | str:
        """Graph and module that `path` means, or why there are none; `component` is the graph that its file is for."""
        said, rest = spellings.component(path)
        graph, flat = said or component, spellings.flat(rest)
        if graph and graph not in self.layers:
            return f"adapts a {graph}, which this backbone does not have"
        found = [(one, self.spelled[one][flat]) for one in self._graphs(graph) if flat in self.spelled[one]]
        if len(found) > 1:
            return f"may belong to {' or '.join(one for one, _ in found)}; put its file into a folder of the right name"
        return found[0] if found else NO_LAYER

    def near(self, path: str) -> str | None:
        """Graph and module with the spelling nearest to a `path` that names none; None if none is near."""
        said, rest = spellings.component(path)
        near = {graph: spellings.nearest(rest, self.spelled[graph]) for graph in self._graphs(said)}
        return next((f"{graph}.{name}" for graph, name in near.items() if name), None)

    def _graphs(self, graph: str | None) -> Collection[str]:
        """The graphs that a path may belong to: the one that it names, or all."""
        return [graph] if graph else self.layers


@dataclass(frozen=True)
class AsWritten:
    """Every layer under the file's own name, for when there is no bundle."""

    def find(self, path: str, component: str | None) -> tuple[str, str] | str:
        graph, rest = spellings.component(path)
        return graph or component or UNNAMED, rest

    def near(self, path: str) -> str | None:
        return None


def read(key: str, names: Names | AsWritten, component: str | None = None) -> Piece | str:
    """The piece that `key` names, or the reason why it names none."""
    reason = refusal(key)
    if reason:
        return reason
    said = split(key)
    if said is None:
        return "not a LoRA key: it ends in no known role"
    path, role = said
    found = names.find(path, component)
    return found if isinstance(found, str) else Piece(*found, role)


def refusal(key: str) -> str | None:
    """Why a key can never be read, whatever layer it names; None if it can."""
    ended = _without_adapter(key) + "."
    return next((reason for mark, reason in REFUSED.items() if mark in ended), None)


def split(key: str) -> tuple[str, str] | None:
    """The layer's path and the role, or None when the ending is unknown."""
    key = _without_adapter(key)
    for ending, role in PROCESSOR_ENDINGS.items():
        head, _, layer = key.removesuffix(ending).rpartition(".")
        if key.endswith(ending) and layer in PROCESSOR:
            text = ".self_attn" in head
            return f"{head.removesuffix('.processor')}.{(TEXT_PROCESSOR if text else PROCESSOR)[layer]}", role
    for ending, role in ENDINGS.items():
        if key.endswith(ending):
            return key.removesuffix(ending), role
    return None


def _without_adapter(key: str) -> str:
    return ADAPTER.sub(r"\1", key)


def speaks_of_lora(key: str) -> bool:
    """Whether the key belongs to a LoRA or a variant, whatever layer it names, even if it is refused."""
    return split(key) is not None or refusal(key) is not None or spellings.writer([key]) in FLATTENED


def paired(keys: Collection[str]) -> bool:
    """Whether any key names the second stage."""
    return any(spellings.component(key)[0] == UPSCALER for key in keys)


def families(keys: Collection[str]) -> set[str]:
    """The families whose backbone is named by any key."""
    named = {spellings.component(key)[0] for key in keys}
    return {family for family, graph in BACKBONES.items() if graph in named}
