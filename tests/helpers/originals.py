"""Make single-file checkpoints in the original layout from diffusers folders, and a layout for mini-diffusion.

The names come from the importer's own tables, read backwards; tests/parity/test_ldm.py compares those with diffusers'.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from impasto_export import architecture, families, spellings
from impasto_export.architecture import Json
from impasto_export.checkpoints import fitting
from impasto_export.weights import encode, read_header, read_tensor

Value = tuple[str, NDArray[Any]]
MINI = architecture.SHIPPED / "mini-diffusion"
LAYOUT: Json = {
    "parts": {
        "text_encoder": {"prefix": "cond_stage_model.transformer.", "names": "clip"},
        "unet": {"prefix": "model.diffusion_model.", "names": "unet"},
        "vae": {"prefix": "first_stage_model.", "names": "vae"},
    },
    "configs": {"unet": {"sample_size": 16}, "vae": {"scaling_factor": 0.9}},
    "prediction": "epsilon",
    "predictions": {},
    "index": {"_class_name": "StableDiffusionPipeline"},
    "scheduler": {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "timestep_spacing": "leading",
    },
    "pads": {"text_encoder": "<|endoftext|>"},
    "unused": ["cond_stage_model.text_projection"],
}
OPEN_CLIP: Json = {
    **LAYOUT,
    "parts": {**LAYOUT["parts"], "text_encoder": {"prefix": "cond_stage_model.model.", "names": "open_clip"}},
    "prediction": None,
    "predictions": {"epsilon": {"unet": {"sample_size": 16}}, "v_prediction": {"unet": {"sample_size": 24}}},
}


def skeleton(folder: Path, layout: Json) -> Path:
    """mini-diffusion's skeleton, with a layout of single files beside it."""
    shutil.copytree(MINI, folder)
    (folder / fitting.NAME).write_text(json.dumps(layout))
    return folder


def hollow(folder: Path, checkpoint: Path, layout: Json) -> Path:
    """A skeleton of `checkpoint` whose graphs have placeholders but compute nothing, so that it is made quickly."""
    family = families.of(checkpoint)
    components, graphs = {}, {}
    folder.mkdir()
    for part, facts in family.parts.items():
        config = facts.facts(architecture.read_json(checkpoint / part / "config.json"))
        components[part] = architecture.Component(facts.class_name, config, {})
        graphs[part] = architecture.Graph(part, f"{part}.onnx", (), (), ())
        held = folder_tensors(checkpoint / part, part)
        graph = onnx.helper.make_graph([], part, [], [], [placeholder(name, held[name][1]) for name in held])
        (folder / f"{part}.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    sizes = {"latents": {"channels": 4, "factor": 8}, "image": {"multiple_of": 16}}
    found = architecture.Architecture(folder.name, family.name, components, graphs, sizes)
    (folder / "architecture.json").write_bytes(found.canonical())
    (folder / fitting.NAME).write_text(json.dumps(layout))
    return folder


def placeholder(name: str, value: NDArray[Any]) -> onnx.TensorProto:
    item = onnx.TensorProto(name=name, dims=value.shape, data_type=onnx.TensorProto.FLOAT)
    item.data_location = onnx.TensorProto.EXTERNAL
    return item


def tensors(checkpoint: Path, skeleton: Path) -> dict[str, Value]:
    """The tensors of a diffusers folder under their original names; the VAE's attention layers are 1x1 convolutions."""
    layout = architecture.read_json(skeleton / fitting.NAME)
    found: dict[str, Value] = {}
    thirds: dict[str, dict[int, Value]] = {}
    for part, stated in layout["parts"].items():
        config = architecture.load(skeleton).components[part].config
        for name, (dtype, array) in folder_tensors(checkpoint / part, part).items():
            place = fitting.TABLES[stated["names"]](name, config)
            key = stated["prefix"] + place.name
            if place.third is not None:
                thirds.setdefault(key, {})[place.third] = dtype, array
            elif place.transposed:
                found[key] = dtype, array.T
            else:
                found[key] = dtype, array[..., None, None] if ".attn_1." in key and array.ndim == 2 else array
    for key, parts in thirds.items():
        found[key] = parts[0][0], np.concatenate([parts[third][1] for third in range(3)])
    return found


def folder_tensors(folder: Path, part: str) -> dict[str, Value]:
    (path,) = folder.glob("*.safetensors")
    header = read_header(path)
    return {
        spellings.canonical(part, name): (tensor.dtype, read_tensor(header, name))
        for name, tensor in header.tensors.items()
    }


def write(path: Path, values: Mapping[str, Value]) -> Path:
    path.write_bytes(encode(values, {"format": "pt"}))
    return path
