"""`impasto export clip`: export the architecture of a CLIPModel as graph skeletons, with torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from impasto_export import clip
from impasto_export.architecture import Architecture, Component, Json, Port, read_json
from impasto_export.tracing import graphs, weightless
from impasto_export.tracing.dims import EXAMPLE_LANES, LANES
from impasto_export.tracing.recipes import Recipe


class ImageEncoder(nn.Module):
    """pixel_values [n, 3, S, S] -> image_embeds [n, E], of unit length."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=pixel_values).pooler_output
        return _unit(self.model.visual_projection(pooled))


class TextEncoder(nn.Module):
    """input_ids [n, T] -> text_embeds [n, E], of unit length, pooled where the text ends."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        pooled = self.model.text_model(input_ids=input_ids).pooler_output
        return _unit(self.model.text_projection(pooled))


def export(folder: Path, out: Path, name: str | None = None, progress: Callable[[str], object] = str) -> Architecture:
    """Write the skeleton of the CLIPModel in `folder` to the folder `out`; only the config is read.

    Raises GraphError for a CLIP that cannot be exported, CheckpointError for an unreadable config.
    """
    config = read_json(folder / "config.json")
    facts, faking = clip.facts(config), weightless.mode()
    with weightless.parameters(faking):
        model = build(config)
    with faking:
        plan = recipes(model)
    architecture = Architecture(
        name or folder.resolve().name,
        clip.FAMILY,
        {clip.NAME: Component(clip.CLASS, facts, {})},
        {recipe.name: graphs.described(recipe) for recipe in plan},
        {},
    )
    graphs.write(out, architecture, list(plan), progress)
    return architecture


def build(config: Json) -> Any:
    """The CLIPModel in float32, eval mode, random weights."""
    # Built by its class: from_config would take the dtype that the checkpoint was saved in.
    model: Any = CLIPModel(CLIPConfig(**{**config, "dtype": "float32"}))
    return model.eval()


def recipes(model: Any) -> tuple[Recipe, Recipe]:
    vision, text, width = model.config.vision_config, model.config.text_config, model.config.projection_dim
    pixels = (vision.num_channels, vision.image_size, vision.image_size)
    ids = torch.randint(0, text.vocab_size, (EXAMPLE_LANES, text.max_position_embeddings))
    return (
        Recipe(
            "image_encoder",
            clip.NAME,
            ImageEncoder(model),
            (torch.randn(EXAMPLE_LANES, *pixels),),
            ({0: LANES},),
            (Port("pixel_values", "float32", ("n", *pixels)),),
            (Port("image_embeds", "float32", ("n", width)),),
        ),
        Recipe(
            "text_encoder",
            clip.NAME,
            TextEncoder(model),
            (ids,),
            ({0: LANES},),
            (Port("input_ids", "int64", ("n", text.max_position_embeddings)),),
            (Port("text_embeds", "float32", ("n", width)),),
        ),
    )


def _unit(embeds: Tensor) -> Tensor:
    length: Tensor = embeds.norm(dim=-1, keepdim=True)
    return embeds / length
