"""How LoRA files and their kin spell a layer and a role, and which of their keys no weight of a backbone can take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from impasto_export.adapters import kohya
from impasto_export.adapters.layers import Layers

TEXT_PREFIX = "text_model."
# What a text encoder has beside the text model.
TEXT_HEADS = ("text_projection",)
PEFT_PREFIX = "base_model.model."
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
# diffusers' attention-processor LoRA: `….attn1.processor.to_q_lora.down.weight`, and its text encoder's form.
PROCESSOR = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
TEXT_PROCESSOR = {"to_q_lora": "q_proj", "to_k_lora": "k_proj", "to_v_lora": "v_proj", "to_out_lora": "out_proj"}
PROCESSOR_ENDINGS = {".down.weight": DOWN, ".up.weight": UP}

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
}
# family -> its backbone's graph, which is also what its LoRAs' keys begin with
BACKBONES = {"diffusion": "unet", "masked": "transformer"}
ENCODERS = ("text_encoder", "text_encoder_2")
# Said of PEFT's files, which name no component.
UNNAMED = "unnamed component"


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
    def flattened(self) -> Mapping[str, Mapping[str, str]]:
        return {graph: kohya.flattened(graph, modules) for graph, modules in self.layers.items()}

    def find(self, path: str, component: str | None) -> tuple[str, str] | str:
        """Graph and module that `path` means, or why there are none; `component` is the graph that its file is of."""
        found = [(graph, name) for graph, name in self._candidates(path, component) if name in self._modules(graph)]
        if len(found) > 1:
            return f"may be of {' or '.join(graph for graph, _ in found)}; put its file into a folder of the right name"
        graph = component_of(path) or component
        if graph and graph not in self.layers:
            return f"adapts a {graph}, which this backbone does not have"
        return found[0] if found else "names no layer of this backbone that takes adapters"

    def _modules(self, graph: str) -> Collection[str]:
        return self.layers.get(graph, ())

    def _candidates(self, path: str, component: str | None) -> list[tuple[str, str]]:
        """By the path's prefix, or for PEFT's, which has none, in any graph."""
        flat = kohya.split(path)
        if flat is not None:
            graph, name = flat
            return [(graph, self.flattened.get(graph, {}).get(name, ""))]
        said = component_of(path) or component
        return [(graph, _module(graph, path)) for graph in ([said] if said else self.layers)]


@dataclass(frozen=True)
class AsWritten:
    """Every layer under the name that the file gives it: what is told of a file without a bundle."""

    def find(self, path: str, component: str | None) -> tuple[str, str] | str:
        flat = kohya.split(path)
        if flat is not None:
            return flat
        graph = component_of(path) or component or UNNAMED
        return graph, path.removeprefix(f"{graph}.").removeprefix(PEFT_PREFIX)


def read(key: str, names: Names | AsWritten, component: str | None = None) -> Piece | str:
    """The piece that `key` names, or why there is none."""
    reason = refusal(key)
    if reason:
        return reason
    said = split(key)
    if said is None:
        return "not a LoRA key of the diffusers, PEFT or kohya layout"
    path, role = said
    found = names.find(path, component)
    return found if isinstance(found, str) else Piece(*found, role)


def refusal(key: str) -> str | None:
    """Why a key of LoRA's kin can never be taken, whatever layer it names."""
    return next((reason for mark, reason in REFUSED.items() if mark in f"{key}."), None)


def split(key: str) -> tuple[str, str] | None:
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


def component_of(key: str) -> str | None:
    """The graph that a key names by its prefix."""
    flat = kohya.split(key)
    if flat is not None:
        return flat[0]
    return next((graph for graph in (*BACKBONES.values(), *ENCODERS) if key.startswith(f"{graph}.")), None)


def _module(graph: str, path: str) -> str:
    name = path.removeprefix(f"{graph}.").removeprefix(PEFT_PREFIX)
    # Libraries disagree on whether the text model's own name is part of the path.
    if graph in ENCODERS and not name.startswith(TEXT_HEADS):
        return TEXT_PREFIX + name.removeprefix(TEXT_PREFIX)
    return name


def is_lora(key: str) -> bool:
    """Whether the key has an ending of LoRA's or its kin's in a known layout, whatever layer it names."""
    return split(key) is not None


def speaks_of_lora(key: str) -> bool:
    """Whether the key is of a LoRA or of its kin, also of those that are refused."""
    return is_lora(key) or refusal(key) is not None or kohya.split(key) is not None


def families(keys: Collection[str]) -> set[str]:
    """The families whose backbone some of the keys name."""
    named = {component_of(key) for key in keys}
    return {family for family, graph in BACKBONES.items() if graph in named}
