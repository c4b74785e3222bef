"""A checkpoint's noise schedule: what impasto's samplers take from its scheduler's config and class.

The request chooses the solver, so the scheduler's own solver settings are dropped. Settings of the training are kept or
refused. Settings of step spacing other than `timestep_spacing` are refused, unless the user names a sampler: then that
one's steps count.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from impasto_export.architecture import Json
from impasto_export.checkpoints.checkpoint import Checkpoint
from impasto_export.errors import CheckpointError
from impasto_export.families import corrected
from impasto_export.floats import float32
from impasto_export.weights import Header, read_tensor

CONFIG = "scheduler/scheduler_config.json"
LCM = "LCMScheduler"
# diffusers' defaults, for keys that scheduler_config.json leaves out.
DEFAULTS: Json = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "set_alpha_to_one": True,
}
# Defaults of single schedulers that differ from these.
BETAS: Json = {"beta_start": 0.00085, "beta_end": 0.012}
KNOWN: dict[str, Json] = {
    "DDIMScheduler": {"timestep_spacing": "leading", "clip_sample": True},
    "DDPMScheduler": {"timestep_spacing": "leading", "clip_sample": True},
    "PNDMScheduler": {"timestep_spacing": "leading", "set_alpha_to_one": False},
    LCM: {
        **BETAS,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "leading",
        "original_inference_steps": 50,
        "timestep_scaling": 10.0,
    },
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "DPMSolverSDEScheduler": BETAS,
    "UniPCMultistepScheduler": {},
    "DEISMultistepScheduler": {},
    "HeunDiscreteScheduler": BETAS,
    "KDPM2DiscreteScheduler": BETAS,
    "KDPM2AncestralDiscreteScheduler": BETAS,
    "LMSDiscreteScheduler": {},
}
# The values that impasto's samplers know.
HONOURED: dict[str, tuple[str, ...]] = {
    "beta_schedule": ("linear", "scaled_linear"),
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
}
# Numbers: the least and the largest value.
BOUNDS: dict[str, tuple[float, float]] = {
    "num_train_timesteps": (1, 100_000),
    "beta_start": (0.0, 1.0),
    "beta_end": (0.0, 1.0),
    "steps_offset": (0, 1000),
    "original_inference_steps": (1, 1000),
    "timestep_scaling": (0.0, 1e6),
}
# Settings that would change the noise levels or the prediction.
REFUSED = ("trained_betas", "rescale_betas_zero_snr", "thresholding", "clip_sample", "use_flow_sigmas")
# Other settings of step spacing, with the value that changes nothing.
SPACED: Json = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "final_sigmas_type": "zero",
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "sigma_min": None,
    "sigma_max": None,
}
# A buffer that trainers save, and how far 16 bits may round it. Training to zero SNR moves it by 0.03.
TRAINED, ROUNDED = "alphas_cumprod", 5e-3


def kind(checkpoint: Checkpoint) -> str:
    """The scheduler's class: the one in model_index.json, which a pipeline builds, else the one in its own config."""
    named = checkpoint.index.get("scheduler")
    return str(named[-1] if isinstance(named, list) and named else checkpoint.scheduler.get("_class_name"))


def facts(checkpoint: Checkpoint, spaced: bool) -> Json:
    """The manifest's entry. `spaced`: the user chose a sampler, so the scheduler's own spacing is ignored.

    Raises CheckpointError for a scheduler or a setting that impasto's samplers do not honour.
    """
    where, name = f"{checkpoint.origin}/{CONFIG}", kind(checkpoint)
    if name not in KNOWN:
        raise CheckpointError(f"{where}: the scheduler is a {name}, which is not known; known are {', '.join(KNOWN)}")
    config = _corrected(checkpoint, {**DEFAULTS, **KNOWN[name], **checkpoint.scheduler})
    refused = [key for key in REFUSED if config.get(key)]
    if refused:
        raise CheckpointError(f"{where}: {', '.join(refused)} is set; impasto's samplers do not know it")
    for key, values in HONOURED.items():
        if config[key] not in values:
            raise CheckpointError(f"{where}: {key} is {config[key]!r}; impasto's samplers know {', '.join(values)}")
    for key, (least, most) in BOUNDS.items():
        value = config.get(key, least)
        if not (type(value) in (int, type(least)) and least <= value <= most):
            raise CheckpointError(f"{where}: {key} is {value!r}; a number from {least} to {most} is expected")
    own = [f"{key} {config[key]!r}" for key, plain in SPACED.items() if asks(config.get(key, plain), plain)]
    if own and not spaced:
        fix = "choose a sampler with --scheduler to use its own steps"
        raise CheckpointError(f"{where}: {', '.join(own)}, which impasto's samplers do not know; {fix}")
    kept = [*DEFAULTS, *(("original_inference_steps", "timestep_scaling") if name == LCM else ())]
    return {key: config[key] for key in kept} | {"set_alpha_to_one": bool(config["set_alpha_to_one"])}


def chosen(option: str, value: str | None, key: str) -> str | None:
    """The option's `value` for the scheduler's `key`, checked; None if it wasn't given. Raises CheckpointError."""
    known = HONOURED[key]
    if value not in (None, *known):
        raise CheckpointError(f"--{option}: got {value!r}; choose {', '.join(known)}")
    return value


def check_trained(header: Header, config: Json) -> None:
    """Raises CheckpointError for a single file whose buffers belong to another noise schedule than `config`."""
    if TRAINED not in header.tensors:
        return
    tensor = header.tensors[TRAINED]
    held = float32(read_tensor(header, TRAINED).reshape(-1), tensor.dtype) if tensor.dtype[0] in "FB" else None
    power = 0.5 if config["beta_schedule"] == "scaled_linear" else 1.0
    ends = (config["beta_start"] ** power, config["beta_end"] ** power)
    wanted = np.cumprod(1 - np.linspace(*ends, config["num_train_timesteps"]) ** (1 / power))
    if held is None or held.shape != wanted.shape or not np.abs(held - wanted).max() <= ROUNDED:
        last = "" if held is None else f", at the last timestep {held[-1]:.4f} where {wanted[-1]:.4f} is expected"
        problem = f"its {TRAINED} belong to another noise schedule{last}"
        raise CheckpointError(
            f"{header.path}: {problem}; it was trained to zero SNR or with other betas, which is not served"
        )


def asks(value: Any, plain: Any) -> bool:
    """Whether a setting is set to something else than `plain`; null means not set."""
    return value is not None and value != plain


def _corrected(checkpoint: Checkpoint, config: Json) -> Json:
    return {**config, "steps_offset": 1, "clip_sample": False} if corrected(checkpoint.index) else config
