"""Adapter sites of a torch module: which modules they are, and what is added to each one's output.

With slot [lanes] choosing rows of the banks, x [lanes, T, in] the input and y [lanes, T, out] the output:
lora:        y + (x @ A[slot]) @ B[slot], A [S, in, R], B [S, R, out]
bottleneck:  y + gelu(y @ down[slot]) @ up[slot], down [S, out, H], up [S, H, out], tanh [S, 1, H]
At a 1x1 convolution x is [lanes, in, h, w], y [lanes, out, h, w], and the lora changes every pixel alike.
A hidden unit's gelu is the tanh approximation where its `tanh` is 1, the exact one where it is 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from impasto_export.architecture import BOTTLENECK, LORA, Site

# What PEFT's users name in `target_modules`; diffusers' train_amused.py takes to_q, to_k and to_v.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "mlp.fc1", "mlp.fc2")
TARGETS = {
    "unet": (*ATTENTION, *FEED_FORWARD, "proj_in", "proj_out"),
    "transformer": (*ATTENTION, *FEED_FORWARD),
    "text_encoder": TEXT,
    "text_encoder_2": TEXT,
}
# Houlsby's places, before the residual addition: StyleDrop's paper adapts after cross-attention and after the MLP, the
# public code after self-attention. The outer blocks have no MLP.
PLACES = {
    "transformer": re.compile(
        r"transformer_layers\.\d+\.(attn1|attn2|ff)|(down|up)_block\.attention_blocks\.\d+\.attn2"
    )
}
DIMS = {"S": Dim("S", min=1, max=4096), "R": Dim("R", min=1, max=4096), "H": Dim("H", min=1, max=4096)}
EXAMPLES = {"S": 3, "R": 5, "H": 9}


@dataclass
class Bank:
    """What the hooks read while the module runs; tensors come in as graph inputs, so it holds none between runs."""

    sites: tuple[Site, ...]
    slot: Tensor | None = None
    rows: list[list[Tensor]] = field(default_factory=list)

    def fill(self, slot: Tensor, tensors: Sequence[Tensor]) -> None:
        """`tensors` are in the order of `ports`."""
        left = iter(tensors)
        self.slot, self.rows = slot, [[next(left) for _ in site.banks] for site in self.sites]
        assert next(left, None) is None, "more tensors than the sites have banks"

    def adapted(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        assert self.slot is not None, "fill() comes before the module runs"
        rows = [bank.index_select(0, self.slot) for bank in self.rows[index]]
        return FORMS[self.sites[index].kind](x, y, *rows)


def _lora(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if x.ndim < 4:
        return y + torch.matmul(torch.matmul(x, a), b)
    # A 1x1 convolution has its channels first: the small factors are turned, not the picture.
    low = torch.matmul(a.transpose(1, 2), x.flatten(2))
    return y + torch.matmul(b.transpose(1, 2), low).reshape(y.shape)


def _bottleneck(_: Tensor, y: Tensor, down: Tensor, up: Tensor, tanh: Tensor) -> Tensor:
    hidden = torch.matmul(y, down)
    exact, approximate = functional.gelu(hidden), functional.gelu(hidden, approximate="tanh")
    return y + torch.matmul(exact + tanh * (approximate - exact), up)


FORMS: dict[str, Callable[..., Tensor]] = {LORA: _lora, BOTTLENECK: _bottleneck}


def find(module: nn.Module, component: str) -> tuple[Site, ...]:
    """Every Linear and 1x1 convolution that PEFT's usual target names select, in module order; after them the
    bottlenecks' places."""
    targets = tuple(f".{target}" for target in TARGETS[component])
    named = [(name, part) for name, part in module.named_modules() if f".{name}".endswith(targets)]
    lora = [Site(name, *sizes) for name, part in named if (sizes := _sizes(part))]
    return *lora, *_bottlenecks(module, component)


def _sizes(part: nn.Module) -> tuple[int, int] | None:
    """Features, or channels of a 1x1 convolution, in and out."""
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.groups == 1:
        return part.in_channels, part.out_channels
    return None


def _bottlenecks(module: nn.Module, component: str) -> list[Site]:
    if component not in PLACES:
        return []
    places = [(name, part) for name, part in module.named_modules() if PLACES[component].fullmatch(name)]
    return [Site(name, width, width, BOTTLENECK) for name, width in ((name, _width(part)) for name, part in places)]


def _width(module: nn.Module) -> int:
    """Features of its output, which its last Linear makes."""
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1].out_features


def attach(module: nn.Module, sites: Sequence[Site]) -> Bank:
    """Adapt each site's output by a forward hook, which leaves parameter names as they are."""
    bank = Bank(tuple(sites))
    for index, site in enumerate(sites):
        module.get_submodule(site.name).register_forward_hook(_hook(bank, index))
    return bank


def _hook(bank: Bank, index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def adapt(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return bank.adapted(index, inputs[0], output)

    return adapt


def port_names(sites: Sequence[Site]) -> list[str]:
    """Bank input names in the order `Bank.fill` takes them."""
    return [port.name for site in sites for port in site.banks]


def examples(sites: Sequence[Site]) -> list[Tensor]:
    """Empty banks of example sizes, in the same order."""
    return [
        torch.zeros([EXAMPLES[size] if isinstance(size, str) else size for size in port.shape])
        for site in sites
        for port in site.banks
    ]


def dims(sites: Sequence[Site]) -> list[dict[int, Any]]:
    """Which of their sizes are dynamic, in the same order."""
    return [
        {axis: DIMS[size] for axis, size in enumerate(port.shape) if isinstance(size, str)}
        for site in sites
        for port in site.banks
    ]
