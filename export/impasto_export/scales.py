"""What a LoRA's config says of its scale: alpha/rank, or alpha/sqrt(rank) when it says rank-stabilised."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from impasto_export.errors import AdapterError
from impasto_export.weights import Header

HEADER_KEY = "lora_adapter_metadata"
CONFIG_FILE = "adapter_config.json"
# These start from another base weight than the checkpoint's, so their A and B alone mean nothing.
RESIDUAL_INITS = ("pissa", "olora", "loftq", "corda", "lora_ga")
FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class LoraConfig:
    """The fields of PEFT's LoraConfig that decide a site's scale."""

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def rank_of(self, site: str) -> int:
        return int(_by_pattern(self.rank_pattern, site, self.rank))

    def alpha_of(self, site: str) -> float:
        return float(_by_pattern(self.alpha_pattern, site, self.alpha))


def check_given(alpha: float | None) -> None:
    """Raises AdapterError for an alpha of the user's that is no scale."""
    if alpha is not None and not FLOAT32.tiny <= alpha <= FLOAT32.max:
        raise AdapterError(f"--alpha: got {alpha}; a finite number above 0 is expected, as it was in training")


def scale(
    config: LoraConfig | None, site: str, rank: int, alpha: float | None, given: float | None = None
) -> float | None:
    """The site's scale; `alpha` is the file's own tensor and wins. `given` is the user's, for files that state none;
    None when nobody states an alpha.

    Raises AdapterError when the config gives the site another rank than its tensors have, or two state an alpha.
    """
    if config is not None and alpha is None:
        if config.rank_of(site) != rank:
            raise AdapterError(f"{site}: its tensors have rank {rank}, its config says {config.rank_of(site)}")
        alpha = config.alpha_of(site)
    if alpha is not None and given is not None:
        raise AdapterError(f"--alpha: got {given:g}, but the source itself states {alpha:g} for {site}; leave it out")
    alpha = given if alpha is None else alpha
    if alpha is None:
        return None
    return alpha / math.sqrt(rank) if config is not None and config.rslora else alpha / rank


def from_header(header: Header, graph: str) -> LoraConfig | None:
    """diffusers keeps the configs of all components in one header entry, keys prefixed by the component."""
    text = header.metadata.get(HEADER_KEY)
    if text is None:
        return None
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise AdapterError(f"{header.path}: {HEADER_KEY} is not JSON: {error}") from None
    own = {key.removeprefix(f"{graph}."): value for key, value in fields.items() if key.startswith(f"{graph}.")}
    return _config(own, header.path) if own else None


def from_folder(folder: Path) -> LoraConfig | None:
    """PEFT's adapter_config.json beside the weights. Raises AdapterError for a kind that is not plain LoRA."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_bytes())
    except ValueError as error:
        raise AdapterError(f"{path} is not JSON: {error}") from None
    if fields.get("peft_type", "LORA") != "LORA":
        raise AdapterError(f"{path}: peft_type is {fields['peft_type']}; only LORA fits a bottleneck adapter")
    return _config(fields, path)


def _config(fields: Mapping[str, Any], path: Path) -> LoraConfig:
    for key, meaning in (("use_dora", "DoRA"), ("lora_bias", "LoRA with a bias"), ("use_qalora", "QA-LoRA")):
        if fields.get(key):
            raise AdapterError(f"{path}: {key} is set; {meaning} does not fit a bottleneck adapter")
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(RESIDUAL_INITS):
        raise AdapterError(f"{path}: init_lora_weights is {start!r}: it changes the base weights; convert it to LoRA")
    try:
        return LoraConfig(
            int(fields["r"]),
            float(fields["lora_alpha"]),
            bool(fields.get("use_rslora", False)),
            {str(key): int(value) for key, value in (fields.get("rank_pattern") or {}).items()},
            {str(key): float(value) for key, value in (fields.get("alpha_pattern") or {}).items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{path}: unusable LoRA config: {error!r}") from None


def _by_pattern(patterns: Mapping[str, float], site: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of the name from a dot on."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", site)), default)
