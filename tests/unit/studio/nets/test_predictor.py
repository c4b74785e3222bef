"""The predictor's backbone is EfficientNet-lite0's first eleven blocks, its batch norms folded away."""

from __future__ import annotations

import torch
from studio.nets.predictor import EPSILON, FEATURES, STAGES, Backbone, Head
from torch import Tensor
from torch.nn import functional as F


def weights_of(backbone: Backbone) -> dict[str, Tensor]:
    """Random ones under the package's names."""
    found: dict[str, Tensor] = {}

    def add(conv: str, norm: str, shape: torch.Size) -> None:
        found[f"{conv}.weight"] = torch.randn(shape) / shape[1:].numel() ** 0.5
        found[f"{norm}.weight"], found[f"{norm}.bias"] = torch.rand(shape[0]) + 0.5, torch.randn(shape[0])
        found[f"{norm}.running_mean"], found[f"{norm}.running_var"] = torch.randn(shape[0]), torch.rand(shape[0]) + 0.5

    parts = {
        "widen": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    for name, value in backbone.named_parameters():
        *path, part, _, kind = name.split(".")
        if kind == "weight" and path:
            conv, norm = parts[part]
            add(f"_blocks.{path[1]}.{conv}", f"_blocks.{path[1]}.{norm}", value.shape)
        elif kind == "weight":
            add("_conv_stem", "_bn0", value.shape)
    return found


def naive(weights: dict[str, Tensor], picture: Tensor) -> Tensor:
    """Deviations and means as the equations have them."""

    def conv(x: Tensor, name: str, norm: str, stride: int, groups: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        total = max((-(-x.shape[2] // stride) - 1) * stride + kernel.shape[2] - x.shape[2], 0)  # TensorFlow's SAME
        x = F.conv2d(F.pad(x, (total // 2, total - total // 2) * 2), kernel, stride=stride, groups=groups)
        mean, variance, scale, shift = (
            weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, scale, shift, eps=EPSILON)

    x = conv((picture * 255 - 127) / 128, "_conv_stem", "_bn0", 2).clamp(0, 6)
    taken, i = [picture], 0
    for count, _, first, _, _ in STAGES:
        for nth in range(count):
            name, stride, before = f"_blocks.{i}", first if nth == 0 else 1, x
            if f"{name}._expand_conv.weight" in weights:
                x = conv(x, f"{name}._expand_conv", f"{name}._bn0", 1).clamp(0, 6)
            x = conv(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, x.shape[1]).clamp(0, 6)
            x = conv(x, f"{name}._project_conv", f"{name}._bn2", 1)
            x = x + before if nth > 0 else x
            taken += [x] if i in (2, 4, 10) else []
            i += 1
    return torch.cat([part.mean((2, 3)) for part in taken] + [part.std((2, 3), correction=0) for part in taken], 1)


def test_statistics_are_those_of_the_unfolded_network() -> None:
    torch.manual_seed(0)
    weights = weights_of(Backbone())
    picture = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = Backbone.of(weights)(picture)
    assert found.shape == (2, FEATURES)
    torch.testing.assert_close(found, naive(weights, picture), rtol=1e-3, atol=2e-3)


def test_a_head_measures_from_what_is_usual() -> None:
    torch.manual_seed(0)
    usual = torch.randn(50, 7) * torch.linspace(0.1, 100, 7) + 3
    head = Head(usual, 4)
    torch.testing.assert_close(head(usual.mean(0, keepdim=True))[0], head.linear.bias)
    assert float(head(usual).detach().std()) < 3
