"""manifest.json: what the server must know of a checkpoint beside its graphs, and the digest of all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from impasto_export.architecture import FORMAT, Architecture, Graph, Json, canonical_json, read_json
from impasto_export.errors import BundleError, CheckpointError
from impasto_export.families import DIFFUSION, FAMILIES, MASKED

NAME = "manifest.json"
# What diffusers' schedulers mean by a key that is missing from scheduler_config.json.
SCHEDULER_DEFAULTS: Json = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "steps_offset": 0,
}
# The two defaults that differ between scheduler classes.
SPACING = {"DDIMScheduler": "leading", "PNDMScheduler": "leading", "DDPMScheduler": "leading"}
ALPHA_ONE = {"DDIMScheduler": True}
REFUSED = ("trained_betas", "rescale_betas_zero_snr", "thresholding", "clip_sample")
MASKING_SCHEDULES = ("cosine", "linear")
Configs = Mapping[str, Json]


def diffusion(checkpoint: Path, found: Architecture, configs: Configs) -> Json:
    """What the server must know of a diffusion checkpoint. Raises CheckpointError for what it would not honour."""
    return {
        "latents": latents(found, configs["vae"]),
        "image": image(found, "latents", "unet", configs),
        "scheduler": scheduler(checkpoint),
    }


def masked(checkpoint: Path, found: Architecture, configs: Configs) -> Json:
    """What the server must know of a masked checkpoint. Raises CheckpointError for what it would not honour."""
    path = checkpoint / "scheduler" / "scheduler_config.json"
    config, last = read_json(path), found.components["transformer"].config["vocab_size"] - 1
    mask, schedule = config.get("mask_token_id"), config.get("masking_schedule", "cosine")
    if mask != last:
        raise CheckpointError(f"{path}: mask_token_id is {mask!r}; it must be the vocabulary's last, {last}")
    if schedule not in MASKING_SCHEDULES:
        known = " or ".join(MASKING_SCHEDULES)
        raise CheckpointError(f"{path}: masking_schedule is {schedule!r}; impasto's sampler knows {known}")
    return {
        "tokens": {**found.sizes["tokens"], "mask_id": mask},
        "masking": {"schedule": schedule},
        "image": image(found, "tokens", "transformer", configs),
    }


FACTS: dict[str, Callable[[Path, Architecture, Configs], Json]] = {DIFFUSION.name: diffusion, MASKED.name: masked}


def scheduler(checkpoint: Path) -> Json:
    """Noise schedule facts. Raises CheckpointError for a setting the server's samplers do not honour."""
    path = checkpoint / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    refused = [key for key in REFUSED if config.get(key)]
    if refused:
        raise CheckpointError(f"{path}: {', '.join(refused)} is set; impasto's samplers do not know it")
    kind = str(config.get("_class_name"))
    defaults = {
        **SCHEDULER_DEFAULTS,
        "timestep_spacing": SPACING.get(kind, "linspace"),
        "set_alpha_to_one": ALPHA_ONE.get(kind, False),
    }
    return {key: config.get(key, default) for key, default in defaults.items()}


def latents(architecture: Architecture, vae: Json) -> Json:
    """Raises CheckpointError for per-channel statistics, which the server does not apply."""
    if vae.get("latents_mean") or vae.get("latents_std"):
        raise CheckpointError("vae: latents_mean, latents_std are set; only scaling_factor, shift_factor are known")
    scale, shift = vae.get("scaling_factor", 0.18215), vae.get("shift_factor")
    return {**architecture.sizes["latents"], "scaling_factor": scale, "shift_factor": shift or 0.0}


def image(architecture: Architecture, unit: str, part: str, configs: Configs) -> Json:
    """Default size as trained; at most four times its area, or 512x512 where that is more.

    `part` is the component whose config says the size, in `unit`: "latents" or "tokens".
    """
    size = configs[part].get("sample_size")
    height, width = size if isinstance(size, list) else (size, size)
    if not isinstance(height, int) or not isinstance(width, int):
        fix = f"set it to the size in {unit} that the checkpoint was trained at"
        raise CheckpointError(f"{part}: sample_size is {size!r}; {fix}")
    factor = architecture.sizes[unit]["factor"]
    height, width = height * factor, width * factor
    most = max(4 * width * height, 512 * 512)
    return {**architecture.sizes["image"], "width": width, "height": height, "max_pixels": most}


def compose(
    architecture: Architecture,
    name: str,
    facts: Json,
    graphs: Mapping[str, Graph],
    weights: Json,
    files: Mapping[str, str],
) -> Json:
    """The whole manifest, `digest` included; `architecture` is the checkpoint's, `graphs` are all of the bundle's."""
    ports = {key: graph.record for key, graph in graphs.items()}
    for graph in ports.values():
        del graph["component"]
    body = {
        "format": FORMAT,
        "family": architecture.family,
        "name": name,
        "architecture": architecture.digest,
        **facts,
        "graphs": ports,
        "weights": weights,
        "files": dict(files),
    }
    return {**body, "digest": digest(body)}


def digest(manifest: Mapping[str, object]) -> str:
    """sha256 of the canonical JSON without the digest itself; file digests are in it, so it stands for every byte."""
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(canonical_json(body)).hexdigest()


def load(bundle: Path) -> Json:
    """Read and check `bundle/manifest.json`. Raises BundleError."""
    try:
        manifest = read_json(bundle / NAME)
    except CheckpointError as error:
        raise BundleError(f"{bundle} is not a bundle: {error}; make one with `impasto link`") from None
    if manifest.get("format") != FORMAT or manifest.get("family") not in FAMILIES:
        raise BundleError(f"{bundle}: format {manifest.get('format')!r} is not known; link the checkpoint again")
    if manifest.get("digest") != digest(manifest):
        raise BundleError(f"{bundle}: manifest.json was changed after linking; link the checkpoint again")
    return manifest
