"""What mini-controlnet is taught with: hints of three channels, and a UNet that it leaves alone at first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from numpy.typing import NDArray
from studio.nets.controlnet import Controlled, hints, new_controlnet
from studio.nets.diffusion import new_scheduler, save_model
from studio.painter import Scene
from studio.recipes import controlnet
from studio.recipes.controlnet import Examples, agreement, draw
from studio.recipes.diffusion import diffusion_loss
from torch import Tensor, nn


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """A UNet of two levels for pictures of 64 px."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=8,
    ).requires_grad_(False)


def inputs(n: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(n, 4, 8, 8), torch.full((n,), 500), torch.randn(n, 5, 8)


def test_edges_fill_two_channels_and_depth_the_third() -> None:
    drawing = draw(Scene("boat", "red", "sea", "crayon", 1))
    hint = hints(torch.from_numpy(drawing.own)[None], torch.from_numpy(drawing.depth)[None])
    assert hint.shape == (1, 3, 128, 128)
    assert torch.equal(hint[0, 0], hint[0, 1])
    assert hint[0, 0].unique().tolist() == [0, 1]
    assert hint[0, 2].min() == 0
    assert 0.9 < hint[0, 2].max() <= 1
    assert hint[0, 2, 64, 64] > hint[0, 2, 2, 2]  # the boat is nearer than the sky


def test_edges_are_found_in_the_picture_and_in_the_flat_one() -> None:
    scene = Scene("house", "blue", "plain", "crayon", 4)
    crayon, flat = draw(scene), draw(replace(scene, style="flat"))
    assert np.array_equal(crayon.flat, flat.own)
    assert np.array_equal(crayon.contours, flat.contours)
    assert not np.array_equal(crayon.own, crayon.flat)


def test_every_other_hint_is_of_contours_and_every_other_has_depth() -> None:
    n = 400
    maps = torch.arange(1, 4, dtype=torch.uint8)[None, :, None, None].expand(n, 3, 2, 2)
    tokens = torch.ones(n, 32, dtype=torch.long)
    depth = torch.full((n, 2, 2), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    latents, drawn, hint = Examples(torch.zeros(n, 4, 8, 8), tokens, torch.zeros_like(tokens[0]), maps, depth).draw(n)
    assert latents.shape == (n, 4, 8, 8)
    kinds = (hint[:, 0, 0, 0] * 255).round().long().bincount(minlength=4) / n
    assert kinds.tolist() == pytest.approx([0, 0.5, 0.25, 0.25], abs=0.08)
    assert hint[:, 2].amax((1, 2)).mean() == pytest.approx(0.5, abs=0.08)
    assert drawn.any(1).float().mean() == pytest.approx(0.9, abs=0.05)  # one caption in ten is empty


def test_an_untrained_controlnet_changes_nothing(unet: UNet2DConditionModel) -> None:
    controlled = Controlled(unet, new_controlnet(unet), torch.rand(2, 3, 64, 64))
    noisy, t, context = inputs()
    with torch.no_grad():
        assert torch.equal(controlled(noisy, t, context).sample, unet(noisy, t, context).sample)


def test_only_the_controlnet_is_trained(unet: UNet2DConditionModel) -> None:
    net = new_controlnet(unet)
    controlled = Controlled(unet, net, torch.rand(2, 3, 64, 64))
    noisy, _, context = inputs()
    diffusion_loss(controlled, noisy, context, new_scheduler()).backward()
    assert all(weight.grad is None for weight in unet.parameters())
    assert net.controlnet_mid_block.weight.grad.any()


def test_it_is_saved_in_half_precision_as_diffusers_saves_it(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    net = new_controlnet(unet)
    nn.init.normal_(net.controlnet_mid_block.weight)
    folder = tmp_path / "mini-controlnet"
    save_model(net, folder)
    save_model(net, folder)  # over an earlier one
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert "_name_or_path" not in (folder / "config.json").read_text()
    again = ControlNetModel.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(again.controlnet_mid_block.weight, net.controlnet_mid_block.weight.half().float())
    assert again.config.conditioning_embedding_out_channels == [16, 32, 64, 96]


def test_edges_agree_when_they_are_two_pixels_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlnet, "edges", lambda picture: (picture[..., 0] > 0).astype(np.float32))

    def line(*columns: int) -> NDArray[np.uint8]:
        picture = np.zeros((1, 32, 32, 3), np.uint8)
        picture[:, :, list(columns)] = 255
        return picture

    assert agreement(line(10), line(12)) == pytest.approx(1, abs=1e-4)
    assert agreement(line(10), line(13)) == pytest.approx(0, abs=1e-4)
    assert agreement(line(10), line(10, 20)) == pytest.approx(2 / 3, abs=1e-4)  # half of what is painted was asked for
