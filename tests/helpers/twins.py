"""reduced.py's architectures as whole checkpoints with random weights, tokenizers and a scheduler, to paint pictures.

Weights are large enough that every input affects the picture: with torch's own initialisation it is always grey.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from impasto_export.tracing import graphs
from tests.helpers import checkpoints, reduced

TOKENS, VOCABULARY = 32, 522  # of the tokenizer that checkpoints.py saves
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
NOISE = {**BETAS, "prediction_type": "epsilon", "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
SCHEDULERS: Mapping[str, Mapping[str, object]] = {
    "sd1": {"_class_name": "PNDMScheduler", **{k: v for k, v in NOISE.items() if k != "clip_sample"}},
    "sd2": {"_class_name": "DDIMScheduler", **NOISE, "prediction_type": "v_prediction", "timestep_spacing": "leading"},
    "turbo": {"_class_name": "EulerAncestralDiscreteScheduler", **NOISE, "timestep_spacing": "trailing"},
    "sdxl": {"_class_name": "EulerDiscreteScheduler", **NOISE, "timestep_spacing": "leading"},
    "lcm": {"_class_name": "LCMScheduler", **NOISE, "original_inference_steps": 50, "timestep_scaling": 10.0},
}
PIPELINES = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "turbo": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "lcm": "LatentConsistencyModelPipeline",
}
ARCHITECTURES = {"sd1": "sd1", "sd2": "sd2", "turbo": "sd2", "sdxl": "sdxl", "lcm": "lcm"}
CLASSES = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}


def save(folder: Path, kind: str) -> Path:
    """Write a checkpoint of the kind "sd1", "sd2", "turbo", "sdxl" or "lcm"."""
    torch.manual_seed(len(kind))
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": TOKENS}
    configs = reduced.configs(ARCHITECTURES[kind], **dict.fromkeys(CLASSES, text))
    index: dict[str, object] = {"scheduler": ["diffusers", SCHEDULERS[kind]["_class_name"]]}
    for part, config in configs.items():
        module = louder(graphs.build(part, config))
        module.save_pretrained(folder / part)
        index[part] = ["transformers" if part in CLASSES else "diffusers", type(module).__name__]
    for part in [part.replace("text_encoder", "tokenizer") for part in configs if part in CLASSES]:
        save_tokenizer(folder / part)
        index[part] = ["transformers", "CLIPTokenizer"]
    more = {"force_zeros_for_empty_prompt": True} if kind == "sdxl" else {"requires_safety_checker": False}
    checkpoints.write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULERS[kind])
    checkpoints.write_json(folder / "model_index.json", {"_class_name": PIPELINES[kind], **index, **more})
    return folder


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer; SDXL's second one pads with "!"."""
    checkpoints.save_tokenizer(folder)
    if folder.name == "tokenizer_2":
        facts = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **checkpoints.SPECIAL}
        checkpoints.write_json(folder / "tokenizer_config.json", {**facts, "pad_token": "!"})


def louder(module: Any) -> Any:
    """The module with larger weights, most of all where it reads the text, which few attentions would hardly show."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            factor = 4.0 if "attn2.to_v" in name else 1.5
            parameter.copy_(parameter * factor if parameter.ndim > 1 else parameter + 0.1 * torch.randn_like(parameter))
    return module.eval()
