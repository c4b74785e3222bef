"""Read a checkpoint in one safetensors file, in the original layout.

A skeleton with such a layout has `original.json` beside it. That states the prefix of each part's tensors, the table of
`ldm` that names them, and what a single file does not tell: sizes, scheduler, padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from impasto_export.architecture import Architecture, Json
from impasto_export.checkpoints import beside, fitting, folders, predictions, schedule, sidecar, tokenizer
from impasto_export.checkpoints.checkpoint import Checkpoint, Said, Stored, Weights, label, size_of
from impasto_export.checkpoints.fitting import Fit, Layout
from impasto_export.errors import CheckpointError
from impasto_export.families import COMPANIONS
from impasto_export.support import WIDER
from impasto_export.weights import Header, encode, layout, read_header, read_tensor

# Names in the bundle: the file itself, and a file of the tensors that had to be transposed.
FILE, CONVERTED = "checkpoint.safetensors", "converted.safetensors"
# The header's entry on the trained size, by Stability AI's ModelSpec; and how many characters of it are shown.
RESOLUTION, SHOWN = "modelspec.resolution", 40
LAST = "last"
ALONE = "only those that take the sample alone are served"
# The UNet's first convolution; and, by its input channels, checkpoints that take more than the sample.
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
NAMED = {
    5: "a depth-to-image checkpoint",
    7: "an upscaler",
    8: "an InstructPix2Pix checkpoint",
    9: "an inpainting checkpoint",
}
# Part of a key -> what the file is instead.
FOREIGN = {
    "lora": "an adapter; import it with `impasto adapters import`",
    "distilled_guidance_layer.": "a Chroma checkpoint, a family that is not served",
    "double_blocks.": "a FLUX checkpoint, a family that is not served",
    "joint_blocks.": "a Stable Diffusion 3 checkpoint, a family that is not served",
    "single_transformer_blocks.": "a FLUX transformer, a family that is not served",
    "double_layers.": "an AuraFlow checkpoint, a family that is not served",
    "clip_txt_mapper.": "a Stable Cascade checkpoint, a family that is not served",
    "time_stack.": "a Stable Video Diffusion checkpoint, which makes video",
    "motion_modules.": "AnimateDiff's motion modules, which make video",
    "noise_augmentor.": "an unCLIP checkpoint, whose UNet takes images",
    "encoder_hid_proj.": "a checkpoint whose texts are projected first (Kolors, IP-Adapter), which is not served",
    "edm_mean": "a Playground v2.5 checkpoint, whose noise schedule is not served",
    "edm_vpred.": "a CosXL checkpoint, whose noise schedule is not served",
    "conditioner.embedders.0.model.": "an SDXL refiner; only base checkpoints are served",
    "control_model.": "a ControlNet; give it with --controlnet, beside a checkpoint",
    "controlnet_": "a ControlNet; give it with --controlnet, beside a checkpoint",
    "vision_model.": "a CLIPModel; give the folder that it lies in, with its config",
    "down_blocks.": "one part of a checkpoint in the diffusers layout; give the folder of all its parts",
}


def read(path: Path, skeletons: Sequence[Path], said: Said) -> Checkpoint:
    """The checkpoint in a single file. Raises UnknownArchitecture that names what the file is instead, MisfitCheckpoint
    for the nearest architecture, or CheckpointError when an option is needed, or when it cannot be served."""
    if said.variant:
        raise CheckpointError(f"--variant: got {said.variant!r}; a single file has no variants, leave it out")
    header = read_header(path)
    known = [layout for layout in fitting.layouts(skeletons) if layout.found.components.keys().isdisjoint(COMPANIONS)]
    fit = fitting.nearest(header, known, FILE, {**_wider(header), **FOREIGN})
    found, stated = fit.layout.found, fit.layout.stated
    place = sidecar.find(path)
    config = sidecar.load(place) if place else None
    prediction = predictions.of(header, fit.layout.stated, fit.layout.found.name, config, said)
    spacing = schedule.chosen("spacing", said.spacing, "timestep_spacing") or stated["scheduler"]["timestep_spacing"]
    own = stated["configs"] | stated["predictions"].get(prediction, {})
    parts = found.components.items()
    configs = {part: {"_class_name": made.class_name, **made.config, **own.get(part, {})} for part, made in parts}
    schedule.check_trained(header, stated["scheduler"])
    sizes, notes = ({}, ()) if said.size else _sizes(header, found, configs["unet"])
    if place and config is None:
        notes += (f"{place.name} is not a configuration of Stable Diffusion, and is not read",)
    if config:
        notes += config.check(stated["scheduler"], configs, _layer(stated))
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
        notes=(*notes, *beside.of_file(header, _layer(stated) == LAST and "text_encoder_2" not in found.components)),
    )


def _wider(header: Header) -> dict[str, str]:
    """What the file is by its UNet's input channels, in the form of FOREIGN."""
    tensor = next((tensor for name, tensor in header.tensors.items() if name.endswith(FIRST)), None)
    channels = tensor.shape[1] if tensor and len(tensor.shape) == 4 else 0
    named = NAMED.get(channels)
    return {FIRST: f"{named}, whose UNet takes {WIDER[channels]} beside the sample; {ALONE}"} if named else {}


def _layer(stated: Json) -> str:
    """The text encoder's layer that the UNet reads, in the words of the original code."""
    return LAST if stated["parts"]["text_encoder"]["names"] == "clip" else "penultimate"


def _sizes(header: Header, found: Architecture, unet: Json) -> tuple[Json, tuple[str, ...]]:
    """The UNet's sample_size by the header's trained size; or nothing and a note, if that size is impossible."""
    text = header.metadata.get(RESOLUTION)
    if not text:
        return {}, ()
    (width, height), factor = size_of(text) or (0, 0), found.sizes["latents"]["factor"]
    multiple, most = found.sizes["image"]["multiple_of"], 4 * (unet["sample_size"] * factor) ** 2
    if 0 < width * height <= most and width % multiple == height % multiple == 0:
        return {"sample_size": [height // factor, width // factor]}, ()
    problem = f"its header's {RESOLUTION} is {text[:SHOWN]!r}, which {found.name} cannot have"
    return {}, (f"{problem}: its usual size is taken; give another with --size WIDTHxHEIGHT",)


def _weights(header: Header, fit: Fit) -> dict[str, Weights]:
    """Every part's weights: in the file itself, or in CONVERTED for those that had to be transposed."""
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
