"""Recipes of the diffusion family: what torch exports as each graph. A module, example inputs, dynamic dims, ports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from impasto_export.architecture import Json, Port, Site
from impasto_export.support import TIME_IDS
from impasto_export.tracing import sites
from impasto_export.tracing.dims import (
    COLUMNS,
    EXAMPLE_COLUMNS,
    EXAMPLE_LANES,
    EXAMPLE_ROWS,
    EXAMPLE_TOKENS,
    LANES,
    ROWS,
    TOKENS,
)

GUIDANCE = "timestep_cond"


@dataclass(frozen=True)
class Recipe:
    """One graph to export; `prefix` goes before the module's parameter and site names, as in the checkpoint.

    `whole`: every parameter becomes a placeholder, even one that nothing reads, since the checkpoint has it.
    """

    name: str
    component: str
    module: nn.Module
    args: tuple[Any, ...]
    dynamic: tuple[Any, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sites: tuple[Site, ...] = ()
    prefix: str = ""
    whole: bool = False

    @property
    def input_names(self) -> list[str]:
        return [port.name for port in (*self.inputs, *sites.banks(self.sites))]


class UNet(nn.Module):
    """sample [lanes, C, h, w], timestep [lanes], context [lanes, T, D] -> model output [lanes, C, h, w].

    `residuals` are a ControlNet's, the middle block's last. A spatial size of 1 x 1 is broadcast: zeros of that size
    mean no ControlNet.
    """

    def __init__(self, model: Any, found: tuple[Site, ...]) -> None:
        super().__init__()
        self.model, self.bank = model, sites.attach(model, found)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        residuals: list[Tensor],
        adapters: list[Tensor],
    ) -> Tensor:
        self.bank.fill(adapters)
        return self.output(sample, timestep, context, residuals=residuals)

    def output(self, *inputs: Tensor, residuals: list[Tensor], **conditions: Any) -> Tensor:
        control = {"down_block_additional_residuals": residuals[:-1], "mid_block_additional_residual": residuals[-1]}
        output: Tensor = self.model(*inputs, **control, **conditions, return_dict=False)[0]
        return output


class ConditionedUNet(UNet):
    """As UNet, with `conditions`: those of `condition_widths`, [lanes, width] each.

    It is a class of its own because torch loses the names of dims when a list among the inputs is empty.
    """

    def __init__(self, model: Any, found: tuple[Site, ...]) -> None:
        super().__init__(model, found)
        self.names = tuple(condition_widths(model.config))

    def forward(  # type: ignore[override]
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        conditions: list[Tensor],
        residuals: list[Tensor],
        adapters: list[Tensor],
    ) -> Tensor:
        self.bank.fill(adapters)
        added = dict(zip(self.names, conditions, strict=True))
        guidance = added.pop(GUIDANCE, None)
        more = {"timestep_cond": guidance, "added_cond_kwargs": added or None}
        return self.output(sample, timestep, context, residuals=residuals, **more)


class ControlNet(nn.Module):
    """As UNet, with hint [lanes, 3, H, W] in 0..1 and scale [lanes] -> residuals times scale, the middle's last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, sample: Tensor, timestep: Tensor, context: Tensor, hint: Tensor, scale: Tensor
    ) -> tuple[Tensor, ...]:
        rows = scale.reshape(-1, 1, 1, 1)
        down, mid = self.model(sample, timestep, context, hint, conditioning_scale=rows, return_dict=False)
        return (*down, mid)


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


def unet(model: Any, tokens: int, stride: int) -> Recipe:
    """The UNet's recipe; `stride` is its downsampling, and the dims make h and w multiples of it."""
    config, found = model.config, sites.find(model, "unet")
    residuals, widths = residual_channels(config), condition_widths(config)
    context = torch.randn(EXAMPLE_LANES, tokens, config.cross_attention_dim)
    # Fixed at 1 x 1: so torch traces a plain Add, which broadcasts, and holds for every size that the ports then allow.
    nothing = [torch.zeros(EXAMPLE_LANES, channels, 1, 1) for channels in residuals]
    conditions = [torch.randn(EXAMPLE_LANES, width) for width in widths.values()]
    more = [conditions, nothing] if conditions else [nothing]
    return Recipe(
        "unet",
        "unet",
        (ConditionedUNet if conditions else UNet)(model, found),
        (_sample(config, stride), _timestep(), context, *more, sites.examples(found)),
        (
            _sample_dims(stride),
            {0: LANES},
            {0: LANES},
            *([{0: LANES} for _ in tensors] for tensors in more),
            sites.dims(found),
        ),
        (
            Port("sample", "float32", ("lanes", config.in_channels, "h", "w")),
            Port("timestep", "float32", ("lanes",)),
            Port("encoder_hidden_states", "float32", ("lanes", tokens, config.cross_attention_dim)),
            *(Port(name, "float32", ("lanes", width)) for name, width in widths.items()),
            *_residual_ports(residuals),
            *sites.inputs(found),
        ),
        (Port("model_output", "float32", ("lanes", config.out_channels, "h", "w")),),
        found,
    )


def controlnet(model: Any, latents: Json, stride: int) -> Recipe:
    """A ControlNet's recipe; the number of tokens is dynamic, since its config doesn't state it."""
    config, factor = model.config, latents["factor"]
    sample, width = _sample(config, stride), config.cross_attention_dim
    high, wide = (factor * size for size in sample.shape[2:])
    dims = _sample_dims(stride)
    return Recipe(
        "controlnet",
        "controlnet",
        ControlNet(model),
        (
            sample,
            _timestep(),
            torch.randn(EXAMPLE_LANES, EXAMPLE_TOKENS, width),
            torch.rand(EXAMPLE_LANES, config.conditioning_channels, high, wide),
            torch.ones(EXAMPLE_LANES),
        ),
        (dims, {0: LANES}, {0: LANES, 1: TOKENS}, {0: LANES, 2: factor * dims[2], 3: factor * dims[3]}, {0: LANES}),
        (
            Port("sample", "float32", ("lanes", config.in_channels, "h", "w")),
            Port("timestep", "float32", ("lanes",)),
            Port("encoder_hidden_states", "float32", ("lanes", "tokens", width)),
            Port("hint", "float32", ("lanes", config.conditioning_channels, "H", "W")),
            Port("conditioning_scale", "float32", ("lanes",)),
        ),
        _residual_ports(residual_channels(config)),
    )


def condition_widths(config: Any) -> dict[str, int]:
    """Name -> width of the inputs that only some UNets take: SDXL's pooled text and sizes, and the embedding of the
    guidance scale, of a checkpoint that was distilled with it."""
    widths = {}
    if config.addition_embed_type == "text_time":
        sizes = TIME_IDS * config.addition_time_embed_dim
        widths = {"text_embeds": config.projection_class_embeddings_input_dim - sizes, "time_ids": TIME_IDS}
    return widths | ({GUIDANCE: config.time_cond_proj_dim} if config.time_cond_proj_dim else {})


def residual_channels(config: Any) -> tuple[int, ...]:
    """Channels of the residuals: the first convolution's, every down block's, the middle block's."""
    blocks = list(config.block_out_channels)
    layers = config.layers_per_block
    counts = [layers] * len(blocks) if isinstance(layers, int) else list(layers)
    down = [
        channels
        for index, (channels, count) in enumerate(zip(blocks, counts, strict=True))
        for _ in range(count + (index + 1 < len(blocks)))
    ]
    return (blocks[0], *down, blocks[-1])


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


def _residual_ports(channels: tuple[int, ...]) -> tuple[Port, ...]:
    """The residuals' ports. Each has its own spatial dims: 1 x 1, or the size that its block works at."""
    names = [*(f"down_residual_{index}" for index in range(len(channels) - 1)), "mid_residual"]
    return tuple(
        Port(name, "float32", ("lanes", size, f"{name}_h", f"{name}_w"))
        for name, size in zip(names, channels, strict=True)
    )


def _sample(config: Any, stride: int) -> Tensor:
    return torch.randn(EXAMPLE_LANES, config.in_channels, stride * EXAMPLE_ROWS, stride * EXAMPLE_COLUMNS)


def _sample_dims(stride: int) -> dict[int, Any]:
    high, wide = size_dims(stride)
    return {0: LANES, 2: high, 3: wide}


def size_dims(stride: int) -> tuple[Any, Any]:
    """Rows and columns that are multiples of `stride`."""
    return (stride * ROWS, stride * COLUMNS) if stride > 1 else (ROWS, COLUMNS)


def _timestep() -> Tensor:
    return torch.tensor([3.0, 500.5])
