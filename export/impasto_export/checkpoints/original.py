"""A checkpoint in one safetensors file, in the original layout: which architecture it is of, and where its tensors lie.

A skeleton for which there is such a layout has `original.json` beside it: under which prefix each part's tensors are,
by which of `ldm`'s tables they are named, and what a single file does not say: sizes, scheduler, padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from impasto_export.checkpoints import fitting, folders, schedule, tokenizer
from impasto_export.checkpoints.checkpoint import Checkpoint, Said, Stored, Weights
from impasto_export.checkpoints.fitting import FILE, V_PREDICTION, ZERO_SNR, Fit
from impasto_export.errors import CheckpointError
from impasto_export.weights import Header, encode, layout, read_header, read_tensor

CONVERTED = "converted.safetensors"


def read(path: Path, skeletons: Sequence[Path], said: Said) -> Checkpoint:
    """Raises UnknownArchitecture naming what the file is instead, MisfitCheckpoint for the nearest architecture, or
    CheckpointError for what must be said of it, or cannot be served."""
    if said.variant:
        raise CheckpointError(f"--variant: got {said.variant!r}; a single file has no variants, leave it out")
    header = read_header(path)
    fit = fitting.nearest(header, skeletons)
    prediction = _prediction(header, fit, said)
    spacing = _chosen("spacing", said.spacing, "timestep_spacing") or fit.layout["scheduler"]["timestep_spacing"]
    stated = fit.layout["configs"] | fit.layout["predictions"].get(prediction, {})
    parts = fit.found.components.items()
    return Checkpoint(
        name=path.stem,
        origin=path,
        family=fit.found.family,
        configs={part: {"_class_name": made.class_name, **made.config, **stated.get(part, {})} for part, made in parts},
        weights=_weights(header, fit),
        tokenizers=_tokenizers(fit, said),
        index=fit.layout["index"],
        scheduler={**fit.layout["scheduler"], "prediction_type": prediction, "timestep_spacing": spacing},
        source={"checkpoint": path.name},
    )


def _prediction(header: Header, fit: Fit, said: Said) -> str:
    """What the UNet predicts: as the file says, or the user, or all checkpoints of the architecture do."""
    chosen = _chosen("prediction", said.prediction, "prediction_type")
    if ZERO_SNR in header.tensors:
        problem = f"{ZERO_SNR} says that it was trained to zero SNR"
        raise CheckpointError(f"{header.path}: {problem}; impasto's samplers do not know it")
    told = "v_prediction" if V_PREDICTION in header.tensors else None
    if told and chosen not in (None, told):
        raise CheckpointError(f"--prediction: got {chosen!r}, and the file's {V_PREDICTION} says {told}")
    prediction = chosen or told or fit.layout["prediction"]
    if prediction is None:
        problem = f"a single file of {fit.found.name} does not say what its UNet predicts"
        fix = "say --prediction v_prediction (as the 768 px ones do) or --prediction epsilon (the 512 px ones, turbo)"
        raise CheckpointError(f"{header.path}: {problem}; {fix}")
    return str(prediction)


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


def _tokenizers(fit: Fit, said: Said) -> dict[str, tokenizer.Vocabulary]:
    if said.tokenizer:
        return folders.tokenizers(said.tokenizer, fit.found.components)
    return {part: tokenizer.clip(pad) for part, pad in fit.layout["pads"].items()}
