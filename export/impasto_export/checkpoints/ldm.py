"""Tensor names of the original layout: where a tensor of diffusers or transformers lies in a single-file Stable
Diffusion.

The names follow from how the blocks are built, so one table serves every size. Some tensors have trailing 1x1
dimensions there; the bytes are the same. OpenCLIP fuses q, k and v into one tensor, a third of the rows each, and its
text projection is transposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from impasto_export.architecture import Json

Rules = tuple[tuple[str, str], ...]
# Inside blocks: patterns and their replacements.
RESNET: Rules = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
UNET_ENDS: Rules = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^add_embedding\.linear_1\.", "label_emb.0.0."),
    (r"^add_embedding\.linear_2\.", "label_emb.0.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
)
UNET_BLOCK = re.compile(
    r"(?P<way>down|mid|up)_blocks?\.((?P<block>\d+)\.)?(?P<kind>[a-z]+)\.(?P<layer>\d+)\.(?P<rest>.*)"
)
VAE: Rules = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.resnets\.", ".block."),
    (r"\.downsamplers\.0\.", ".downsample."),
    (r"\.upsamplers\.0\.", ".upsample."),
    (r"\.mid_block\.block\.0\.", ".mid.block_1."),
    (r"\.mid_block\.block\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.down_blocks\.", ".down."),
)
OPEN_CLIP: Rules = (
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.embeddings\.", ""),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.fc1\.", ".c_fc."),
    (r"\.fc2\.", ".c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)
# A ControlNet's names, beside those of a UNet's first half.
CONTROLNET: Rules = (
    (r"^controlnet_cond_embedding\.conv_in\.", "input_hint_block.0."),
    (r"^controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0."),
    (r"^controlnet_mid_block\.", "middle_block_out.0."),
)
HINT = re.compile(r"controlnet_cond_embedding\.(?:blocks\.(\d+)|conv_out)\.(.*)")
FUSED = re.compile(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)")


@dataclass(frozen=True)
class Place:
    """A tensor of the original file: whole, or one third of its rows (`third` is 0, 1 or 2), or transposed."""

    name: str
    third: int | None = None
    transposed: bool = False


Names = Callable[[str, Json], Place]


def unet(name: str, config: Json) -> Place:
    """The place of a UNet's tensor; `name` is diffusers', `config` the UNet's."""
    match = UNET_BLOCK.fullmatch(name)
    if not match:
        return Place(_rewritten(name, UNET_ENDS))
    way, kind, layer, rest = match["way"], match["kind"], int(match["layer"]), match["rest"]
    block, layers = int(match["block"] or 0), config["layers_per_block"] + 1
    if kind == "downsamplers":
        return Place(f"input_blocks.{(block + 1) * layers}.0.{rest.replace('conv.', 'op.')}")
    if kind == "upsamplers":  # after the block's last resnet, and attention where it has any
        after = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        return Place(f"output_blocks.{(block + 1) * layers - 1}.{after}.{rest}")
    if way == "mid":
        owner = f"middle_block.{2 * layer if kind == 'resnets' else 1}"
    else:
        number = 1 + block * layers + layer if way == "down" else block * layers + layer
        owner = f"{'input' if way == 'down' else 'output'}_blocks.{number}.{0 if kind == 'resnets' else 1}"
    return Place(f"{owner}.{rest}" if kind == "attentions" else _rewritten(f"{owner}.{rest}", RESNET))


def controlnet(name: str, config: Json) -> Place:
    """The place of a ControlNet's tensor; `name` is diffusers', `config` the ControlNet's. Every second layer of the
    hint's encoder is an activation."""
    hint = HINT.fullmatch(name)
    if hint:
        last = 2 * len(config["conditioning_embedding_out_channels"]) - 2
        return Place(f"input_hint_block.{2 * (int(hint[1] or last) + 1)}.{hint[2]}")
    own = _rewritten(name, CONTROLNET)
    return unet(name, config) if own == name else Place(own)


def vae(name: str, config: Json) -> Place:
    """The place of an autoencoder's tensor; `name` is diffusers', `config` the autoencoder's. The original counts the
    decoder's blocks in reverse."""
    last = len(config["up_block_types"]) - 1
    counted = re.sub(r"\.up_blocks\.(\d+)\.", lambda match: f".up.{last - int(match[1])}.", name)
    return Place(_rewritten(counted, VAE))


def unchanged(name: str, config: Json) -> Place:
    """The place under the same name: CLIP's text model."""
    return Place(name)


def open_clip(name: str, config: Json) -> Place:
    """The place of an OpenCLIP text encoder's tensor; `name` is transformers'."""
    fused = FUSED.fullmatch(name)
    if fused:
        return Place(_rewritten(f"{fused[1]}.attn.in_proj_{fused[3]}", OPEN_CLIP), third="qkv".index(fused[2]))
    if name == "text_projection.weight":
        return Place("text_projection", transposed=True)
    return Place(_rewritten(name, OPEN_CLIP))


def _rewritten(name: str, rules: Rules) -> str:
    for pattern, put in rules:
        name = re.sub(pattern, put, name)
    return name
