"""An adapter's scale by PEFT's config: alpha/rank, or alpha/sqrt(rank) if that says rank-stabilised."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto_export.architecture import parse_json
from impasto_export.errors import AdapterError
from impasto_export.floats import FLOAT32
from impasto_export.weights import Header

HEADER_KEY = "lora_adapter_metadata"
CONFIG_FILE = "adapter_config.json"
# These initialisations change the base weight, so A and B alone mean nothing.
RESIDUAL_INITS = ("pissa", "olora", "loftq", "corda", "lora_ga")
# PEFT's kinds that are read -> their config's name for alpha.
ALPHA_FIELD = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}


@dataclass(frozen=True)
class Config:
    """The fields of PEFT's configs that decide a layer's scale; `dora`: layers must have a magnitude."""

    rank: int
    alpha: float
    rslora: bool
    dora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def rank_of(self, site: str) -> int:
        return int(_by_pattern(self.rank_pattern, site, self.rank))

    def alpha_of(self, site: str) -> float:
        return float(_by_pattern(self.alpha_pattern, site, self.alpha))


def check_given(alpha: float | None) -> None:
    """Raises AdapterError for an --alpha that cannot be one."""
    if alpha is not None and not FLOAT32.tiny <= alpha <= FLOAT32.max:
        raise AdapterError(f"--alpha: got {alpha}; a finite number above 0 is expected, the one of its training")


def scale(
    config: Config | None, site: str, rank: int | None, alpha: float | None, given: float | None = None
) -> float | None:
    """The site's scale; None when no alpha is known. `alpha` is the file's own tensor, which overrides the config's;
    `given` is the user's, for files that state none. A `rank` of None is a LoKr of whole factors: its alpha counts only
    in PEFT's config.

    Raises AdapterError when the config's rank is not that of the tensors, or when an alpha is both stated and given.
    """
    if rank is None:
        return 1.0 if config is None else config.alpha_of(site) / config.rank_of(site)
    if config is not None and alpha is None:
        if config.rank_of(site) != rank:
            raise AdapterError(f"{site}: its tensors have rank {rank}, its config says {config.rank_of(site)}")
        alpha = config.alpha_of(site)
    if alpha is not None and given is not None:
        raise AdapterError(f"--alpha: got {given:g}, but the source itself states {alpha:g} for {site}; leave it out")
    alpha = given if alpha is None else alpha
    if alpha is None:
        return None
    if not abs(alpha) <= FLOAT32.max:
        raise AdapterError(f"{site}: its alpha is {alpha:g}; a finite number is expected, so get the file again")
    return alpha / math.sqrt(rank) if config is not None and config.rslora else alpha / rank


def from_header(header: Header, graph: str) -> Config | None:
    """The graph's config in diffusers' header entry, which holds all components' configs; keys begin with theirs."""
    text = header.metadata.get(HEADER_KEY)
    if text is None:
        return None
    fields = _object(text, f"{header.path}: {HEADER_KEY}")
    own = {key.removeprefix(f"{graph}."): value for key, value in fields.items() if key.startswith(f"{graph}.")}
    return _config(own, header.path) if own else None


def from_folder(folder: Path) -> Config | None:
    """The config in PEFT's adapter_config.json. Raises AdapterError for a kind that is not read."""
    path = folder / CONFIG_FILE
    return _config(_object(path.read_bytes(), str(path)), path) if path.is_file() else None


def _object(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise AdapterError(f"{what} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise AdapterError(f"{what} is not a JSON object")
    return fields


def _config(fields: Mapping[str, Any], path: Path) -> Config:
    kind = str(fields.get("peft_type") or "LORA")
    if kind not in ALPHA_FIELD:
        raise AdapterError(f"{path}: peft_type is {kind}; {', '.join(ALPHA_FIELD)} are read")
    for key, meaning in (("lora_bias", "LoRA with a bias"), ("use_qalora", "QA-LoRA")):
        if fields.get(key):
            raise AdapterError(f"{path}: {key} is set; {meaning} changes more than a weight")
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(RESIDUAL_INITS):
        raise AdapterError(f"{path}: init_lora_weights is {start!r}: it changes the base weights; convert it to LoRA")
    try:
        return Config(
            _rank(fields["r"]),
            float(fields[ALPHA_FIELD[kind]]),
            bool(fields.get("use_rslora", False)),
            bool(fields.get("use_dora", False)),
            {re.compile(key).pattern: _rank(value) for key, value in (fields.get("rank_pattern") or {}).items()},
            {re.compile(key).pattern: float(value) for key, value in (fields.get("alpha_pattern") or {}).items()},
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, re.error) as error:
        raise AdapterError(f"{path}: the LoRA config cannot be used: {error!r}") from None


def _rank(value: Any) -> int:
    if int(value) < 1:
        raise ValueError(f"a rank of {value}")
    return int(value)


def _by_pattern(patterns: Mapping[str, float], site: str, default: float) -> float:
    """The site's value by PEFT's rule: the first pattern that matches the end of its name, from a dot on."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", site)), default)
