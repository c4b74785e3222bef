"""Recipes of the text encoders: which of CLIP's layers is the output, and whether the text is also pooled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from impasto_export.architecture import Port, Site
from impasto_export.spellings import TEXT_PREFIX
from impasto_export.tracing import sites
from impasto_export.tracing.dims import EXAMPLE_LANES, LANES
from impasto_export.tracing.recipes import Recipe


class TextEncoder(nn.Module):
    """input_ids [lanes, T] -> last hidden state after the final layer norm [lanes, T, D].

    A negative id is a token outside the vocabulary: its embedding stands at the same place in `learned_embeds`
    [lanes, T, D]. All other values of `learned_embeds` are ignored, even NaN.
    """

    def __init__(self, model: Any, found: tuple[Site, ...]) -> None:
        super().__init__()
        self.model, self.bank = model, sites.attach(model, found)
        table: nn.Module = model.get_input_embeddings()
        table.register_forward_pre_hook(lambda _, inputs: (inputs[0].clamp(min=0),))
        table.register_forward_hook(lambda _, inputs, known: torch.where(self.learned, self.vectors, known))

    def forward(self, input_ids: Tensor, learned_embeds: Tensor, adapters: list[Tensor]) -> Any:
        self.bank.fill(adapters)
        self.learned, self.vectors = (input_ids < 0).unsqueeze(-1), learned_embeds
        return self.read(input_ids)

    def read(self, input_ids: Tensor) -> Any:
        return self.model(input_ids).last_hidden_state


class PenultimateTextEncoder(TextEncoder):
    """As TextEncoder -> the last layer's input [lanes, T, D]; the last layer itself changes nothing."""

    def __init__(self, model: Any, found: tuple[Site, ...]) -> None:
        super().__init__(model, found)
        # transformers' encoder with a projection contains the text model; the one without is the text model.
        last: nn.Module = getattr(model, "text_model", model).encoder.layers[-1]
        last.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.penultimate = inputs[0]

    def read(self, input_ids: Tensor) -> Any:
        self.model(input_ids)
        return self.penultimate


class ProjectedTextEncoder(PenultimateTextEncoder):
    """As PenultimateTextEncoder, and the projected text [lanes, P].

    The text is pooled at its end-of-text token. A learned token can't be mistaken for that: its id is negative.
    """

    def read(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        pooled: Tensor = self.model(input_ids).text_embeds
        return self.penultimate, pooled


def text_encoder(model: Any) -> Recipe:
    return _text_encoder(model, TextEncoder)


def penultimate_text_encoder(model: Any) -> Recipe:
    return replace(_text_encoder(model, PenultimateTextEncoder), whole=True)


def projected_text_encoder(model: Any, name: str = "text_encoder") -> Recipe:
    pooled = Port("pooled", "float32", ("lanes", model.config.projection_dim))
    return _text_encoder(model, ProjectedTextEncoder, name, (pooled,))


def _text_encoder(
    model: Any, kind: type[TextEncoder], name: str = "text_encoder", more: tuple[Port, ...] = ()
) -> Recipe:
    """The recipe of an encoder; `more` are the outputs of `kind` beside the prompt's embeddings."""
    tokens, width = model.config.max_position_embeddings, model.config.hidden_size
    found = sites.find(model, name)
    ids = torch.randint(0, model.config.vocab_size, (EXAMPLE_LANES, tokens))
    prefix = "" if any(name.startswith(TEXT_PREFIX) for name, _ in model.named_parameters()) else TEXT_PREFIX
    return Recipe(
        name,
        name,
        kind(model, found),
        (ids, torch.randn(EXAMPLE_LANES, tokens, width), sites.examples(found)),
        ({0: LANES}, {0: LANES}, sites.dims(found)),
        (
            Port("input_ids", "int64", ("lanes", tokens)),
            Port("learned_embeds", "float32", ("lanes", tokens, width)),
            *sites.inputs(found),
        ),
        (Port("prompt_embeds", "float32", ("lanes", tokens, width)), *more),
        tuple(replace(site, name=prefix + site.name) for site in found),
        prefix,
    )
