"""How LoRA files and their kin spell a layer and a role, and which of their keys no weight of a backbone can take."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from impasto_export import spellings
from impasto_export.adapters.layers import Layers
from impasto_export.spellings import TRANSFORMER, UNET, UPSCALER

# Roles as they are called here; LoHa's and LoKr's keep their key's own name, which no other form has.
# DoRA's norms are PEFT's magnitude, one for each output, or kohya's dora_scale, which may also have one for each input.
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
# PEFT's name of the adapter within a key of a model that was saved whole: `….lora_A.default.weight`.
ADAPTER = re.compile(
    rf"(\.(?:lora_[AB]|lora_magnitude_vector|(?:{LOHA}|{LOKR})\w+))\.(?!weight$|bias$)[^.]+(?=$|\.weight$|\.bias$)"
)
# diffusers' attention-processor LoRA: `….attn1.processor.to_q_lora.down.weight`, and its text encoder's form.
PROCESSOR = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
TEXT_PROCESSOR = {"to_q_lora": "q_proj", "to_k_lora": "k_proj", "to_v_lora": "v_proj", "to_out_lora": "out_proj"}
PROCESSOR_ENDINGS = {".down.weight": DOWN, ".up.weight": UP, ".alpha": ALPHA}

NUMBERED = "its layers are numbered, not named, as the first LoRAs' were; save it again by another program"
# Parts of keys, each of which ends with a dot here.
REFUSED = {
    ".oft_": "OFT rotates the base weight",
    ".on_input.": "IA3 scales a layer's input or output",
    ".a1.weight": "GLoRA changes the base weight and the bias",
    ".a2.weight": "GLoRA changes the base weight and the bias",
    ".b1.weight": "GLoRA changes the base weight and the bias",
    ".b2.weight": "GLoRA changes the base weight and the bias",
    ".lokr_t1": "LoKr with a core in its first factor is not known",
    ".scalar.": "a multiplier that LyCORIS keeps apart while it trains; save the adapter again with it multiplied in",
    ".diff_b.": "a bias's whole change, and no bias takes adapters",
    ".diff.": "a weight's whole change; only low-rank ones are carried",
    ".w_norm.": "a normalisation's change, and only linear and convolution layers take adapters",
    ".b_norm.": "a normalisation's change, and only linear and convolution layers take adapters",
    "bundle_emb.": "an embedding within a LoRA file; save it as a file of its own and import both",
    "lora_embedding_": "LoRA of an embedding table",
    "modules_to_save": "a whole retrained module, not LoRA",
    "lora_A.bias": "LoRA with a bias",
    "lora_B.bias": "LoRA with a bias",
    ":up.": NUMBERED,
    ":down.": NUMBERED,
}
# family -> its backbone's graph
BACKBONES = {"diffusion": UNET, "masked": TRANSFORMER}
# Whose names begin as nothing but an adapter's do.
FLATTENED = ("kohya", "lycoris")
# Said of files that name no component.
UNNAMED = "unnamed component"
NO_LAYER = "names no layer of this backbone that takes adapters"


@dataclass(frozen=True)
class Piece:
    """What one key holds. `graph` and `module` are the bundle's names."""

    graph: str
    module: str
    role: str


@dataclass(frozen=True)
class Names:
    """A bundle's layers, to be found under any spelling."""

    layers: Layers

    @cached_property
    def spelled(self) -> Mapping[str, Mapping[str, str]]:
        return {graph: spellings.spelled(graph, modules) for graph, modules in self.layers.items()}

    def find(self, path: str, component: str | None) -> tuple[str, str] | str:
        """Graph and module that `path` means, or why there are none; `component` is the graph that its file is of."""
        said, rest = spellings.component(path)
        graph, flat = said or component, spellings.flat(rest)
        if graph and graph not in self.layers:
            return f"adapts a {graph}, which this backbone does not have"
        found = [(one, self.spelled[one][flat]) for one in self._graphs(graph) if flat in self.spelled[one]]
        if len(found) > 1:
            return f"may be of {' or '.join(one for one, _ in found)}; put its file into a folder of the right name"
        return found[0] if found else NO_LAYER

    def near(self, path: str) -> str | None:
        """Graph and module whose spelling is most like a `path` that means none; None where none is like it."""
        said, rest = spellings.component(path)
        near = {graph: spellings.nearest(rest, self.spelled[graph]) for graph in self._graphs(said)}
        return next((f"{graph}.{name}" for graph, name in near.items() if name), None)

    def _graphs(self, graph: str | None) -> Collection[str]:
        """Where a path may lead: into the graph that it names, or for one that names none, into any."""
        return [graph] if graph else self.layers


@dataclass(frozen=True)
class AsWritten:
    """Every layer under the name that the file gives it: what is told of a file without a bundle."""

    def find(self, path: str, component: str | None) -> tuple[str, str] | str:
        graph, rest = spellings.component(path)
        return graph or component or UNNAMED, rest

    def near(self, path: str) -> str | None:
        return None


def read(key: str, names: Names | AsWritten, component: str | None = None) -> Piece | str:
    """The piece that `key` names, or why there is none."""
    reason = refusal(key)
    if reason:
        return reason
    said = split(key)
    if said is None:
        return "not a LoRA key: no known role is at its end"
    path, role = said
    found = names.find(path, component)
    return found if isinstance(found, str) else Piece(*found, role)


def refusal(key: str) -> str | None:
    """Why a key of LoRA's kin can never be taken, whatever layer it names."""
    ended = _without_adapter(key) + "."
    return next((reason for mark, reason in REFUSED.items() if mark in ended), None)


def split(key: str) -> tuple[str, str] | None:
    """(path of the layer, role), or None when the ending is unknown."""
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
    """Whether the key is of a LoRA or of its kin, whatever layer it names, also of those that are refused."""
    return split(key) is not None or refusal(key) is not None or spellings.writer([key]) in FLATTENED


def paired(keys: Collection[str]) -> bool:
    """Whether some of the keys name the second stage of a cascade."""
    return any(spellings.component(key)[0] == UPSCALER for key in keys)


def families(keys: Collection[str]) -> set[str]:
    """The families whose backbone some of the keys name."""
    named = {spellings.component(key)[0] for key in keys}
    return {family for family, graph in BACKBONES.items() if graph in named}
