"""NAME.yaml beside NAME.safetensors: the training's configuration, in latent-diffusion's form or sgm's.

Tensors tell most of it. The rest is read here, or compared with what is served; unknown keys are noted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from impasto_export.architecture import Json
from impasto_export.errors import CheckpointError

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 64 << 10  # real ones have about five thousand
MAX_BRACKETS = 1000  # real ones have about ten
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
SCALINGS = {"EpsScaling": "epsilon", "VScaling": "v_prediction"}
DENOISER = ("denoiser_config", "params")
TEXT = ("cond_stage_config", "params")
# All spellings: ztsnr, zero_snr, rescale_betas_zero_snr.
ZERO_SNR = re.compile(r"z(ero)?_?(t|terminal)?_?snr")
# Keys of model.params that the tensors tell, that only training reads, or that are unreliable: image_size is 64 even
# for 768 pixels.
IDLE = {
    "ckpt_config", "ckpt_path", "clip_denoised", "cond_stage_key", "cond_stage_trainable", "conditioner_config",
    "disable_first_stage_autocast", "en_and_decode_n_samples_a_time", "ema_decay_rate", "finetune_keys",
    "first_stage_config", "first_stage_key", "image_size", "input_key", "l_simple_weight", "learn_logvar",
    "load_only_unet", "log_every_t", "log_keys", "logvar_init", "loss_fn_config", "loss_type", "monitor",
    "network_config", "num_timesteps_cond", "optimizer_config", "original_elbo_weight", "sampler_config",
    "scale_by_std", "scheduler_config", "unet_config", "use_ema", "use_positional_encodings", "v_posterior",
}  # fmt: skip
READ = {"parameterization", "denoiser_config", "cond_stage_config"}
WAY_OUT = "if that is wrong, correct or rename the file"


@dataclass(frozen=True)
class Sidecar:
    """A configuration; `params` is its model.params."""

    path: Path
    params: Json

    def at(self, *keys: str) -> Any:
        """The value under these keys; None where there is none."""
        found: Any = self.params
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def prediction(self) -> str | None:
        """What the UNet predicts, if stated. Raises CheckpointError for a kind that impasto's samplers do not know."""
        spoken = {("parameterization",): PREDICTIONS, (*DENOISER, "scaling_config", "target"): SCALINGS}
        for keys, known in spoken.items():
            value = self.at(*keys)
            if value is not None:
                name = str(value).rpartition(".")[2]
                if name not in known:
                    raise self._refused(keys, value, f"impasto's samplers know {' and '.join(known)}")
                return known[name]
        return None

    def zero_snr(self) -> str | None:
        """The key that says that it was trained to zero SNR, if any."""
        return next((key for key, value in self.params.items() if ZERO_SNR.search(str(key)) and value), None)

    def check(self, scheduler: Json, configs: Mapping[str, Json], layer: str) -> tuple[str, ...]:
        """Notes on unknown keys. `layer` is the text encoder's layer that is served, in latent-diffusion's words.

        Raises CheckpointError for a setting that contradicts what is served.
        """
        served = _served(scheduler, configs, layer)
        for keys, want in served.items():
            have = self.at(*keys)
            if have is not None and have != -1 and not _same(have, want):
                raise self._refused(keys, have, f"impasto serves {want!r}")
        known = {keys[0] for keys in served} | READ | IDLE
        strange = sorted(str(key) for key in self.params if key not in known and not ZERO_SNR.search(str(key)))
        return (f"{self.path.name}: model.params: {', '.join(strange)}: not known, and ignored",) if strange else ()

    def _refused(self, keys: tuple[str, ...], value: Any, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: model.params.{'.'.join(keys)} is {value!r}; {why}; {WAY_OUT}")


def _served(scheduler: Json, configs: Mapping[str, Json], layer: str) -> dict[tuple[str, ...], Any]:
    """The served values of keys that change the picture and that no tensor tells."""
    unet = configs["unet"]
    channels = unet["block_out_channels"]
    stated = unet["attention_head_dim"]  # diffusers' name for the number of heads
    heads = stated if isinstance(stated, list) else [stated] * len(channels)
    widths = {width // count for width, count in zip(channels, heads, strict=True)}
    found: dict[tuple[str, ...], Any] = {
        ("linear_start",): scheduler["beta_start"],
        ("linear_end",): scheduler["beta_end"],
        ("timesteps",): scheduler["num_train_timesteps"],
        ("beta_schedule",): "linear",  # in the square roots, which diffusers calls scaled_linear
        ("given_betas",): None,
        ("channels",): unet["in_channels"],
        ("conditioning_key",): "crossattn",
        ("scale_factor",): configs["vae"]["scaling_factor"],
        (*DENOISER, "num_idx"): scheduler["num_train_timesteps"],
        (*DENOISER, "discretization_config", "target"): "LegacyDDPMDiscretization",
        (*TEXT, "layer"): layer,
        (*TEXT, "layer_idx"): None,
    }
    for network in ("unet_config", "network_config"):
        found[network, "params", "num_heads"] = _only({*heads})
        found[network, "params", "num_head_channels"] = _only(widths)
    return found


def _only(values: set[int]) -> int | None:
    return min(values) if len(values) == 1 else None


def _same(have: Any, want: Any) -> bool:
    """Whether the values agree. Numbers may be text to YAML, such as 1e-4; of a class only its name counts."""
    if isinstance(want, str):
        return str(have).rpartition(".")[2] == want
    try:
        return want is not None and math.isclose(float(have), want, rel_tol=1e-6)
    except (TypeError, ValueError):
        return False


def find(path: Path) -> Path | None:
    """The file beside this one, if there is one."""
    return next((place for suffix in SUFFIXES if (place := path.with_suffix(suffix)).is_file()), None)


def load(path: Path) -> Sidecar | None:
    """The configuration; None where the file is something else. Raises CheckpointError for a file that is not YAML, or
    a hostile one."""
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes; a configuration has at most {MAX_BYTES}; {WAY_OUT}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        if max(map(text.count, "[{")) > MAX_BRACKETS:  # nested ones take PyYAML minutes
            raise ValueError(f"more than {MAX_BRACKETS} brackets")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise CheckpointError(f"{path}: it has aliases, which are not read; write their values out")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())[:80]
        raise CheckpointError(f"{path}: not YAML: {problem}; {WAY_OUT}") from None
    model = content.get("model") if isinstance(content, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    return Sidecar(path, params) if isinstance(params, dict) else None
