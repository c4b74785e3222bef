"""What is in a picture, in the eyes of VGG19 and of smaller networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from impasto_fit.errors import CheckpointError
from impasto_fit.text import content
from impasto_fit.text.content import Towers, Vgg19
from tests.unit.fit.text.towers import seeing


def narrow_vgg() -> nn.Sequential:
    """torchvision's `features` to conv5_2, of a sixteenth of its width."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    into = 3
    for block, count in ((4, 2), (8, 2), (16, 4), (32, 4), (32, 2)):
        for _ in range(count):
            layers += [nn.Conv2d(into, block, 3, padding=1), nn.ReLU()]
            into = block
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@torch.no_grad()
def test_vgg_is_read_at_conv4_2_and_conv5_2() -> None:
    """Layers 21 and 30 of torchvision's VGG19, before their relu."""
    theirs, pictures = narrow_vgg(), torch.rand(2, 3, 32, 32)
    mean, spread = (torch.tensor(row).view(1, 3, 1, 1) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wanted, x = [], (pictures - mean) / spread
    for place, layer in enumerate(theirs):
        x = layer(x)
        if place in (21, 30):
            wanted.append(x.clone())
    state = {f"features.{name}": value for name, value in theirs.state_dict().items()}
    for found, right in zip(Vgg19.of(state, "vgg").features(pictures), wanted, strict=True):
        torch.testing.assert_close(found, right)


def test_the_loss_is_a_sum_of_mean_squares() -> None:
    class Raw:
        name = "raw"

        def features(self, pictures: Tensor) -> list[Tensor]:
            return [pictures, 2 * pictures[..., ::2]]

    a, b = torch.rand((2, 1, 3, 4, 6), dtype=torch.float64)
    wanted = sum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / a.numel()
    half = (2 * a[..., ::2] - 2 * b[..., ::2]).flatten().tolist()
    wanted += sum(x * x for x in half) / len(half)
    assert content.loss(Raw(), a, b).item() == pytest.approx(wanted, abs=1e-12)


def test_a_towers_sense_is_differentiable() -> None:
    pictures = torch.rand(1, 3, 24, 24, requires_grad=True)
    content.loss(Towers(seeing("fire")), pictures, torch.rand(1, 3, 24, 24)).backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3), "features.0.bias": torch.zeros(4)}, path)
    with pytest.raises(CheckpointError, match="1 convolutions; VGG19 has 14"):
        content.opened(path)
