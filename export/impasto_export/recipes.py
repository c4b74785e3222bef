"""What torch is asked to export for each graph: a module with tensor inputs, examples, dynamic dims, ports."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from impasto_export import sites
from impasto_export.architecture import Json, Port, Site

TEXT_PREFIX = "text_model."
LANES = Dim("lanes", min=1, max=512)
ROWS, COLUMNS = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
TOKENS = Dim("tokens", min=1, max=512)
# Example sizes: all different and none 1, or torch would take one dim for another or for a constant.
EXAMPLE_LANES, EXAMPLE_ROWS, EXAMPLE_COLUMNS, EXAMPLE_TOKENS = 2, 4, 6, 7


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
    """input_ids [lanes, T] -> last hidden state after the final layer norm [lanes, T, D].

    A negative id stands for a token outside the vocabulary: its embedding is the one at its place in `learned_embeds`
    [lanes, T, D]. What `learned_embeds` holds at the other places, NaN included, reaches nothing.
    """

    def __init__(self, model: Any, found: tuple[Site, ...]) -> None:
        super().__init__()
        self.model, self.bank = model, sites.attach(model, found)
        table: nn.Module = model.get_input_embeddings()
        table.register_forward_pre_hook(lambda _, inputs: (inputs[0].clamp(min=0),))
        table.register_forward_hook(lambda _, inputs, known: torch.where(self.learned, self.vectors, known))

    def forward(self, input_ids: Tensor, learned_embeds: Tensor, slot: Tensor, banks: list[Tensor]) -> Any:
        self.bank.fill(slot, banks)
        self.learned, self.vectors = (input_ids < 0).unsqueeze(-1), learned_embeds
        return self.read(input_ids)

    def read(self, input_ids: Tensor) -> Any:
        return self.model(input_ids).last_hidden_state


class ProjectedTextEncoder(TextEncoder):
    """As the TextEncoder -> what goes into the last layer [lanes, T, D], and the projected text [lanes, P].

    The text is read at its end of text, which no learned token can be taken for: its id is negative.
    """

    def __init__(self, model: Any, found: tuple[Site, ...]) -> None:
        super().__init__(model, found)
        last: nn.Module = model.text_model.encoder.layers[-1]
        last.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.penultimate = inputs[0]

    def read(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        pooled: Tensor = self.model(input_ids).text_embeds
        return self.penultimate, pooled


class UNet(nn.Module):
    """sample [lanes, C, h, w], timestep [lanes], context [lanes, T, D] -> model output [lanes, C, h, w].

    `residuals` are a ControlNet's, the middle block's last; a spatial size of 1 x 1 is broadcast, so zeros of that size
    stand for no ControlNet.
    """

    def __init__(self, model: nn.Module, found: tuple[Site, ...]) -> None:
        super().__init__()
        self.model, self.bank = model, sites.attach(model, found)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        residuals: list[Tensor],
        slot: Tensor,
        banks: list[Tensor],
    ) -> Tensor:
        self.bank.fill(slot, banks)
        control = {"down_block_additional_residuals": residuals[:-1], "mid_block_additional_residual": residuals[-1]}
        output: Tensor = self.model(sample, timestep, context, **control, return_dict=False)[0]
        return output


class ControlNet(nn.Module):
    """As the UNet, with hint [lanes, 3, H, W] in 0..1 and scale [lanes] -> residuals times scale, the middle's last."""

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


def text_encoder(model: Any) -> Recipe:
    return _text_encoder(model, TextEncoder, ())


def projected_text_encoder(model: Any) -> Recipe:
    return _text_encoder(
        model, ProjectedTextEncoder, (Port("pooled", "float32", ("lanes", model.config.projection_dim)),)
    )


def _text_encoder(model: Any, kind: type[TextEncoder], more: tuple[Port, ...]) -> Recipe:
    """`more` are the outputs of `kind` beside the prompt's embeddings."""
    tokens, width = model.config.max_position_embeddings, model.config.hidden_size
    found = sites.find(model, "text_encoder")
    ids = torch.randint(0, model.config.vocab_size, (EXAMPLE_LANES, tokens))
    prefix = "" if any(name.startswith(TEXT_PREFIX) for name, _ in model.named_parameters()) else TEXT_PREFIX
    return Recipe(
        "text_encoder",
        "text_encoder",
        kind(model, found),
        (ids, torch.randn(EXAMPLE_LANES, tokens, width), slot(), sites.examples(found)),
        ({0: LANES}, {0: LANES}, {0: LANES}, sites.dims(found)),
        (
            Port("input_ids", "int64", ("lanes", tokens)),
            Port("learned_embeds", "float32", ("lanes", tokens, width)),
            Port("slot", "int64", ("lanes",)),
        ),
        (Port("prompt_embeds", "float32", ("lanes", tokens, width)), *more),
        tuple(replace(site, name=prefix + site.name) for site in found),
        prefix,
    )


def unet(model: Any, tokens: int, stride: int) -> Recipe:
    """`stride` is the UNet's downsampling: h and w are multiples of it by construction of their dims."""
    config, found = model.config, sites.find(model, "unet")
    residuals = residual_channels(config)
    context = torch.randn(EXAMPLE_LANES, tokens, config.cross_attention_dim)
    # 1 x 1, and not dynamic: so torch traces a plain Add, whose broadcast holds for every size the ports then allow.
    nothing = [torch.zeros(EXAMPLE_LANES, channels, 1, 1) for channels in residuals]
    return Recipe(
        "unet",
        "unet",
        UNet(model, found),
        (_sample(config, stride), _timestep(), context, nothing, slot(), sites.examples(found)),
        (_sample_dims(stride), {0: LANES}, {0: LANES}, [{0: LANES} for _ in nothing], {0: LANES}, sites.dims(found)),
        (
            Port("sample", "float32", ("lanes", config.in_channels, "h", "w")),
            Port("timestep", "float32", ("lanes",)),
            Port("encoder_hidden_states", "float32", ("lanes", tokens, config.cross_attention_dim)),
            *_residual_ports(residuals),
            Port("slot", "int64", ("lanes",)),
        ),
        (Port("model_output", "float32", ("lanes", config.out_channels, "h", "w")),),
        found,
    )


def controlnet(model: Any, latents: Json, stride: int) -> Recipe:
    """The number of tokens is dynamic: a ControlNet's config doesn't say it."""
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


def residual_channels(config: Any) -> tuple[int, ...]:
    """Channels of what every down block hands over, the first convolution's first and the middle block's last."""
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
    """Each with spatial dims of its own: 1 x 1, or the size its block works at."""
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


def slot() -> Tensor:
    """Every lane another row of the banks."""
    return torch.arange(EXAMPLE_LANES)
