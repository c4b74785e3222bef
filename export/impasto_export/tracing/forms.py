"""The forms of adapters: the banks that a site has for each, and how it changes the site's output.

A bank is a table: a row is one rank of a LoRA, or one hidden unit of a bottleneck. Every lane picks K rows for each
form, with a weight for each row; row 0 is neutral. With a site's input x [lanes, T, in], its output y [lanes, T, out]
and the picked rows A, B … [K, width]:
lora:        y + ((x @ Aᵀ) · weights) @ B
bottleneck:  y + (gelu(y @ downᵀ) · weights) @ up
At a 1x1 convolution x is [lanes, in, h, w] and y [lanes, out, h, w], and the lora changes every pixel alike.
A hidden unit's gelu is the tanh approximation where its `tanh` is 1, the exact gelu where it is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from impasto_export.architecture import BOTTLENECK, LORA, Port, Site

Widths = Mapping[str, int]


@dataclass(frozen=True)
class Form:
    """A form of adapter. `widths`: role -> numbers in a row of that bank, at a given site. `size` is the name of the
    number of rows in ports.

    `adapted` returns a site's new output from its input x, its output y, the weights [lanes, K] and each bank's picked
    rows [lanes, K, width]. `example` has the sizes that torch traces it with.
    """

    name: str
    size: str
    widths: Callable[[Site], Widths]
    adapted: Callable[..., Tensor]
    example: Mapping[str, int]

    def banks(self, site: Site) -> tuple[Port, ...]:
        widths = self.widths(site).items()
        return tuple(Port(f"{site.name}.{role}", "float32", (self.size, width)) for role, width in widths)


def _lora(x: Tensor, y: Tensor, weights: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if x.ndim < 4:
        return y + torch.matmul(torch.matmul(x, a.transpose(1, 2)) * weights.unsqueeze(1), b)
    # A 1x1 convolution has channels first: transpose the small factors, not the picture.
    low = torch.matmul(a, x.flatten(2)) * weights.unsqueeze(2)
    return y + torch.matmul(b.transpose(1, 2), low).reshape(y.shape)


def _bottleneck(_: Tensor, y: Tensor, weights: Tensor, down: Tensor, up: Tensor, tanh: Tensor) -> Tensor:
    hidden = torch.matmul(y, down.transpose(1, 2))
    exact, approximate = functional.gelu(hidden), functional.gelu(hidden, approximate="tanh")
    gelu = exact + tanh.transpose(1, 2) * (approximate - exact)
    return y + torch.matmul(gelu * weights.unsqueeze(1), up)


def _lora_widths(site: Site) -> Widths:
    return {"lora_A": site.in_features, "lora_B": site.out_features}


def _bottleneck_widths(site: Site) -> Widths:
    return {"down": site.in_features, "up": site.out_features, "tanh": 1}


FORMS = {
    form.name: form
    for form in (
        Form(LORA, "R", _lora_widths, _lora, {"R": 5, "lora_K": 8}),
        Form(BOTTLENECK, "H", _bottleneck_widths, _bottleneck, {"H": 9, "bottleneck_K": 10}),
    )
}
