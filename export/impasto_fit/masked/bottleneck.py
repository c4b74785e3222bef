"""StyleDrop's bottleneck adapters for both stages of masked models: y + gelu(y Wd) Wu on what blocks add.

y is the output of a cross-attention (`attn2`) or of an MLP (`ff`), before the residual addition; in the second stage's
low stack, which has no cross-attention, of the self-attention. Wu starts at zero, so a fresh adapter changes nothing.

unshared  every site has a pair of its own
shared    the sites of a place have one pair, and a row of offsets each: Wd + dd and Wu + du, to every row of both
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UVit2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from impasto_export.tracing.upscaler import MuseUpscaler

PLACES = ("attn2", "ff")
FINE_PLACES = {
    "low_attn1": r"low_layers\.\d+\.attn1",
    "low_ff": r"low_layers\.\d+\.ff",
    "attn2": r"layers\.\d+\.attn2",
    "ff": r"layers\.\d+\.ff",
}
ENTRY = "bottleneck"  # of a file's metadata: its form
STD = 0.02
Gelu = Literal["exact", "tanh"]
APPROXIMATE: dict[Gelu, Literal["none", "tanh"]] = {"exact": "none", "tanh": "tanh"}


@dataclass(frozen=True)
class Form:
    """What an adapter is, but for its numbers: `sites` are the modules of each place, in the transformer's order.

    `prompt` is the template that a style is asked for in, with `{context}` in it; an object has none.
    """

    sites: Mapping[str, tuple[str, ...]]
    gelu: Gelu = "tanh"
    shared: bool = False
    prompt: str | None = None

    @classmethod
    def of(cls, transformer: UVit2DModel, shared: bool, prompt: str | None = None) -> Form:
        """Where blocks are of several widths, as aMUSEd's are, each has places of its own: attn2_768, attn2_1024."""
        named = {place: _named(transformer, rf".*\.{place}") for place in PLACES}
        widths = {name: width_of(transformer, name) for names in named.values() for name in names}
        if len(set(widths.values())) == 1:
            return cls(named, shared=shared, prompt=prompt)
        sites: dict[str, tuple[str, ...]] = {}
        for place, names in named.items():
            for name in names:
                sites[f"{place}_{widths[name]}"] = (*sites.get(f"{place}_{widths[name]}", ()), name)
        return cls(sites, shared=shared, prompt=prompt)

    @classmethod
    def of_upscaler(cls, upscaler: MuseUpscaler, prompt: str | None = None) -> Form:
        """Unshared, on both of its stacks; the low one has no cross-attention."""
        sites = {place: _named(upscaler, pattern) for place, pattern in FINE_PLACES.items()}
        return cls(sites, prompt=prompt)

    def widths(self, module: nn.Module) -> dict[str, int]:
        """How wide the stream is at each place of a network."""
        return {place: width_of(module, names[0]) for place, names in self.sites.items()}

    def dump(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def parse(cls, text: str) -> Form:
        record: dict[str, Any] = json.loads(text)
        sites = {place: tuple(names) for place, names in record.pop("sites").items()}
        return cls(sites, **record)


def _named(module: nn.Module, pattern: str) -> tuple[str, ...]:
    return tuple(name for name, _ in module.named_modules() if re.fullmatch(pattern, name))


def width_of(module: nn.Module, site: str) -> int:
    """What a site adds to the stream is as wide as its last Linear."""
    *_, last = (part for part in module.get_submodule(site).modules() if isinstance(part, nn.Linear))
    return last.out_features


def truncated(*shape: int, draws: torch.Generator | None = None) -> Tensor:
    """Normal, redrawn beyond two deviations."""
    return nn.init.trunc_normal_(torch.empty(shape), std=STD, a=-2 * STD, b=2 * STD, generator=draws)


class Place(nn.Module):
    """The weights of one place's L sites: down [n, D, H], up [n, H, D]; n is L, or 1 with offsets for each site."""

    def __init__(self, sites: int, width: int, rank: int, shared: bool, draws: torch.Generator | None = None) -> None:
        super().__init__()
        pairs = 1 if shared else sites
        self.down = nn.Parameter(truncated(pairs, width, rank, draws=draws))
        self.up = nn.Parameter(torch.zeros(pairs, rank, width))
        if shared:
            self.down_offset = nn.Parameter(truncated(sites, 1, rank, draws=draws))
            self.up_offset = nn.Parameter(torch.zeros(sites, 1, width))

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Every site's own [L, D, H] and [L, H, D]."""
        if hasattr(self, "down_offset"):
            return self.down + self.down_offset, self.up + self.up_offset
        return self.down, self.up


class Bottleneck(nn.Module):
    """One adapter. Called with a site's output [..., D], and where that is, it returns the adapted output."""

    def __init__(
        self, form: Form, width: int | Mapping[str, int], rank: int, draws: torch.Generator | None = None
    ) -> None:
        """`width` may be one for all places, or each one's."""
        super().__init__()
        self.form = form
        widths = dict.fromkeys(form.sites, width) if isinstance(width, int) else width
        self.places = nn.ModuleDict(
            {place: Place(len(names), widths[place], rank, form.shared, draws) for place, names in form.sites.items()}
        )

    def place(self, name: str) -> Place:
        place = self.places[name]
        assert isinstance(place, Place)
        return place

    def forward(self, y: Tensor, place: str, site: int) -> Tensor:
        down, up = self.place(place).pairs()
        hidden = F.gelu(y @ down[site], approximate=APPROXIMATE[self.form.gelu])
        adapted: Tensor = y + hidden @ up[site]
        return adapted

    def tensors(self) -> dict[str, Tensor]:
        """fp16. Unshared: `<site>.down` [D, H], `<site>.up` [H, D]; shared: `<place>.down`, `.up` and `._offset`s."""
        tensors: dict[str, Tensor] = {}
        for place, names in self.form.sites.items():
            weights = self.place(place).state_dict()
            if self.form.shared:
                tensors |= {f"{place}.{key}": w if "offset" in key else w[0] for key, w in weights.items()}
            else:
                tensors |= {f"{name}.{key}": w[i] for key, w in weights.items() for i, name in enumerate(names)}
        return {name: tensor.half().contiguous() for name, tensor in tensors.items()}

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors(), path, metadata={ENTRY: self.form.dump()})

    @classmethod
    def load(cls, path: Path) -> Bottleneck:
        """In fp32."""
        with safe_open(path, "pt") as file:
            form = Form.parse(file.metadata()[ENTRY])
        return cls.of(form, load_file(path))

    @classmethod
    def of(cls, form: Form, tensors: Mapping[str, Tensor]) -> Bottleneck:
        """In fp32, frozen."""
        downs = {place: tensors[f"{place if form.shared else names[0]}.down"] for place, names in form.sites.items()}
        rank = next(iter(downs.values())).shape[1]
        adapter = cls(form, {place: down.shape[0] for place, down in downs.items()}, rank)
        for place, names in form.sites.items():
            for key, weight in adapter.place(place).state_dict().items():
                if "offset" in key:
                    weight.copy_(tensors[f"{place}.{key}"])
                else:
                    sources = [place] if form.shared else names
                    weight.copy_(torch.stack([tensors[f"{source}.{key}"] for source in sources]))
        return adapter.requires_grad_(False)

    @torch.no_grad()
    def expanded(self) -> Bottleneck:
        """The same adapter in the unshared form."""
        pairs = {place: self.place(place).pairs() for place in self.form.sites}
        widths = {place: down.shape[1] for place, (down, _) in pairs.items()}
        rank = next(iter(pairs.values()))[0].shape[2]
        adapter = Bottleneck(replace(self.form, shared=False), widths, rank)
        for place, (down, up) in pairs.items():
            adapter.place(place).down.copy_(down)
            adapter.place(place).up.copy_(up)
        return adapter


EVERY_ROW = slice(None)


@contextmanager
def attached(transformer: nn.Module, adapter: Bottleneck, rows: slice = EVERY_ROW) -> Iterator[None]:
    """While inside, these rows of the transformer's batch are adapted. Attaching adds hooks, and changes no weight."""
    with ExitStack() as hooks:
        for place, names in adapter.form.sites.items():
            for site, name in enumerate(names):
                module = transformer.get_submodule(name)
                hooks.callback(module.register_forward_hook(_hook(adapter, place, site, rows)).remove)
        yield


def _hook(adapter: Bottleneck, place: str, site: int, rows: slice) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def hook(module: nn.Module, inputs: object, y: Tensor) -> Tensor:
        start, stop, _ = rows.indices(len(y))
        adapted = adapter(y[start:stop], place, site)
        return torch.cat([y[:start], adapted, y[stop:]])

    return hook
