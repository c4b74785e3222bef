"""Losses: nothing for a picture against itself, more for another, the same for a loud style as for a quiet one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from impasto_fit.nets.perceptual import Manner, Perceptual, Target, content_loss, roughness
from torch import Tensor


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    torch.manual_seed(0)
    return Perceptual()


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_picture_is_painted_like_itself_and_not_like_another(perceptual: Perceptual, picture: Tensor) -> None:
    target = Target.of(Manner.of(perceptual(picture)))
    other = torch.nn.functional.avg_pool2d(picture, 5, 1, 2)
    assert float(target.loss(Manner.of(perceptual(picture)))) < 1e-6
    assert float(target.loss(Manner.of(perceptual(other)))) > 0.1


def test_a_moved_picture_is_another_picture_in_the_same_manner(perceptual: Perceptual, picture: Tensor) -> None:
    lighter = picture * 0.9 + 0.05
    features, moved, changed = (perceptual(p) for p in (picture, picture.roll(32, 3), lighter))
    target = Target.of(Manner.of(features))
    assert float(content_loss(features, features)) == 0
    assert float(content_loss(moved, features)) > 3 * float(content_loss(changed, features))
    assert float(target.loss(Manner.of(moved))) < float(target.loss(Manner.of(changed)))


def test_rows_of_several_targets_are_judged_each_by_its_own(perceptual: Perceptual, picture: Tensor) -> None:
    pictures = torch.cat([picture, 1 - picture, picture.flip(1) ** 2])
    manner = Manner.of(perceptual(pictures))
    alone = [Target.of(Manner.of(perceptual(pictures[i : i + 1]))) for i in range(3)]
    losses = Target.stacked([target.half() for target in alone]).loss(manner)
    assert losses.shape == (3,)
    assert float(losses.max()) < 1e-3


def test_the_outermost_pixels_count(perceptual: Perceptual, picture: Tensor) -> None:
    seen = picture.clone().requires_grad_()
    perceptual(seen)["fire6"].square().mean().backward()
    assert seen.grad is not None
    rim, middle = seen.grad[..., 0, 8:-8].abs().mean(), seen.grad[..., 8:-8, 8:-8].abs().mean()
    assert float(rim) > 0.3 * float(middle)


def test_roughness_is_that_of_neighbours() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 3, 8, 8)
    torch.testing.assert_close(roughness(torch.cat([stripes, torch.ones_like(stripes)])), torch.tensor([1.0, 0.0]))


def test_weights_come_from_arrays_with_caffes_names(perceptual: Perceptual, tmp_path: Path) -> None:
    arrays = {
        f"{layer.replace('.', '/')}/{kind[0]}": weight.numpy()
        for (layer, kind), weight in ((name.rsplit(".", 1), weight) for name, weight in perceptual.named_parameters())
    }
    np.savez(tmp_path / "squeezenet.npz", **arrays)
    loaded = Perceptual.load(tmp_path / "squeezenet.npz")
    torch.testing.assert_close(loaded.state_dict(), perceptual.state_dict())
