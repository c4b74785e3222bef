"""The shapes of mini-diffusion, and its folder in the ordinary diffusers layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from studio.nets.folders import replaced
from studio.nets.tokenizer import TOKENS, VOCABULARY, write_classic_files
from studio.painter import Bytes
from studio.pictures import to_tensor
from studio.places import CHECKPOINT


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Bytes) -> Tensor:
    """Scaled latents, float16 [N, 8, 16, 16]."""
    parts = [
        vae.encode(to_tensor(part).to(vae.device)).latent_dist.mode().half().cpu()
        for part in np.array_split(images, max(1, len(images) // 32))
    ]
    latents: Tensor = torch.cat(parts) * vae.config.scaling_factor
    return latents


Size = Literal["small", "large"]


@dataclass(frozen=True)
class Shape:
    """Channel counts of the three networks; `heads` is the number of heads per UNet level (each 32 wide)."""

    vae: tuple[int, ...]
    unet: tuple[int, ...]
    heads: tuple[int, ...]
    text: int
    text_layers: int
    unet_layers: int


SHAPES: dict[Size, Shape] = {
    "small": Shape((16, 32, 64, 96), (64, 128, 192), (2, 4, 6), 128, 4, 1),
    "large": Shape((32, 64, 96, 128), (96, 192, 320), (3, 6, 10), 256, 6, 2),
}
LATENT_CHANNELS = 16


def new_vae(size: Size) -> AutoencoderKL:
    """f=8, no attention: textures are local. Residual branches start at zero, which trains twice as fast."""
    channels = SHAPES[size].vae
    vae = AutoencoderKL(
        sample_size=128,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    for part in vae.modules():
        if isinstance(part, ResnetBlock2D):
            nn.init.zeros_(part.conv2.weight)
    return vae


def new_unet(size: Size) -> UNet2DConditionModel:
    """Attention at every level: an adapter touches linear layers only, so the finest level needs some too."""
    shape = SHAPES[size]
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=shape.unet,
        layers_per_block=shape.unet_layers,
        down_block_types=("CrossAttnDownBlock2D",) * len(shape.unet),
        up_block_types=("CrossAttnUpBlock2D",) * len(shape.unet),
        cross_attention_dim=shape.text,
        attention_head_dim=shape.heads,
        use_linear_projection=True,
        norm_num_groups=16,
    )


def new_text_encoder(size: Size, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    shape = SHAPES[size]
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.text,
        intermediate_size=4 * shape.text,
        projection_dim=shape.text,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text // 32,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="leading",
    )


def save_checkpoint(
    path: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """As a pipeline in fp16."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with replaced(path) as fresh:
        pipe.to(dtype=torch.float16).save_pretrained(fresh, safe_serialization=True)
        write_classic_files(fresh / "tokenizer")
        _forget_origin(fresh)
        pipe.to(dtype=torch.float32)


def _forget_origin(checkpoint: Path) -> None:
    """Leave out which folder of which machine a component was loaded from."""
    for path in checkpoint.glob("*/config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_checkpoint(path: Path = CHECKPOINT, device: str = "cpu") -> StableDiffusionPipeline:
    """The pipeline in fp32, without a progress bar of its own."""
    pipe = StableDiffusionPipeline.from_pretrained(path, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def save_model(model: ModelMixin, folder: Path) -> None:
    """In fp16."""
    with replaced(folder) as fresh:
        model.half().save_pretrained(fresh, safe_serialization=True)
        model.float()
