"""Recipes of the masked family: a transformer over image tokens, its second stage, the tokens' autoencoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from impasto_export.architecture import Port, Site
from impasto_export.tracing import recipes, sites
from impasto_export.tracing.dims import COLUMNS, EXAMPLE_COLUMNS, EXAMPLE_LANES, EXAMPLE_ROWS, LANES, ROWS
from impasto_export.tracing.recipes import Recipe

# Width, height, crop x, crop y, aesthetic score.
MICRO_CONDITIONS = 5


class Transformer(nn.Module):
    """input_ids [lanes, h, w], context [lanes, T, D], pooled text [lanes, P], micro-conditions [lanes, 5]
    -> logits [lanes, codes, h, w]."""

    def __init__(self, model: nn.Module, found: tuple[Site, ...]) -> None:
        super().__init__()
        self.model, self.bank = model, sites.attach(model, found)

    def forward(
        self,
        input_ids: Tensor,
        context: Tensor,
        pooled: Tensor,
        micro_conditions: Tensor,
        adapters: list[Tensor],
    ) -> Tensor:
        self.bank.fill(adapters)
        logits: Tensor = self.model(input_ids, context, pooled, micro_conditions)
        return logits


class Upscaler(nn.Module):
    """input_ids [lanes, scale h, scale w], the first stage's low_ids [lanes, h, w], context [lanes, T, D]
    -> logits [lanes, codes, scale h, scale w]."""

    def __init__(self, model: nn.Module, found: tuple[Site, ...]) -> None:
        super().__init__()
        self.model, self.bank = model, sites.attach(model, found)

    def forward(self, input_ids: Tensor, low_ids: Tensor, context: Tensor, adapters: list[Tensor]) -> Tensor:
        self.bank.fill(adapters)
        logits: Tensor = self.model(input_ids, low_ids, context)
        return logits


class Decoder(nn.Module):
    """tokens [n, h, w] -> image [n, 3, H, W], meant for 0..1 (aMUSEd has no pixels below 0), but not clamped."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        codes = self.model.quantize.embedding(tokens).permute(0, 3, 1, 2)
        image: Tensor = self.model.decoder(self.model.post_quant_conv(codes))
        return image


class Encoder(nn.Module):
    """image [n, 3, H, W] in 0..1 -> the nearest code's id at every place [n, h, w].

    |z - e|² = |z|² - 2 z·e + |e|², and |z|² is the same for every code.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        latents, codes = self.model.encode(image, return_dict=False)[0], self.model.quantize.embedding.weight
        products = torch.matmul(latents.permute(0, 2, 3, 1), codes.T)
        tokens: Tensor = (codes.square().sum(dim=1) - 2 * products).argmin(dim=-1)
        return tokens


def transformer(model: Any, text_tokens: int, stride: int) -> Recipe:
    """The transformer's recipe; `stride` is its own downsampling of the token grid."""
    config, found = model.config, sites.find(model, "transformer")
    high, wide = recipes.size_dims(stride)
    ids = torch.randint(0, config.vocab_size, (EXAMPLE_LANES, stride * EXAMPLE_ROWS, stride * EXAMPLE_COLUMNS))
    return Recipe(
        "transformer",
        "transformer",
        Transformer(model, found),
        (
            ids,
            torch.randn(EXAMPLE_LANES, text_tokens, config.encoder_hidden_size),
            torch.randn(EXAMPLE_LANES, config.cond_embed_dim),
            torch.rand(EXAMPLE_LANES, MICRO_CONDITIONS),
            sites.examples(found),
        ),
        ({0: LANES, 1: high, 2: wide}, {0: LANES}, {0: LANES}, {0: LANES}, sites.dims(found)),
        (
            Port("input_ids", "int64", ("lanes", "h", "w")),
            Port("encoder_hidden_states", "float32", ("lanes", text_tokens, config.encoder_hidden_size)),
            Port("pooled_text_emb", "float32", ("lanes", config.cond_embed_dim)),
            Port("micro_conds", "float32", ("lanes", MICRO_CONDITIONS)),
            *sites.inputs(found),
        ),
        (Port("logits", "float32", ("lanes", config.codebook_size, "h", "w")),),
        found,
    )


def upscaler(model: Any, text_tokens: int) -> Recipe:
    config, found = model.config, sites.find(model, "upscaler")
    high, wide = recipes.size_dims(config.scale)
    grid = (EXAMPLE_ROWS, EXAMPLE_COLUMNS)
    fine = (EXAMPLE_LANES, *(config.scale * size for size in grid))
    return Recipe(
        "upscaler",
        "upscaler",
        Upscaler(model, found),
        (
            torch.randint(0, config.vocab_size, fine),
            torch.randint(0, config.low_vocab_size, (EXAMPLE_LANES, *grid)),
            torch.randn(EXAMPLE_LANES, text_tokens, config.encoder_hidden_size),
            sites.examples(found),
        ),
        ({0: LANES, 1: high, 2: wide}, {0: LANES, 1: ROWS, 2: COLUMNS}, {0: LANES}, sites.dims(found)),
        (
            Port("input_ids", "int64", ("lanes", "fine_h", "fine_w")),
            Port("low_ids", "int64", ("lanes", "h", "w")),
            Port("encoder_hidden_states", "float32", ("lanes", text_tokens, config.encoder_hidden_size)),
            *sites.inputs(found),
        ),
        (Port("logits", "float32", ("lanes", config.codebook_size, "fine_h", "fine_w")),),
        found,
    )


def vqvae(model: Any, factor: int) -> tuple[Recipe, Recipe]:
    """The first stage's decoder and encoder; `factor` is the number of pixels per token, each way."""
    return _autoencoder(model, factor, "vqvae", ("h", "w"))


def upscaler_vqvae(model: Any, factor: int) -> tuple[Recipe, Recipe]:
    """The second stage's decoder and encoder; `factor` is the number of pixels per token, each way."""
    return _autoencoder(model, factor, "upscaler_vqvae", ("fine_h", "fine_w"))


def _autoencoder(model: Any, factor: int, component: str, grid: tuple[str, str]) -> tuple[Recipe, Recipe]:
    config, name = model.config, component.removesuffix("vae")
    tokens = Port("tokens", "int64", ("n", *grid))
    decoder = Recipe(
        f"{name}_decoder",
        component,
        Decoder(model),
        (torch.randint(0, config.num_vq_embeddings, (EXAMPLE_LANES, EXAMPLE_ROWS, EXAMPLE_COLUMNS)),),
        ({0: LANES, 1: ROWS, 2: COLUMNS},),
        (tokens,),
        (Port("image", "float32", ("n", config.out_channels, "H", "W")),),
    )
    image = torch.randn(EXAMPLE_LANES, config.in_channels, factor * EXAMPLE_ROWS, factor * EXAMPLE_COLUMNS)
    encoder = Recipe(
        f"{name}_encoder",
        component,
        Encoder(model),
        (image,),
        ({0: LANES, 2: factor * ROWS, 3: factor * COLUMNS},),
        (Port("image", "float32", ("n", config.in_channels, "H", "W")),),
        (tokens,),
    )
    return decoder, encoder
