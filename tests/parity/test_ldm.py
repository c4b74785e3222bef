"""The tables of the original layout's names against diffusers' own converters, on networks of the same topology."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from impasto_export.checkpoints import ldm

Tensors = dict[str, torch.Tensor]
# What SD 1.x, SD 2.x and SDXL have apart from one another, and from their widths.
SD1 = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (32, 32, 64, 64),
}
SD2 = {**SD1, "use_linear_projection": True}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64, 64),
    "transformer_layers_per_block": [1, 2, 3],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 208,
}


def renamed(tensors: Mapping[str, torch.Tensor], table: ldm.Names, config: Any, prefix: str) -> Tensors:
    """As the original file has them."""
    found: Tensors = {}
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        place = table(name, config)
        if place.third is None:
            found[prefix + place.name] = tensor.T if place.transposed else tensor
        else:
            thirds.setdefault(prefix + place.name, {})[place.third] = tensor
    return found | {name: torch.cat([parts[third] for third in range(3)]) for name, parts in thirds.items()}


def assert_same(found: Tensors, expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("topology", [SD1, SD2, SDXL], ids=["sd1", "sd2", "sdxl"])
def test_unet(topology: dict[str, Any]) -> None:
    model: Any = UNet2DConditionModel(cross_attention_dim=32, attention_head_dim=8, **topology)
    original = renamed(model.state_dict(), ldm.unet, model.config, "model.diffusion_model.")
    assert_same(single_file_utils.convert_ldm_unet_checkpoint(original, model.config), model.state_dict())


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_controlnet(prefix: str) -> None:
    """Its zero convolutions are told from one another by what is put there."""
    blocks = {key: SD1[key] for key in ("down_block_types", "block_out_channels")}
    hint = {"conditioning_embedding_out_channels": (8, 16, 24, 32)}
    model: Any = ControlNetModel(cross_attention_dim=32, attention_head_dim=8, **hint, **blocks)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    original = renamed(model.state_dict(), ldm.controlnet, model.config, prefix)
    assert_same(single_file_utils.convert_controlnet_checkpoint(original, model.config), model.state_dict())


def test_autoencoder() -> None:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    model: Any = AutoencoderKL(block_out_channels=(32, 32, 64, 64), layers_per_block=2, **blocks)
    original = renamed(model.state_dict(), ldm.vae, model.config, "first_stage_model.")
    assert_same(single_file_utils.convert_ldm_vae_checkpoint(original, model.config), model.state_dict())


@pytest.fixture(scope="module")
def text() -> Any:
    """Its projection has another width than it, and is not square."""
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "projection_dim": 48}
    ends: dict[str, Any] = {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98}
    return CLIPTextModelWithProjection(CLIPTextConfig(num_attention_heads=4, **sizes, **ends))


def test_open_clip(text: Any) -> None:
    prefix = "conditioner.embedders.1.model."
    original = renamed(text.state_dict(), ldm.open_clip, {}, prefix)
    assert_same(single_file_utils.convert_open_clip_checkpoint(text, original, prefix), text.state_dict())


def test_clip(text: Any) -> None:
    original = renamed(text.state_dict(), ldm.unchanged, {}, "cond_stage_model.transformer.")
    assert_same(single_file_utils.convert_ldm_clip_checkpoint(original), text.state_dict())


@pytest.mark.parametrize(
    ("topology", "name", "known"),
    [
        (SD1, "up_blocks.3.resnets.2.conv_shortcut.weight", "output_blocks.11.0.skip_connection.weight"),
        (SD1, "up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        (SD1, "down_blocks.0.downsamplers.0.conv.bias", "input_blocks.3.0.op.bias"),
        (SDXL, "up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.2.conv.weight"),
        (SDXL, "add_embedding.linear_2.bias", "label_emb.0.2.bias"),
    ],
)
def test_names_of_the_published_files(topology: dict[str, Any], name: str, known: str) -> None:
    assert ldm.unet(name, {"layers_per_block": 2, **topology}).name == known
