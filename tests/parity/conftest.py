from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from impasto_export.adapters import convert
from impasto_export.link import link
from impasto_export.registry import Registry

CHECKPOINT = Path(__file__).parents[2] / "studio" / "mini-diffusion"
UNET_SITES = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in"]
TEXT_SITES = ["q_proj", "v_proj", "fc1"]


@dataclass(frozen=True)
class Studio:
    """mini-diffusion as a bundle, with two random LoRAs in a registry and, by the same names, as diffusers files."""

    bundle: Path
    registry: Path
    loras: Path


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    folder = tmp_path_factory.mktemp("studio")
    link(CHECKPOINT, folder / "bundle")
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    registry = Registry(folder / "registry")
    for name, seed in (("one", 1), ("two", 2)):
        write_lora(folder / "loras" / name, seed)
        registry.put(name, convert(folder / "loras" / name / "pytorch_lora_weights.safetensors", manifest).data)
    return Studio(folder / "bundle", folder / "registry", folder / "loras")


def diffusers_pipeline() -> Any:
    """The checkpoint in the reference implementation, fp32."""
    pipe = StableDiffusionPipeline.from_pretrained(CHECKPOINT, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_lora(folder: Path, seed: int) -> None:
    """A LoRA that changes the picture a good deal, for the UNet and the text encoder, as diffusers writes it."""
    pipe = diffusers_pipeline()
    torch.manual_seed(seed)
    layers = {}
    for part, sites in (("unet", UNET_SITES), ("text_encoder", TEXT_SITES)):
        config = LoraConfig(r=4 * seed, lora_alpha=6, target_modules=sites, init_lora_weights=False)
        getattr(pipe, part).add_adapter(config)
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(getattr(pipe, part))
        layers[f"{part}_lora_adapter_metadata"] = config.to_dict()
    pipe.save_lora_weights(folder, **layers)
