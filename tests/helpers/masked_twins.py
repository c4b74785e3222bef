"""Twins of aMUSEd at a reduced width, as whole checkpoints with random weights; with a second stage on request.

As in aMUSEd, the blocks of convolutions are of another width than the transformer's.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers import checkpoints

SIDE = 32  # px, of the first stage
TEXT: Mapping[str, Any] = {
    "architectures": ["CLIPTextModelWithProjection"],
    "model_type": "clip_text_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
    "vocab_size": 1024,
    "projection_dim": 32,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}
VQ: Mapping[str, Any] = {
    "_class_name": "VQModel",
    "block_out_channels": [8, 8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "latent_channels": 4,
    "num_vq_embeddings": 32,
    "norm_num_groups": 4,
    "sample_size": SIDE,
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}
TRANSFORMER: Mapping[str, Any] = {
    "_class_name": "UVit2DModel",
    "hidden_size": 48,
    "block_out_channels": 32,
    "in_channels": 32,
    "block_num_heads": 2,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "num_res_blocks": 1,
    "intermediate_size": 64,
    "cond_embed_dim": 32,
    "encoder_hidden_size": 32,
    "micro_cond_encode_dim": 8,
    "micro_cond_embed_dim": 40,
    "vocab_size": 34,
    "codebook_size": 32,
    "sample_size": SIDE // 4,
    "downsample": True,
    "upsample": True,
}
UPSCALER: Mapping[str, Any] = {
    "_class_name": "MuseUpscaler",
    "codebook_size": 32,
    "vocab_size": 34,
    "low_vocab_size": 34,
    "encoder_hidden_size": 32,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_low_layers": 1,
    "num_layers": 2,
    "intermediate_size": 48,
    "embed_dim": 8,
    "scale": 2,
    "patch": 2,
}
INDEX = {
    "_class_name": "AmusedPipeline",
    "scheduler": ["diffusers", "AmusedScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "transformer": ["diffusers", "UVit2DModel"],
    "vqvae": ["diffusers", "VQModel"],
}


def save(folder: Path, stages: int = 1) -> Path:
    for part, config in {"text_encoder": TEXT, "vqvae": VQ, "transformer": TRANSFORMER}.items():
        checkpoints.random_model(part, dict(config), len(part)).save_pretrained(folder / part)
    if stages == 2:
        checkpoints.random_model("vqvae", dict(VQ), 9).save_pretrained(folder / "upscaler_vqvae")
        checkpoints.random_model("upscaler", dict(UPSCALER), 4).save_pretrained(folder / "upscaler")
    masking = {"_class_name": "AmusedScheduler", "mask_token_id": 33, "masking_schedule": "cosine"}
    checkpoints.write_json(folder / "scheduler" / "scheduler_config.json", masking)
    checkpoints.write_json(folder / "model_index.json", INDEX)
    shutil.copytree(checkpoints.TOKENIZER, folder / "tokenizer")
    return folder
