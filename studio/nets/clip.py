"""The shape of mini-clip."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

SIDE = 64


@dataclass(frozen=True)
class Shape:
    """The picture's tower, `hidden` wide, over 8x8 patches; `joint` is what both towers project to."""

    hidden: int = 192
    layers: int = 4
    joint: int = 128


def new_clip(start: CLIPTextModel, shape: Shape) -> CLIPModel:
    """mini-diffusion's text encoder, which knows the words already, beside a vision transformer that knows nothing.

    Attention is written out: torch's fused one takes nearly twice as long on a CPU.
    """
    vision = CLIPVisionConfig(
        hidden_size=shape.hidden,
        intermediate_size=4 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 32,
        image_size=SIDE,
        patch_size=8,
        projection_dim=shape.joint,
    )
    text = start.config.to_dict()
    text.pop("_name_or_path", None)  # a folder of this machine
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.joint))
    clip.set_attn_implementation("eager")
    clip.text_model.load_state_dict({name.removeprefix("text_model."): v for name, v in start.state_dict().items()})
    return clip


def new_processor(tokenizer: CLIPTokenizer) -> CLIPProcessor:
    """Pictures of 64x64 in -1..1, as `to_tensor` has them."""
    half = [0.5, 0.5, 0.5]
    crop = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop, image_mean=half, image_std=half)
    return CLIPProcessor(pictures, tokenizer)
