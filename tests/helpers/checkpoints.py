"""Random checkpoints of the shipped mini-diffusion, mini-controlnet and mini-muse, saved as diffusers does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from impasto_export import architecture
from impasto_export.tracing import graphs

# The models are small: a second thread gains little, and costs much when another process needs the core.
torch.set_num_threads(1)

MINI, CONTROL = architecture.SHIPPED / "mini-diffusion", architecture.SHIPPED / "mini-controlnet"
MUSE = architecture.SHIPPED / "mini-muse"
CHANNELS: int = architecture.load(MINI).sizes["latents"]["channels"]
SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
MERGES = [
    ("t", "h"),
    ("th", "e</w>"),
    ("r", "e"),
    ("re", "d</w>"),
    ("i", "n"),
    ("in", "g</w>"),
    ("b", "o"),
    ("a", "t</w>"),
]
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "set_alpha_to_one": False,
}
FROM_CHECKPOINT: dict[str, dict[str, Any]] = {
    "text_encoder": {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"},
    "unet": {"_class_name": "UNet2DConditionModel", "sample_size": 16},
    "vae": {"_class_name": "AutoencoderKL", "sample_size": 128, "scaling_factor": 0.9, "shift_factor": None},
}
MASKED: dict[str, dict[str, Any]] = {
    "text_encoder": {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "bos_token_id": 512,
        "pad_token_id": 513,
    },
    "transformer": {"_class_name": "UVit2DModel", "sample_size": 16},
    "vqvae": {"_class_name": "VQModel", "sample_size": 128},
}
CODES: int = architecture.load(MUSE).sizes["tokens"]["codes"]
MASK_ID: int = architecture.load(MUSE).components["transformer"].config["vocab_size"] - 1
# It ends texts with the id that mini-muse's text encoder looks for.
TOKENIZER = Path(__file__).parents[2] / "studio" / "mini-diffusion" / "tokenizer"
CONTROLNET: dict[str, Any] = {"_class_name": "ControlNetModel"}


def config(part: str) -> dict[str, Any]:
    """The component's config as a checkpoint states it; `part` may be "controlnet"."""
    if part == "controlnet":
        return {**architecture.load(CONTROL).components[part].config, **CONTROLNET}
    return {**architecture.load(MINI).components[part].config, **FROM_CHECKPOINT[part]}


def model(part: str, seed: int) -> Any:
    """The component with random weights that fp16 can hold exactly, so that saving them as fp16 loses nothing."""
    torch.manual_seed(seed)
    module = graphs.build(part, config(part))
    with torch.no_grad():
        for parameter in module.parameters():
            # Norm weights and biases start as constants, which would hide a tensor linked to the wrong place. A
            # ControlNet's outputs start at zero, which would hide all of it.
            constant = parameter.ndim == 1 or not parameter.any()
            noise = torch.randn_like(parameter) * (0.1 if constant else 0.0)
            parameter.copy_((parameter + noise).half().float())
    return module


def save(folder: Path, seed: int, dtype: torch.dtype = torch.float16) -> Path:
    """Write a whole checkpoint with random weights, stored as `dtype`."""
    for part in FROM_CHECKPOINT:
        model(part, seed).to(dtype).save_pretrained(folder / part)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    save_tokenizer(folder / "tokenizer")
    return folder


def masked_config(part: str) -> dict[str, Any]:
    """The component's config as a masked checkpoint states it."""
    return {**architecture.load(MUSE).components[part].config, **MASKED[part]}


def masked_model(part: str, seed: int) -> Any:
    """The component of a masked checkpoint, see `random_model`."""
    return random_model(part, masked_config(part), seed)


def random_model(part: str, config: dict[str, Any], seed: int) -> Any:
    """The component with random weights that fp16 can hold exactly, large enough that every input affects the output.

    With torch's own initialisation the codes are nearly equal, and attention has hardly any effect.
    """
    torch.manual_seed(seed)
    module = graphs.build(part, config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn_like(parameter)
            if "quantize" in name:
                parameter.copy_(noise)
            elif parameter.ndim == 1 or not parameter.any():
                parameter.add_(0.1 * noise)
            else:
                parameter.mul_(2)
            parameter.copy_(parameter.half().float())
    return module


def save_masked(folder: Path, seed: int, dtype: torch.dtype = torch.float16) -> Path:
    """Write a whole masked checkpoint with random weights, stored as `dtype`."""
    for part in MASKED:
        masked_model(part, seed).to(dtype).save_pretrained(folder / part)
    masking = {"_class_name": "AmusedScheduler", "mask_token_id": MASK_ID, "masking_schedule": "cosine"}
    write_json(folder / "scheduler" / "scheduler_config.json", masking)
    write_json(folder / "model_index.json", {"_class_name": "AmusedPipeline"})
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    return folder


def save_controlnet(folder: Path, seed: int, dtype: torch.dtype = torch.float16) -> Path:
    """Write a ControlNet that fits those checkpoints."""
    model("controlnet", seed).to(dtype).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Write vocab.json and merges.txt as in SD checkpoints: every byte, every byte at a word's end, merges."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in MERGES), *SPECIAL.values()]
    write_json(folder / "vocab.json", {word: index for index, word in enumerate(words)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 32, **SPECIAL}
    )


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
