"""Graphs are exported of modules without weights, and are those of the modules with weights, byte for byte."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from impasto_export.tracing import graphs, recipes, texts, weightless
from impasto_export.tracing.recipes import Recipe
from tests.helpers import reduced


def without_weights(part: str, recipe: Callable[[Any], Recipe], kind: str) -> Recipe:
    faking = weightless.mode()
    with weightless.parameters(faking):
        model = graphs.build(part, reduced.configs(kind)[part])
    with faking:
        return recipe(model)


def tensors(recipe: Recipe) -> list[torch.Tensor]:
    return [*recipe.module.parameters(), *(item for item in recipe.args if isinstance(item, torch.Tensor))]


@pytest.mark.parametrize(
    ("kind", "part", "recipe"),
    [
        ("lcm", "unet", lambda model: recipes.unet(model, reduced.TOKENS, 2)),
        ("sdxl", "text_encoder", texts.penultimate_text_encoder),
    ],
)
def test_the_graph_is_the_same_byte_for_byte(kind: str, part: str, recipe: Callable[[Any], Recipe]) -> None:
    faked = without_weights(part, recipe, kind)
    real = recipe(graphs.build(part, reduced.configs(kind)[part]))
    assert all(isinstance(tensor, FakeTensor) for tensor in tensors(faked))
    assert not any(isinstance(tensor, FakeTensor) for tensor in tensors(real))
    assert graphs.trace(faked) == graphs.trace(real)


def test_two_gigabytes_of_weights_take_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with weightless.parameters(weightless.mode()):
        large = torch.nn.Linear(1 << 15, 1 << 14)
    assert large.weight.shape == (1 << 14, 1 << 15)
    assert large.bias.dtype == torch.float32
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_buffers_keep_their_data_and_other_modules_their_weights() -> None:
    with weightless.parameters(weightless.mode()):
        positions = graphs.build("text_encoder", reduced.TEXT).embeddings.position_ids
    assert positions.tolist() == [list(range(reduced.TOKENS))]
    assert not isinstance(torch.nn.Linear(2, 3).weight, FakeTensor)


def test_nothing_is_faked_after_an_error() -> None:
    with pytest.raises(KeyError), weightless.parameters(weightless.mode()):
        raise KeyError
    assert not isinstance(torch.nn.Linear(2, 3).weight, FakeTensor)
