"""manifest.json: what the server must know of a checkpoint beside its graphs, and the digest of all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from impasto_export.architecture import FAMILY, FORMAT, Architecture, Graph, Json, canonical_json, read_json
from impasto_export.errors import BundleError, CheckpointError

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
    return {**architecture.latents, "scaling_factor": scale, "shift_factor": shift or 0.0}


def image(architecture: Architecture, unet: Json) -> Json:
    """Default size as trained; at most four times its area, or 512x512 where that is more."""
    size = unet.get("sample_size")
    height, width = size if isinstance(size, list) else (size, size)
    if not isinstance(height, int) or not isinstance(width, int):
        raise CheckpointError(f"unet: sample_size is {size!r}; set it to the latent size the checkpoint was trained at")
    factor = architecture.latents["factor"]
    height, width = height * factor, width * factor
    return {**architecture.image, "width": width, "height": height, "max_pixels": max(4 * width * height, 512 * 512)}


def compose(
    architecture: str, name: str, facts: Json, graphs: Mapping[str, Graph], weights: Json, files: Mapping[str, str]
) -> Json:
    """The whole manifest, `digest` included; `architecture` is the digest of the checkpoint's."""
    ports = {key: asdict(graph) for key, graph in graphs.items()}
    for graph in ports.values():
        del graph["component"]
    body = {
        "format": FORMAT,
        "family": FAMILY,
        "name": name,
        "architecture": architecture,
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
    if manifest.get("format") != FORMAT or manifest.get("family") != FAMILY:
        raise BundleError(f"{bundle}: format {manifest.get('format')!r} is not known; link the checkpoint again")
    if manifest.get("digest") != digest(manifest):
        raise BundleError(f"{bundle}: manifest.json was changed after linking; link the checkpoint again")
    return manifest
