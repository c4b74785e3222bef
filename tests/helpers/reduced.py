"""Twins of the public backbones, with the same topology and smaller widths, as checkpoint folders without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from impasto_export.architecture import Json

TOKENS, VOCABULARY = 16, 60
TEXT: Json = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": TOKENS,
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
TEXT_2: Json = {
    **TEXT,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 40,
    "projection_dim": 20,
}
VAE: Json = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 32,
}
# SD 1's, with one attention, in the middle block; its projections are convolutions.
UNET: Json = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "attention_head_dim": 2,
    "cross_attention_dim": 24,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 16,
}
LCM: Json = {**UNET, "time_cond_proj_dim": 12}
# SD 2 states heads by block; its projections are Linears.
SD2: Json = {**UNET, "attention_head_dim": [2, 4], "use_linear_projection": True, "upcast_attention": True}
SDXL: Json = {
    **UNET,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2],
    "attention_head_dim": [2, 4],
    "use_linear_projection": True,
    "cross_attention_dim": 64,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
}
PARTS: dict[str, dict[str, Json]] = {
    "sd1": {"text_encoder": TEXT, "unet": UNET, "vae": VAE},
    "sd2": {"text_encoder": {**TEXT, "hidden_act": "gelu"}, "unet": SD2, "vae": VAE},
    "lcm": {"text_encoder": TEXT, "unet": LCM, "vae": VAE},
    "sdxl": {"text_encoder": TEXT, "text_encoder_2": TEXT_2, "unet": SDXL, "vae": VAE},
}


def configs(name: str, **changes: dict[str, Any]) -> dict[str, Json]:
    """Every part's config, with `changes` to the named parts."""
    return {part: {**config, **changes.get(part, {})} for part, config in PARTS[name].items()}


def write(folder: Path, name: str) -> Path:
    for part, config in configs(name).items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    return folder
