"""Adapter sites of a torch module: find them, and attach hooks that adapt their outputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from impasto_export.architecture import BOTTLENECK, Port, Site, told
from impasto_export.tracing.dims import EXAMPLE_LANES, dynamic, example
from impasto_export.tracing.forms import FORMS, Form

# PEFT's usual `target_modules`; diffusers' train_amused.py takes to_q, to_k and to_v.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "mlp.fc1", "mlp.fc2")
TARGETS = {
    "unet": (*ATTENTION, *FEED_FORWARD, "proj_in", "proj_out"),
    "transformer": (*ATTENTION, *FEED_FORWARD),
    "upscaler": (*ATTENTION, *FEED_FORWARD),
    "text_encoder": TEXT,
    "text_encoder_2": TEXT,
}
# Houlsby's places, before the residual addition. StyleDrop's paper adapts after cross-attention and the MLP, its public
# code after self-attention. The outer blocks have no MLP; the small picture's layers have no cross-attention.
PLACES = {
    "transformer": re.compile(
        r"transformer_layers\.\d+\.(attn1|attn2|ff)|(down|up)_block\.attention_blocks\.\d+\.attn2"
    ),
    "upscaler": re.compile(r"low_layers\.\d+\.(attn1|ff)|layers\.\d+\.(attn1|attn2|ff)"),
}


@dataclass
class Bank:
    """The tensors that the hooks read while the module runs; they come in as graph inputs at every run."""

    sites: tuple[Site, ...]
    picked: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    banks: list[list[Tensor]] = field(default_factory=list)

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Take the run's tensors: those of `inputs`, then those of `banks`."""
        left = iter(tensors)
        self.picked = {form.name: (next(left), next(left)) for form in forms(self.sites)}
        self.banks = [[next(left) for _ in FORMS[site.kind].banks(site)] for site in self.sites]
        assert next(left, None) is None, "more tensors than the sites have banks"

    def adapted(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        assert self.picked, "fill() comes before the module runs"
        kind = self.sites[index].kind
        rows, weights = self.picked[kind]
        return FORMS[kind].adapted(x, y, weights, *(functional.embedding(rows, bank) for bank in self.banks[index]))


def find(module: nn.Module, component: str) -> tuple[Site, ...]:
    """Every Linear and 1x1 convolution that PEFT's usual target names select, in module order; then the bottlenecks'
    places."""
    targets = tuple(f".{target}" for target in TARGETS[component])
    named = [(name, part) for name, part in module.named_modules() if f".{name}".endswith(targets)]
    lora = [Site(name, *sizes) for name, part in named if (sizes := _sizes(part))]
    return *lora, *_bottlenecks(module, component)


def _sizes(part: nn.Module) -> tuple[int, int] | None:
    """Input and output features of a Linear, or channels of a 1x1 convolution; None for other modules."""
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
    """Features of the module's output, which come from its last Linear."""
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1].out_features


def attach(module: nn.Module, sites: Sequence[Site]) -> Bank:
    """Adapt each site's output by a forward hook, which keeps parameter names as they are."""
    bank = Bank(tuple(sites))
    for index, site in enumerate(sites):
        module.get_submodule(site.name).register_forward_hook(_hook(bank, index))
    return bank


def _hook(bank: Bank, index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def adapt(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return bank.adapted(index, inputs[0], output)

    return adapt


def forms(sites: Sequence[Site]) -> list[Form]:
    """The forms that any of the sites has."""
    kinds = {site.kind for site in sites}
    return [form for name, form in FORMS.items() if name in kinds]


def inputs(sites: Sequence[Site]) -> tuple[Port, ...]:
    """Ports by which each lane names its adapters' rows and weights."""
    return tuple(port for form in forms(sites) for port in told(form.name))


def banks(sites: Sequence[Site]) -> tuple[Port, ...]:
    return tuple(port for site in sites for port in FORMS[site.kind].banks(site))


def examples(sites: Sequence[Site]) -> list[Tensor]:
    """Example tensors of `inputs`, then of `banks`, as `Bank.fill` takes them."""
    sizes = {"lanes": EXAMPLE_LANES}
    for form in forms(sites):
        sizes |= form.example
    return [example(port, sizes) for port in (*inputs(sites), *banks(sites))]


def dims(sites: Sequence[Site]) -> list[dict[int, Any]]:
    """The dynamic axes of the same tensors, in the same order."""
    return [dynamic(port) for port in (*inputs(sites), *banks(sites))]
