"""A checkpoint in one safetensors file, in the original layout: which architecture it is of, and where its tensors lie.

A skeleton for which there is such a layout has `original.json` beside it: under which prefix each part's tensors are,
by which of `ldm`'s tables they are named, and what a single file does not say: sizes, scheduler, padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from impasto_export.architecture import Architecture, Json
from impasto_export.checkpoints import fitting, folders, schedule, tokenizer
from impasto_export.checkpoints.checkpoint import Checkpoint, Said, Stored, Weights, label, size_of
from impasto_export.checkpoints.fitting import V_PREDICTION, ZERO_SNR, Fit, Layout
from impasto_export.errors import CheckpointError
from impasto_export.families import COMPANIONS
from impasto_export.weights import Header, encode, layout, read_header, read_tensor

# What the bundle calls the file, and one of what must be in another order of bytes.
FILE, CONVERTED = "checkpoint.safetensors", "converted.safetensors"
# What a header may say of the checkpoint, as Stability AI's ModelSpec has it, and how much of that is shown.
RESOLUTION, PREDICTION, SHOWN = "modelspec.resolution", "modelspec.prediction_type", 40
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}
# A part of the keys of what is something else, and what that is.
FOREIGN = {
    "lora": "an adapter; bring it in with `impasto adapters import`",
    "double_blocks.": "a FLUX checkpoint, a family that is not served",
    "joint_blocks.": "a Stable Diffusion 3 checkpoint, a family that is not served",
    "edm_mean": "a Playground v2.5 checkpoint, whose noise schedule is not served",
    "edm_vpred.": "a CosXL checkpoint, whose noise schedule is not served",
    "conditioner.embedders.0.model.": "an SDXL refiner; only base checkpoints are served",
    "control_model.": "a ControlNet; give it with --controlnet, beside a checkpoint",
    "controlnet_": "a ControlNet; give it with --controlnet, beside a checkpoint",
    "vision_model.": "a CLIPModel; give the folder that it lies in, with its config",
    "down_blocks.": "one part of a checkpoint in the diffusers layout; give the folder of all its parts",
}


def read(path: Path, skeletons: Sequence[Path], said: Said) -> Checkpoint:
    """Raises UnknownArchitecture naming what the file is instead, MisfitCheckpoint for the nearest architecture, or
    CheckpointError for what must be said of it, or cannot be served."""
    if said.variant:
        raise CheckpointError(f"--variant: got {said.variant!r}; a single file has no variants, leave it out")
    header = read_header(path)
    known = [layout for layout in fitting.layouts(skeletons) if layout.found.components.keys().isdisjoint(COMPANIONS)]
    fit = fitting.nearest(header, known, FILE, FOREIGN)
    found, stated = fit.layout.found, fit.layout.stated
    prediction = _prediction(header, fit.layout, said)
    spacing = _chosen("spacing", said.spacing, "timestep_spacing") or stated["scheduler"]["timestep_spacing"]
    own = stated["configs"] | stated["predictions"].get(prediction, {})
    parts = found.components.items()
    configs = {part: {"_class_name": made.class_name, **made.config, **own.get(part, {})} for part, made in parts}
    sizes, notes = ({}, ()) if said.size else _sizes(header, found, configs["unet"])
    return Checkpoint(
        name=label(path.stem),
        origin=path,
        family=found.family,
        configs={**configs, "unet": {**configs["unet"], **sizes}},
        weights=_weights(header, fit),
        tokenizers=_tokenizers(fit.layout, said),
        index=stated["index"],
        scheduler={**stated["scheduler"], "prediction_type": prediction, "timestep_spacing": spacing},
        source={"checkpoint": label(path.name)},
        notes=notes,
    )


def _sizes(header: Header, found: Architecture, unet: Json) -> tuple[Json, tuple[str, ...]]:
    """What the header says that the UNet was trained at, as its config has it; and a note, where that can't be."""
    text = header.metadata.get(RESOLUTION)
    if not text:
        return {}, ()
    (width, height), factor = size_of(text) or (0, 0), found.sizes["latents"]["factor"]
    multiple, most = found.sizes["image"]["multiple_of"], 4 * (unet["sample_size"] * factor) ** 2
    if 0 < width * height <= most and width % multiple == height % multiple == 0:
        return {"sample_size": [height // factor, width // factor]}, ()
    problem = f"its header's {RESOLUTION} is {text[:SHOWN]!r}, which is no size that {found.name} can have"
    return {}, (f"{problem}: its usual one is taken; say another with --size WIDTHxHEIGHT",)


def _prediction(header: Header, layout: Layout, said: Said) -> str:
    """What the UNet predicts: as the user says, or the file, or all checkpoints of the architecture do."""
    chosen = _chosen("prediction", said.prediction, "prediction_type")
    if ZERO_SNR in header.tensors:
        problem = f"{ZERO_SNR} says that it was trained to zero SNR"
        raise CheckpointError(f"{header.path}: {problem}; impasto's samplers do not know it")
    told = "v_prediction" if V_PREDICTION in header.tensors else None
    if told and chosen not in (None, told):
        raise CheckpointError(f"--prediction: got {chosen!r}, and the file's {V_PREDICTION} says {told}")
    prediction = chosen or told or _stated(header) or layout.stated["prediction"]
    if prediction is None:
        problem = f"a single file of {layout.found.name} does not say what its UNet predicts"
        fix = "say --prediction v_prediction (as the 768 px ones do) or --prediction epsilon (the 512 px ones, turbo)"
        raise CheckpointError(f"{header.path}: {problem}; {fix}")
    return str(prediction)


def _stated(header: Header) -> str | None:
    """What the header says that the UNet predicts, if anything."""
    text = header.metadata.get(PREDICTION)
    if text and text not in PREDICTIONS:
        problem = f"its header's {PREDICTION} is {text[:SHOWN]!r}, which impasto's samplers do not know"
        raise CheckpointError(f"{header.path}: {problem}; if it isn't so, say --prediction epsilon or v_prediction")
    return PREDICTIONS[text] if text else None


def _chosen(option: str, value: str | None, key: str) -> str | None:
    """What the user said, if anything, of the scheduler's `key`."""
    known = schedule.HONOURED[key]
    if value not in (None, *known):
        raise CheckpointError(f"--{option}: got {value!r}; choose {', '.join(known)}")
    return value


def _weights(header: Header, fit: Fit) -> dict[str, Weights]:
    """Every part's: in the file itself, and in one of its own what must be another order of bytes."""
    arrays = {
        name: (header.tensors[origin].dtype, read_tensor(header, origin).T) for name, origin in fit.turned.items()
    }
    _, places = layout({name: (dtype, array.shape) for name, (dtype, array) in arrays.items()}, {})
    moved = {name: Stored(CONVERTED, place) for name, place in zip(sorted(arrays), places, strict=True)}
    files: dict[str, Path | bytes] = {FILE: header.path}
    if arrays:
        files[CONVERTED] = encode(arrays, {})
    return {
        part: Weights(
            header.path,
            {name: moved.get(f"{part}.{name}", stored) for name, stored in tensors.items()},
            files,
        )
        for part, tensors in fit.tensors.items()
    }


def _tokenizers(layout: Layout, said: Said) -> dict[str, tokenizer.Vocabulary]:
    if said.tokenizer:
        return folders.tokenizers(said.tokenizer, layout.found.components)
    return {part: tokenizer.clip(pad) for part, pad in layout.stated["pads"].items()}
