"""Every backbone that impasto ships graphs for, at its true size with random weights: a checkpoint as its library would
read it, written tensor by tensor without torch: `python backbones.py NAME FOLDER`.

The configs are those that the skeletons were exported from, names and shapes of the weights the skeletons' own: so
whatever loads the checkpoint and misses a tensor, or has one too many, contradicts the skeleton.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export import architecture, splice, weights
from impasto_export.architecture import SHIPPED, Architecture, Json
from impasto_export.checkpoints import tokenizer
from impasto_export.checkpoints.folders import TOKENIZERS
from impasto_export.families import INDEX, PARTS

ROOT = Path(__file__).resolve().parents[3]
PUBLIC, SMALL, STUDIO = ROOT / "export" / "architectures", ROOT / "export" / "small", ROOT / "studio"
CONTROLNET = "controlnet"
ITEM_BYTES = 2  # fp16, in which most checkpoints are published
# Around 1 for norms, around 0 for biases: not exactly, or one taken for another would not be seen.
SPREAD = 0.1

NOISE: Json = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PNDM: Json = {"_class_name": "PNDMScheduler", **NOISE, "set_alpha_to_one": False, "steps_offset": 1}
DDIM_V: Json = {**PNDM, "_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "v_prediction"}
EULER: Json = {"_class_name": "EulerDiscreteScheduler", **NOISE, "timestep_spacing": "leading", "steps_offset": 1}
LCM: Json = {"_class_name": "LCMScheduler", **NOISE}
MASKING: Json = {"_class_name": "AmusedScheduler", "masking_schedule": "cosine", "mask_token_id": 8255}
# What fills up a text, by the text encoder that reads it.
PADS = {"text_encoder": "<|endoftext|>", "text_encoder_2": "!"}


@dataclass(frozen=True, eq=False)
class Backbone:
    """`configs` is a checkpoint's folder, weights or not; `scheduler` is what a checkpoint's scheduler config says.

    A ControlNet's `base` is the backbone that it's put beside. `tokenizers` has the tokenizers; None: CLIP's own.
    `pixels` is the side of the pictures that the graphs are run at; of two stages, of the first one's.
    """

    name: str
    configs: Path
    scheduler: Json
    base: Backbone | None = None
    tokenizers: Path | None = None
    pixels: int = 256

    @property
    def skeleton(self) -> Path:
        return SHIPPED / self.name

    def architecture(self) -> Architecture:
        """Raises CheckpointError when no skeleton is shipped."""
        return architecture.load(self.skeleton)

    def parameters(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Shapes of all weights that the graphs read, by component and name."""
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for graph in self.architecture().graphs.values():
            slots = splice.placeholders(splice.read(self.skeleton / graph.file))
            found.setdefault(graph.component, {}).update({name: slot.shape for name, slot in slots.items()})
        return found

    def sizes(self) -> dict[str, int]:
        """How many numbers each component has."""
        return {part: sum(map(math.prod, shapes.values())) for part, shapes in self.parameters().items()}


def _public(name: str, scheduler: Json) -> Backbone:
    return Backbone(name, PUBLIC / name, scheduler)


def _studio(name: str, base: Backbone | None = None) -> Backbone:
    """Small enough to try the benchmark on."""
    path = STUDIO / name / "scheduler" / "scheduler_config.json"
    scheduler = architecture.read_json(path) if base is None else {}
    return Backbone(name, STUDIO / name, scheduler, base, STUDIO / name, pixels=64)


SD1 = _public("sd1", PNDM)
MINI = _studio("mini-diffusion")
# The largest comes last.
BACKBONES = {
    found.name: found
    for found in (
        SD1,
        Backbone("controlnet-sd1", PUBLIC / "controlnet-sd1", {}, SD1),
        _public("lcm-sd1", LCM),
        _public("sd2", DDIM_V),
        _public("amused-256", MASKING),
        _public("amused-512", MASKING),
        _public("muse-512", MASKING),
        _public("sdxl", EULER),
    )
}
MUSE = _studio("mini-muse")
CASCADE = replace(MUSE, name="mini-muse-cascade", configs=SMALL / "mini-muse-cascade")
STAND_INS = {found.name: found for found in (MINI, _studio("mini-controlnet", MINI), MUSE, CASCADE)}


def write_checkpoint(backbone: Backbone, folder: Path) -> None:
    """A folder of the diffusers layout; a ControlNet's own is `folder`, a checkpoint's has one for each component."""
    parts, components = backbone.parameters(), backbone.architecture().components
    for seed, (part, shapes) in enumerate(sorted(parts.items())):
        place, configs = (where if part == CONTROLNET else where / part for where in (folder, backbone.configs))
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(configs / "config.json", place / "config.json")
        write_weights(place / f"{PARTS[components[part].class_name].stem}.safetensors", shapes, seed)
    if CONTROLNET not in parts:
        shutil.copyfile(backbone.configs / INDEX, folder / INDEX)
        _write(folder / "scheduler" / "scheduler_config.json", backbone.scheduler)
        _write_tokenizers(backbone, folder)


def write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
    """fp16 noise by `random_values`, one tensor in memory at a time; equal seeds give equal bytes."""
    start, _ = weights.layout({name: ("F16", shape) for name, shape in shapes.items()}, {"format": "pt"})
    draw = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(start)
        for name in sorted(shapes):  # as they are laid out
            file.write(random_values(name, shapes[name], draw).astype(np.float16).tobytes())


def random_values(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> NDArray[np.float32]:
    """Uniform noise. A matrix or convolution keeps the size of what goes through it: its variance is 1 / inputs."""
    noise = math.sqrt(12) * (draw.random(shape, np.float32) - np.float32(0.5))  # of standard deviation 1
    if len(shape) > 1:
        return (noise / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
    centre = 1.0 if name.endswith("weight") else 0.0
    return (centre + SPREAD * noise).astype(np.float32)


def _write_tokenizers(backbone: Backbone, folder: Path) -> None:
    found = backbone.architecture().components
    for part, name in TOKENIZERS.items():
        if part not in found:
            continue
        if backbone.tokenizers is not None:
            shutil.copytree(backbone.tokenizers / name, folder / name)
            continue
        said: Json = {"tokenizer_class": "CLIPTokenizer", "pad_token": PADS[part]}
        _write(folder / name / "tokenizer_config.json", said | {"model_max_length": _positions(found[part].config)})
        (folder / name / "tokenizer.json").write_bytes(tokenizer.clip(PADS[part]).data)


def _positions(text: Json) -> Any:
    return text["max_position_embeddings"]


def _write(path: Path, value: Json) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(value))


if __name__ == "__main__":
    write_checkpoint({**BACKBONES, **STAND_INS}[sys.argv[1]], Path(sys.argv[2]))
