"""What torch is asked to export for each graph: a module with tensor inputs, examples, dynamic dims, ports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from impasto_export import sites
from impasto_export.architecture import Json, Port, Site

TEXT_PREFIX = "text_model."
LANES = Dim("lanes", min=1, max=512)
SLOTS, RANK = Dim("S", min=1, max=4096), Dim("R", min=1, max=4096)
ROWS, COLUMNS = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
# Example sizes: all different and none 1, or torch would take one dim for another or for a constant.
EXAMPLE_LANES, EXAMPLE_SLOTS, EXAMPLE_RANK, EXAMPLE_ROWS, EXAMPLE_COLUMNS = 2, 3, 5, 4, 6


@dataclass(frozen=True)
class Recipe:
    """One graph; `prefix` is what the checkpoint's parameter and site names have before the module's own."""

    name: str
    component: str
    module: nn.Module
    args: tuple[Any, ...]
    dynamic: tuple[Any, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sites: tuple[Site, ...] = ()
    prefix: str = ""

    @property
    def input_names(self) -> list[str]:
        return [*(port.name for port in self.inputs), *sites.port_names(self.sites)]


class TextEncoder(nn.Module):
    """input_ids [lanes, T] -> last hidden state after the final layer norm [lanes, T, D]."""

    def __init__(self, model: nn.Module, found: tuple[Site, ...]) -> None:
        super().__init__()
        self.model, self.bank = model, sites.attach(model, found)

    def forward(self, input_ids: Tensor, slot: Tensor, banks: list[Tensor]) -> Tensor:
        self.bank.fill(slot, banks)
        hidden: Tensor = self.model(input_ids).last_hidden_state
        return hidden


class UNet(nn.Module):
    """sample [lanes, C, h, w], timestep [lanes], context [lanes, T, D] -> model output [lanes, C, h, w]."""

    def __init__(self, model: nn.Module, found: tuple[Site, ...]) -> None:
        super().__init__()
        self.model, self.bank = model, sites.attach(model, found)

    def forward(self, sample: Tensor, timestep: Tensor, context: Tensor, slot: Tensor, banks: list[Tensor]) -> Tensor:
        self.bank.fill(slot, banks)
        output: Tensor = self.model(sample, timestep, context, return_dict=False)[0]
        return output


class Decoder(nn.Module):
    """latents [n, C, h, w] -> image [n, 3, H, W], not clamped."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        image: Tensor = self.model.decode(latents, return_dict=False)[0]
        return image


class Encoder(nn.Module):
    """image [n, 3, H, W] in [-1, 1] -> mean and log variance [n, C, h, w] of the latents."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.model.encode(image).latent_dist
        return latents.mean, latents.logvar


def text_encoder(model: Any) -> Recipe:
    tokens, width = model.config.max_position_embeddings, model.config.hidden_size
    found = sites.find(model, "text_encoder")
    ids = torch.randint(0, model.config.vocab_size, (EXAMPLE_LANES, tokens))
    prefix = "" if any(name.startswith(TEXT_PREFIX) for name, _ in model.named_parameters()) else TEXT_PREFIX
    return Recipe(
        "text_encoder",
        "text_encoder",
        TextEncoder(model, found),
        (ids, _slot(), _banks(found)),
        ({0: LANES}, {0: LANES}, _bank_dims(found)),
        (Port("input_ids", "int64", ("lanes", tokens)), Port("slot", "int64", ("lanes",))),
        (Port("prompt_embeds", "float32", ("lanes", tokens, width)),),
        tuple(Site(prefix + site.name, site.in_features, site.out_features) for site in found),
        prefix,
    )


def unet(model: Any, tokens: int, stride: int) -> Recipe:
    """`stride` is the UNet's downsampling: h and w are multiples of it by construction of their dims."""
    config, found = model.config, sites.find(model, "unet")
    sample = torch.randn(EXAMPLE_LANES, config.in_channels, stride * EXAMPLE_ROWS, stride * EXAMPLE_COLUMNS)
    context = torch.randn(EXAMPLE_LANES, tokens, config.cross_attention_dim)
    high, wide = (stride * ROWS, stride * COLUMNS) if stride > 1 else (ROWS, COLUMNS)
    return Recipe(
        "unet",
        "unet",
        UNet(model, found),
        (sample, torch.tensor([3.0, 500.5]), context, _slot(), _banks(found)),
        ({0: LANES, 2: high, 3: wide}, {0: LANES}, {0: LANES}, {0: LANES}, _bank_dims(found)),
        (
            Port("sample", "float32", ("lanes", config.in_channels, "h", "w")),
            Port("timestep", "float32", ("lanes",)),
            Port("encoder_hidden_states", "float32", ("lanes", tokens, config.cross_attention_dim)),
            Port("slot", "int64", ("lanes",)),
        ),
        (Port("model_output", "float32", ("lanes", config.out_channels, "h", "w")),),
        found,
    )


def vae(model: Any, latents: Json) -> tuple[Recipe, Recipe]:
    channels, factor, colours = latents["channels"], latents["factor"], model.config.in_channels
    code = ("n", channels, "h", "w")
    example = torch.randn(EXAMPLE_LANES, channels, 2 * EXAMPLE_ROWS, 2 * EXAMPLE_COLUMNS)
    decoder = Recipe(
        "vae_decoder",
        "vae",
        Decoder(model),
        (example,),
        ({0: LANES, 2: ROWS, 3: COLUMNS},),
        (Port("latents", "float32", code),),
        (Port("image", "float32", ("n", colours, "H", "W")),),
    )
    image = torch.randn(EXAMPLE_LANES, colours, factor * EXAMPLE_ROWS, factor * EXAMPLE_COLUMNS)
    encoder = Recipe(
        "vae_encoder",
        "vae",
        Encoder(model),
        (image,),
        ({0: LANES, 2: factor * ROWS, 3: factor * COLUMNS},),
        (Port("image", "float32", ("n", colours, "H", "W")),),
        (Port("mean", "float32", code), Port("logvar", "float32", code)),
    )
    return decoder, encoder


def _slot() -> Tensor:
    return torch.arange(EXAMPLE_LANES)


def _banks(found: tuple[Site, ...]) -> list[Tensor]:
    shapes = [
        shape
        for site in found
        for shape in ((EXAMPLE_SLOTS, site.in_features, EXAMPLE_RANK), (EXAMPLE_SLOTS, EXAMPLE_RANK, site.out_features))
    ]
    return [torch.zeros(shape) for shape in shapes]


def _bank_dims(found: tuple[Site, ...]) -> list[dict[int, Dim]]:
    return [dims for _ in found for dims in ({0: SLOTS, 2: RANK}, {0: SLOTS, 1: RANK})]
