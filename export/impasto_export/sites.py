"""Adapter sites of a torch module: which Linears they are, and the bank term added to each of them.

`y = base(x) + (x @ A[slot]) @ B[slot]` with x [lanes, T, in], A [S, in, R], B [S, R, out], slot [lanes].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from impasto_export.architecture import Site

TARGETS = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj", "mlp.fc1", "mlp.fc2"),
}


@dataclass
class Bank:
    """What the hooks read while the module runs; tensors come in as graph inputs, so it holds none between runs."""

    slot: Tensor | None = None
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def fill(self, slot: Tensor, tensors: Sequence[Tensor]) -> None:
        """`tensors` alternates A and B in site order."""
        self.slot, self.pairs = slot, list(zip(tensors[::2], tensors[1::2], strict=True))

    def term(self, index: int, x: Tensor) -> Tensor:
        assert self.slot is not None, "fill() comes before the module runs"
        a, b = (tensor.index_select(0, self.slot) for tensor in self.pairs[index])
        return torch.matmul(torch.matmul(x, a), b)


def find(module: nn.Module, component: str) -> tuple[Site, ...]:
    """Every Linear that PEFT's usual target names select, in module order."""
    targets = tuple(f".{target}" for target in TARGETS[component])
    linears = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    return tuple(
        Site(name, part.in_features, part.out_features) for name, part in linears if f".{name}".endswith(targets)
    )


def attach(module: nn.Module, sites: Sequence[Site]) -> Bank:
    """Add each site's bank term by a forward hook, which leaves parameter names as they are."""
    bank = Bank()
    for index, site in enumerate(sites):
        module.get_submodule(site.name).register_forward_hook(_hook(bank, index))
    return bank


def _hook(bank: Bank, index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + bank.term(index, inputs[0])

    return add


def port_names(sites: Sequence[Site], prefix: str = "") -> list[str]:
    """Bank input names in the order `Bank.fill` takes them."""
    return [f"{prefix}{site.name}.lora_{letter}" for site in sites for letter in "AB"]
