"""A bundle's manifest.json: what the server must know beside the graphs, and the bundle's digest."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from impasto_export.architecture import FORMAT, OUTDATED, Architecture, Json, canonical_json, read_json
from impasto_export.checkpoints import schedule
from impasto_export.checkpoints.checkpoint import Checkpoint, Said
from impasto_export.errors import BundleError, CheckpointError
from impasto_export.families import DIFFUSION, FAMILIES, MASKED, corrected

NAME = "manifest.json"
MASKING_SCHEDULES = ("cosine", "linear")
LONGEST = 8192  # pixels
# The server's diffusion samplers; a request may name any of them.
SAMPLERS = ("ddim", "dpmpp_2m", "euler", "euler_a", "unipc", "lcm")
Configs = Mapping[str, Json]


def diffusion(checkpoint: Checkpoint, found: Architecture, said: Said) -> Json:
    """The manifest's entries of a diffusion checkpoint. Raises CheckpointError for settings that the server would not
    honour."""
    stated = defaults(checkpoint, said)
    return {
        "latents": latents(found, checkpoint.configs["vae"]),
        "image": image(found, "latents", "unet", _sized(checkpoint), said.size),
        "scheduler": schedule.facts(checkpoint, spaced="scheduler" in said.defaults),
        **(_two_texts(checkpoint) if "text_encoder_2" in checkpoint.configs else {}),
        **({"defaults": stated} if stated else {}),
    }


def _sized(checkpoint: Checkpoint) -> Configs:
    """The configs, with the UNet's sample_size corrected as Stable Diffusion's pipelines do: diffusers before 0.9
    wrote 32 whatever the checkpoint was trained at."""
    unet = checkpoint.configs["unet"]
    size, version = unet.get("sample_size"), re.match(r"0\.(\d+)\.", str(unet.get("_diffusers_version")))
    old = version is not None and int(version[1]) < 9 and type(size) is int and size < 64
    return (
        {**checkpoint.configs, "unet": {**unet, "sample_size": 64}}
        if old and corrected(checkpoint.index)
        else checkpoint.configs
    )


def defaults(checkpoint: Checkpoint, said: Said) -> Json:
    """The checkpoint's defaults for omitted fields: the user's, and those that a consistency model's scheduler implies.

    A consistency model with an embedded guidance scale gets 8.5; any other gets 1, no guidance.
    """
    sampler = said.defaults.get("scheduler")
    if sampler not in (None, *SAMPLERS):
        raise CheckpointError(f"--scheduler: got {sampler!r}; choose {', '.join(SAMPLERS)}")
    if schedule.kind(checkpoint) != schedule.LCM:
        return said.defaults
    embedded = checkpoint.configs["unet"].get("time_cond_proj_dim")
    return {"scheduler": "lcm", "steps": 4, "guidance_scale": 8.5 if embedded else 1.0, **said.defaults}


def _two_texts(checkpoint: Checkpoint) -> Json:
    """The entry that only SDXL has. Raises CheckpointError for a refiner."""
    if checkpoint.index.get("requires_aesthetics_score"):
        problem = "requires_aesthetics_score is set, so it is a refiner; only base checkpoints are served"
        raise CheckpointError(f"{checkpoint.origin}: model_index.json: {problem}")
    key = "force_zeros_for_empty_prompt"
    value = checkpoint.index.get(key, True)
    if not isinstance(value, bool):
        raise CheckpointError(f"{checkpoint.origin}: model_index.json: {key} is {value!r}; true or false is expected")
    return {key: value}


def masked(checkpoint: Checkpoint, found: Architecture, said: Said) -> Json:
    """The manifest's entries of a masked checkpoint. Raises CheckpointError for settings that the server would not
    honour."""
    if "scheduler" in said.defaults:
        problem = "a masked backbone has no diffusion sampler"
        raise CheckpointError(f"--scheduler: got {said.defaults['scheduler']!r}; {problem}, leave it out")
    where, config = f"{checkpoint.origin}/{schedule.CONFIG}", checkpoint.scheduler
    last = found.components["transformer"].config["vocab_size"] - 1
    mask, kind = config.get("mask_token_id"), config.get("masking_schedule", "cosine")
    if mask != last:
        raise CheckpointError(f"{where}: mask_token_id is {mask!r}; it must be the vocabulary's last, {last}")
    if kind not in MASKING_SCHEDULES:
        known = " or ".join(MASKING_SCHEDULES)
        raise CheckpointError(f"{where}: masking_schedule is {kind!r}; impasto's sampler knows {known}")
    return {
        "tokens": {**found.sizes["tokens"], "mask_id": mask},
        **{key: value for key, value in found.sizes.items() if key == "upscale"},
        "masking": {"schedule": kind},
        "image": image(found, "tokens", "transformer", checkpoint.configs, said.size),
        **({"defaults": said.defaults} if said.defaults else {}),
    }


FACTS: dict[str, Callable[[Checkpoint, Architecture, Said], Json]] = {DIFFUSION.name: diffusion, MASKED.name: masked}


def latents(architecture: Architecture, vae: Json) -> Json:
    """The manifest's entry of the latents. Raises CheckpointError for per-channel statistics, which the server does not
    apply, and for values that are not numbers."""
    if vae.get("latents_mean") or vae.get("latents_std"):
        raise CheckpointError("vae: latents_mean, latents_std are set; only scaling_factor, shift_factor are served")
    scale, shift = vae.get("scaling_factor", 0.18215), vae.get("shift_factor") or 0.0
    if not (_finite(scale) and scale and _finite(shift)):
        problem = f"vae: scaling_factor is {scale!r}, shift_factor {shift!r}"
        raise CheckpointError(f"{problem}; finite numbers are expected, the first not 0")
    return {**architecture.sizes["latents"], "scaling_factor": scale, "shift_factor": shift}


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def image(architecture: Architecture, unit: str, part: str, configs: Configs, said: tuple[int, int] | None) -> Json:
    """The manifest's entry of the picture's size. The default is the trained size; the largest area is four times that,
    or 512x512 if that is more.

    `part` is the component whose config states the size, in `unit`: "latents" or "tokens"; `said` replaces it.
    """
    multiple = architecture.sizes["image"]["multiple_of"]
    width, height = said or _trained(architecture, unit, part, configs)
    if any(side % multiple or not 0 < side <= LONGEST for side in (width, height)):
        what = f"--size: got {width}x{height}" if said else f"{part}: sample_size means {width}x{height} pixels"
        raise CheckpointError(f"{what}; {architecture.name} needs multiples of {multiple}, up to {LONGEST}")
    most = max(4 * width * height, 512 * 512)
    return {**architecture.sizes["image"], "width": width, "height": height, "max_pixels": most}


def _trained(architecture: Architecture, unit: str, part: str, configs: Configs) -> tuple[int, int]:
    """Width and height by the config. Raises CheckpointError where it doesn't state them."""
    size = configs[part].get("sample_size")
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    if not (type(height) is type(width) is int):
        fix = f"set it to the size in {unit} that the checkpoint was trained at, or give --size WIDTHxHEIGHT"
        raise CheckpointError(f"{part}: sample_size is {size!r}; {fix}")
    factor: int = architecture.sizes[unit]["factor"] * zoom(architecture)
    return width * factor, height * factor


def stages(architecture: Architecture, facts: Json) -> tuple[str, ...]:
    """A note on what each stage paints, if there are two."""
    if "upscale" not in architecture.sizes:
        return ()
    width, height = (facts["image"][side] for side in ("width", "height"))
    first = f"{width // zoom(architecture)}x{height // zoom(architecture)}"
    return (f"two stages: the first paints {first}, the second {width}x{height} over it",)


def zoom(architecture: Architecture) -> int:
    """The finished picture's width over the first stage's; 1 where there is no second stage."""
    upscale = architecture.sizes.get("upscale")
    if upscale is None:
        return 1
    zoomed: int = upscale["scale"] * upscale["tokens"]["factor"] // architecture.sizes["tokens"]["factor"]
    return zoomed


def digest(manifest: Mapping[str, object]) -> str:
    """sha256 of the manifest's canonical JSON without `digest`. It covers the files' digests, and so every byte."""
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(canonical_json(body)).hexdigest()


def load(bundle: Path) -> Json:
    """Read and check `bundle/manifest.json`. Raises BundleError."""
    try:
        manifest = read_json(bundle / NAME)
    except CheckpointError as error:
        raise BundleError(f"{bundle} is not a bundle: {error}; make one with `impasto link`") from None
    family = manifest.get("family")
    if manifest.get("format") != FORMAT or not isinstance(family, str):
        raise BundleError(f"{bundle}: format is {manifest.get('format')!r}, not {FORMAT}; link the checkpoint again")
    if family not in FAMILIES:
        known = " or ".join(sorted(FAMILIES))
        raise BundleError(f"{bundle}: its family is {family!r}, which paints nothing; give a bundle of {known}")
    if any(port["name"] == OUTDATED for graph in manifest["graphs"].values() for port in graph.get("inputs", [])):
        problem = f"its graphs have the input {OUTDATED}, so an older impasto made them"
        raise BundleError(f"{bundle}: {problem}; link the checkpoint again, and import its adapters again")
    if manifest.get("digest") != digest(manifest):
        raise BundleError(f"{bundle}: manifest.json was changed after linking; link the checkpoint again")
    return manifest
