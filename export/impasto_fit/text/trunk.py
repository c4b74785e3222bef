"""A feed-forward net in torch, from the description that `impasto link` makes its graph of: the same net, to train."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto_export.feedforward.net import Conv, Join, Keep, Net, Output, Pool, Residual

BRIGHTNESS = (0.2989, 0.587, 0.114)
Tensors = Mapping[str, Tensor]


def tensors(net: Net) -> dict[str, Tensor]:
    """The net's own, as torch has them."""
    return {name: torch.from_numpy(array.copy()) for name, array in net.tensors.items()}


def painted(net: Net, weights: Tensors, picture: Tensor, style: Tensor | None = None, shown: bool = True) -> Tensor:
    """Pictures [n, 3, H, W], RGB in 0..1, as the net paints them with these weights and styles [n, N]; not clamped.

    Sides are multiples of `net.multiple_of`. Without `shown`, the contrast of what a viewer sees is left out: a net is
    trained without.
    """
    x = picture.flip(1) if net.input.order == "BGR" else picture
    x = x * net.input.scale - picture.new_tensor(net.input.mean).view(1, 3, 1, 1)
    x = F.pad(x, (net.pad,) * 4, mode="reflect") if net.pad else x
    rows = _rows(net, style) if style is not None else {}
    kept: dict[str, Tensor] = {}
    for block in net.blocks:
        match block:
            case Keep(name):
                kept[name] = x
            case Join(name, smaller):
                wide = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) if smaller else x
                x = torch.cat([wide, kept[name]], 1)
            case Pool():
                x = F.max_pool2d(x, 2)
            case _:
                x = _ran(net, block, weights, x, rows)
    return _left(net.output, x, shown)


def _rows(net: Net, style: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    sizes = [net.channels(conv) for conv in net.conditioned for _ in "γβ"]
    parts = [part[:, :, None, None] for part in style.split(sizes, 1)]
    return {conv.name: (parts[2 * i], parts[2 * i + 1]) for i, conv in enumerate(net.conditioned)}


def _ran(
    net: Net, block: Conv | Residual, weights: Tensors, x: Tensor, rows: Mapping[str, tuple[Tensor, Tensor]]
) -> Tensor:
    if isinstance(block, Residual):
        changed = _ran(net, block.second, weights, _ran(net, block.first, weights, x, rows), rows)
        kept = _ran(net, block.projection, weights, x, rows) if block.projection else x
        crop = net.crop(block)
        return changed + (kept[..., crop:-crop, crop:-crop] if crop else kept)
    x = _normed(block, weights, _convolved(net, block, weights, x), rows)
    return F.relu(x) if block.activation == "relu" else x


def _convolved(net: Net, conv: Conv, weights: Tensors, x: Tensor) -> Tensor:
    kernel = net.kernel(conv)
    before, after = conv.pads(kernel)
    weight, bias = weights[f"{conv.name}.weight"], weights.get(f"{conv.name}.bias")
    if conv.upsampling == "transposed":
        whole = F.conv_transpose2d(x, weight.transpose(0, 1), bias, stride=2)
        return whole[..., before : whole.shape[2] - after, before : whole.shape[3] - after]
    if conv.upsampling == "nearest":
        x = F.interpolate(x, scale_factor=2, mode="nearest")
    if before or after:
        mode = "reflect" if conv.padding == "reflect" else "constant"
        x = F.pad(x, (before, after, before, after), mode=mode)
    return F.conv2d(x, weight, bias, stride=conv.stride)


def _normed(conv: Conv, weights: Tensors, x: Tensor, rows: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    if conv.norm.statistics == "none":
        return x
    x = F.instance_norm(x, eps=conv.norm.epsilon)
    if conv.norm.conditioned:
        gamma, beta = rows[conv.name]
        return x * gamma + beta
    if f"{conv.name}.scale" in weights:
        scale, shift = (weights[f"{conv.name}.{end}"].view(1, -1, 1, 1) for end in ("scale", "shift"))
        return x * scale + shift
    return x


def _left(facts: Output, x: Tensor, shown: bool) -> Tensor:
    if facts.activation != "none":
        x = torch.sigmoid(x) if facts.activation == "sigmoid" else torch.tanh(x)
    x = (x * facts.scale + facts.offset + x.new_tensor(facts.mean).view(1, 3, 1, 1)) / facts.white
    x = x.flip(1) if facts.order == "BGR" else x
    if not shown or facts.contrast == 1:
        return x
    grey = (x * x.new_tensor(BRIGHTNESS).view(1, 3, 1, 1)).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return grey + (x - grey) * facts.contrast
