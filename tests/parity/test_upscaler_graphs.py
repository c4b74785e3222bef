"""Graphs of a second stage, linked, against its torch modules: sizes, and rows of one batch under unlike adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import VQModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from impasto_export import manifest
from impasto_export.architecture import BOTTLENECK, LORA
from tests.helpers import cascades, checkpoints
from tests.helpers.codes import assert_nearest
from tests.helpers.engines import ENGINES, Engine, banks, fill, picked, relative_error, run, run_plain

TOLERANCE = 1e-4
TEXT_TOKENS, TEXT_WIDTH = 32, 128
RANK = 6
Array = NDArray[Any]


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Rows:
    """What lanes ask: tokens of either picture, the masks among them, and the text's hidden states."""

    fine: Tensor
    low: Tensor
    text: Tensor

    @classmethod
    def draw(cls, lanes: int, height: int, width: int) -> Rows:
        source, scale = draw(height), cascades.SCALE
        return cls(
            torch.randint(0, cascades.MASK_ID + 1, (lanes, scale * height, scale * width), generator=source),
            torch.randint(0, checkpoints.MASK_ID + 1, (lanes, height, width), generator=source),
            torch.randn(lanes, TEXT_TOKENS, TEXT_WIDTH, generator=source),
        )

    def feeds(self) -> dict[str, Array]:
        names = ("input_ids", "low_ids", "encoder_hidden_states")
        return dict(zip(names, (part.numpy() for part in (self.fine, self.low, self.text)), strict=True))

    def eager(self, model: nn.Module, rows: slice = slice(None)) -> Array:
        with torch.no_grad():
            logits: Array = model(self.fine[rows], self.low[rows], self.text[rows]).numpy()
        return logits


@pytest.mark.parametrize("engine", ENGINES)
def test_upscaler_at_any_batch_and_size(engine: Engine, cascade_bundle: Path) -> None:
    model = cascades.model("upscaler", 1)
    for lanes, height, width in ((1, 16, 16), (3, 6, 12)):
        rows = Rows.draw(lanes, height, width)
        for runs in (run, run_plain):
            (found,) = runs(engine, cascade_bundle, "upscaler", rows.feeds())
            assert found.shape == (lanes, cascades.CODES, cascades.SCALE * height, cascades.SCALE * width)
            assert relative_error(found, rows.eager(model)) <= TOLERANCE, (runs, lanes, height, width)


@pytest.mark.parametrize("what", ["fine", "low", "text"])
def test_every_input_matters_and_so_does_its_order(what: str) -> None:
    """Else parity would say nothing of it."""
    model, rows = cascades.model("upscaler", 1), Rows.draw(1, 4, 8)
    tensor = getattr(rows, what)
    turned = Rows(**{**vars(rows), what: tensor.flip(1) if what != "text" else tensor + 1})
    assert relative_error(turned.eager(model), rows.eager(model)) > 10 * TOLERANCE


@pytest.fixture(scope="module")
def vqvae() -> VQModel:
    model: VQModel = cascades.model("upscaler_vqvae", 1)
    return model


@pytest.mark.parametrize("engine", ENGINES)
def test_its_vq_decoder(engine: Engine, cascade_bundle: Path, vqvae: VQModel) -> None:
    tokens = torch.randint(0, cascades.CODES, (2, 5, 7), generator=draw(0))
    shape = (*tokens.shape, vqvae.config["latent_channels"])
    with torch.no_grad():
        expected = vqvae.decode(tokens, force_not_quantize=True, return_dict=False, shape=shape)[0]
    (found,) = run(engine, cascade_bundle, "upscaler_vq_decoder", {"tokens": tokens.numpy()})
    assert found.shape == (2, 3, 40, 56)
    assert relative_error(found, expected.numpy()) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_its_vq_encoder(engine: Engine, cascade_bundle: Path, vqvae: VQModel) -> None:
    image = torch.rand(2, 3, 40, 56, generator=draw(1)) * 2 - 1
    (found,) = run(engine, cascade_bundle, "upscaler_vq_encoder", {"image": image.numpy()})
    assert len(np.unique(found)) > 10, "the picture must matter"
    assert_nearest(found, vqvae, image)


# adapters, a row each


@dataclass(frozen=True)
class Adapter:
    """A random one of a kind, at all its sites."""

    kind: str
    seed: int

    def tensors(self, site: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """[in, RANK] and [RANK, out]."""
        wide, narrow = site["in_features"], site["out_features"]
        source = draw(self.seed + sum(site["name"].encode()))
        first, second = (torch.randn(shape, generator=source) for shape in ((wide, RANK), (RANK, narrow)))
        return first * wide**-0.5, second * 0.3

    def added(self, site: Mapping[str, Any], x: Tensor, y: Tensor) -> Tensor | float:
        if site.get("kind", LORA) != self.kind:
            return 0.0
        first, second = self.tensors(site)
        return x @ first @ second if self.kind == LORA else functional.gelu(y @ first) @ second

    def fill(self, tables: dict[str, Array], site: Mapping[str, Any]) -> None:
        """Write its page, the first behind the empty one."""
        if site.get("kind", LORA) == self.kind:
            roles = ("lora_A", "lora_B") if self.kind == LORA else ("down", "up")
            first, second = self.tensors(site)
            for role, value in zip(roles, (first.T, second), strict=True):
                fill(tables[f"{site['name']}.{role}"], 1, RANK, value.numpy())


LOW_RANK, HOUSLBY = Adapter(LORA, 1), Adapter(BOTTLENECK, 2)
# A row each.
MIXES: tuple[tuple[Adapter, ...], ...] = ((), (LOW_RANK,), (HOUSLBY,), (LOW_RANK, HOUSLBY))


def adapted(model: nn.Module, sites: Sequence[Mapping[str, Any]], mix: tuple[Adapter, ...]) -> nn.Module:
    """`model` with the mix added to the outputs of the sites' modules."""

    def hook(site: Mapping[str, Any]) -> Any:
        return lambda _, inputs, y: y + sum(part.added(site, inputs[0], y) for part in mix)

    for site in sites:
        model.get_submodule(site["name"]).register_forward_hook(hook(site))
    return model


def of_stack(sites: Sequence[dict[str, Any]], stack: str) -> list[dict[str, Any]]:
    return [site for site in sites if site["name"].startswith(stack)]


@pytest.mark.parametrize("stack", ["low_layers.", "layers."])
@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_one_batch_use_different_adapters_of_either_stack(
    engine: Engine, stack: str, cascade_bundle: Path
) -> None:
    facts = manifest.load(cascade_bundle)["graphs"]["upscaler"]
    sites, rows = of_stack(facts["sites"], stack), Rows.draw(4, 4, 8)
    tables = banks(facts, {LORA: 2 * RANK, BOTTLENECK: 2 * RANK})
    for site in sites:
        for adapter in (LOW_RANK, HOUSLBY):
            adapter.fill(tables, site)
    told = {
        name: value
        for adapter in (LOW_RANK, HOUSLBY)
        for name, value in picked(adapter.kind, np.array([adapter in mix for mix in MIXES], np.int64), RANK).items()
    }
    (found,) = run(engine, cascade_bundle, "upscaler", {**rows.feeds(), **told, **tables})
    (plain,) = run(engine, cascade_bundle, "upscaler", rows.feeds())
    np.testing.assert_array_equal(found[0], plain[0])
    for row, mix in enumerate(MIXES):
        expected = rows.eager(adapted(cascades.model("upscaler", 1), sites, mix), slice(row, row + 1))[0]
        assert relative_error(found[row], expected) <= TOLERANCE, row
        assert not mix or relative_error(plain[row], expected) > 0.01, "the adapter must matter"
