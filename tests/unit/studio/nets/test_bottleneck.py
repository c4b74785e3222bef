"""A bottleneck adapter adds to what the transformer's blocks add, and leaves its weights alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UVit2DModel
from safetensors import safe_open
from impasto_fit.masked.bottleneck import Bottleneck, Form, Gelu, attached
from studio.nets.muse import SPARE, Shape, new_transformer
from torch import Tensor

CODES, WIDTH, RANK = 32, 64, 4
PROMPT = "{context} in stained glass style"


@pytest.fixture(scope="module")
def transformer() -> UVit2DModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return new_transformer(CODES, Shape(hidden=WIDTH, layers=2, blocks=3)).requires_grad_(False).eval()


def trained(transformer: UVit2DModel, shared: bool) -> Bottleneck:
    """An adapter with no zeros left in it."""
    torch.manual_seed(1)
    adapter = Bottleneck(Form.of(transformer, shared, PROMPT), WIDTH, RANK)
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return adapter.requires_grad_(False)


@torch.no_grad()
def logits(transformer: UVit2DModel, n: int = 2) -> Tensor:
    torch.manual_seed(2)
    tokens = torch.randint(CODES + SPARE, (n, 8, 8))
    answer: Tensor = transformer(tokens, torch.randn(n, 5, 128), torch.randn(n, 128), torch.ones(n, 5))
    return answer


def test_every_cross_attention_and_every_mlp_of_the_layers_has_a_site(transformer: UVit2DModel) -> None:
    sites = Form.of(transformer, shared=True).sites
    blocks = [[f"{side}_block.attention_blocks.{i}.attn2" for i in range(3)] for side in ("down", "up")]
    layers = [f"transformer_layers.{i}" for i in range(2)]
    assert sites["attn2"] == (*blocks[0], *(f"{layer}.attn2" for layer in layers), *blocks[1])
    assert sites["ff"] == tuple(f"{layer}.ff" for layer in layers)


@pytest.mark.parametrize("shared", [False, True])
def test_a_fresh_adapter_changes_nothing_but_can_learn(transformer: UVit2DModel, shared: bool) -> None:
    adapter = Bottleneck(Form.of(transformer, shared), WIDTH, RANK)
    plain = logits(transformer)
    with attached(transformer, adapter):
        assert torch.equal(logits(transformer), plain)
    for name in adapter.form.sites:
        assert float(adapter.place(name).down.detach().std()) == pytest.approx(0.88 * 0.02, rel=0.1)
    y = torch.randn(3, WIDTH)
    adapter(y, "ff", 1).square().sum().backward()
    gradient = adapter.place("ff").up.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_it_is_the_paper_s_formula_row_by_row(transformer: UVit2DModel, gelu: Gelu) -> None:
    adapter = trained(transformer, shared=True)
    adapter.form = replace(adapter.form, gelu=gelu)
    place, y = adapter.place("attn2"), 5 * torch.randn(3, WIDTH)
    hidden = y @ (place.down[0] + place.down_offset[2].expand(WIDTH, RANK))
    if gelu == "exact":
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    else:
        hidden = hidden * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    expected = y + hidden @ (place.up[0] + place.up_offset[2].expand(RANK, WIDTH))
    torch.testing.assert_close(adapter(y, "attn2", 2), expected, atol=1e-6, rtol=0)


def test_the_shared_form_is_the_unshared_one_expanded(transformer: UVit2DModel) -> None:
    shared = trained(transformer, shared=True)
    expanded = shared.expanded()
    assert sum(w.numel() for w in expanded.parameters()) > 2 * sum(w.numel() for w in shared.parameters())
    plain = logits(transformer)
    with attached(transformer, shared):
        one = logits(transformer)
    with attached(transformer, expanded):
        other = logits(transformer)
    torch.testing.assert_close(one, other)
    assert (one - plain).abs().max() > 0.1


def test_attaching_and_detaching_are_exact_inverses(transformer: UVit2DModel) -> None:
    before, plain = {k: v.clone() for k, v in transformer.state_dict().items()}, logits(transformer)
    with attached(transformer, trained(transformer, shared=False)):
        assert not torch.equal(logits(transformer), plain)
    assert torch.equal(logits(transformer), plain)
    after = transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_only_the_rows_that_were_named_are_adapted(transformer: UVit2DModel) -> None:
    adapter = trained(transformer, shared=False)
    plain = logits(transformer, 3)
    with attached(transformer, adapter):
        every = logits(transformer, 3)
    with attached(transformer, adapter, slice(1, 2)):
        middle = logits(transformer, 3)
    torch.testing.assert_close(middle, torch.stack([plain[0], every[1], plain[2]]))
    assert not torch.allclose(plain[1], every[1])


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_keeps_all_of_it(transformer: UVit2DModel, shared: bool, tmp_path: Path) -> None:
    adapter = trained(transformer, shared)
    adapter.save(tmp_path / "bottleneck.safetensors")
    again = Bottleneck.load(tmp_path / "bottleneck.safetensors")
    assert again.form == adapter.form
    for name, weight in adapter.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight.half().float())


def test_the_file_is_what_the_importer_reads(transformer: UVit2DModel, tmp_path: Path) -> None:
    for shared in (False, True):
        trained(transformer, shared).save(tmp_path / f"{shared}.safetensors")
    with safe_open(tmp_path / "True.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
        record = json.loads(file.metadata()["bottleneck"])
    assert shapes["attn2.down"] == (WIDTH, RANK)
    assert shapes["attn2.up"] == (RANK, WIDTH)
    assert shapes["attn2.down_offset"] == (8, 1, RANK)
    assert shapes["ff.up_offset"] == (2, 1, WIDTH)
    assert len(shapes) == 8
    assert record["shared"] is True
    assert record["gelu"] == "tanh"
    assert record["prompt"] == PROMPT
    assert record["sites"]["ff"] == ["transformer_layers.0.ff", "transformer_layers.1.ff"]
    with safe_open(tmp_path / "False.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
    assert shapes["transformer_layers.1.ff.up"] == (RANK, WIDTH)
    assert shapes["up_block.attention_blocks.2.attn2.down"] == (WIDTH, RANK)
    assert len(shapes) == 20
