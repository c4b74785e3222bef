"""The forms of adapters: what each is at a site of a graph, in a file and in the bank.

A form is one entry of FORMS, under the kind that adapters and sites name. The graph itself computes what a form adds;
here stands which inputs carry it.

lora        x → x @ Aᵀ @ B beside a Linear
bottleneck  y → gelu(y @ downᵀ) @ up after a block; a hidden unit's gelu is the tanh approximation where `tanh` is 1,
            and the exact function where it is 0
vector      an input of the graph itself, such as the γ and β of a style: each row of a batch carries its own, so the
            bank has no table for it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.bundle import Site

Array = NDArray[np.float32]
Factors = Mapping[str, Array]  # by part, [rank, ...]: a unit of rank is one row of each part
Shape = tuple[int, ...]

MAX_RANK = 512  # the highest rank in a file, at any site


@dataclass(frozen=True)
class Form:
    """A form of adapter.

    units    the shapes of one unit of rank, by part.
    stored   the shapes in a file at a given rank, by tensor.
    read     a file's tensors, of those shapes, and its header → factors.
    neutral  the value of a page that adds nothing: a row with it is the plain backbone's.
    rank     the rank of its pages; None is what the server chose.
    check    what is wrong with a header; "" if nothing is.
    paged    whether it has pages in the bank.
    """

    units: Callable[[Site], Mapping[str, Shape]]
    stored: Callable[[Site, int], Mapping[str, Shape]]
    read: Callable[[Mapping[str, Array], Mapping[str, Any]], Factors]
    neutral: float = 0.0
    rank: int | None = None
    check: Callable[[Mapping[str, Any]], str] = lambda header: ""
    paged: bool = True

    def inputs(self, site: Site) -> dict[str, str]:
        """The graph's inputs for its tables, by part: [rows, ...], a row for each unit of rank."""
        return {part: f"{site.name}.{part}" for part in self.units(site)}

    def unit(self, site: Site) -> int:
        """How many numbers a unit of rank has."""
        return sum(prod(shape) for shape in self.units(site).values())

    def heaviest(self, site: Site) -> int:
        """The most numbers that a file can have for a site."""
        return sum(prod(shape) for shape in self.stored(site, self.rank or MAX_RANK).values())


def rank_of(factors: Factors) -> int:
    """How many units of rank an adapter has at a site."""
    return len(next(iter(factors.values())))


def told(kind: str) -> tuple[str, str]:
    """The names of a graph's inputs for its lanes' table rows, int64 [lanes, K], and their weights."""
    return f"{kind}_rows", f"{kind}_weights"


def _stored(site: Site, rank: int) -> dict[str, Shape]:
    return {"A": (site.in_features, rank), "B": (rank, site.out_features), "scale": ()}


def _scaled(tensors: Mapping[str, Array]) -> tuple[Array, Array]:
    """A transposed as in the bank, and B times the scale."""
    with np.errstate(over="ignore", invalid="ignore"):  # whoever reads the file checks the result
        return np.ascontiguousarray(tensors["A"].T), tensors["B"] * tensors["scale"]


def _lora(tensors: Mapping[str, Array], header: Mapping[str, Any]) -> Factors:
    a, b = _scaled(tensors)
    return {"lora_A": a, "lora_B": b}


def _bottleneck(tensors: Mapping[str, Array], header: Mapping[str, Any]) -> Factors:
    down, up = _scaled(tensors)
    return {"down": down, "up": up, "tanh": np.full((len(up), 1), header["gelu"] == "tanh", np.float32)}


def _known_gelu(header: Mapping[str, Any]) -> str:
    gelu = header.get("gelu")
    return "" if gelu in ("exact", "tanh") else f"its gelu is {gelu!r}, neither 'exact' nor 'tanh'"


FORMS: dict[str, Form] = {
    "lora": Form(
        units=lambda site: {"lora_A": (site.in_features,), "lora_B": (site.out_features,)},
        stored=_stored,
        read=_lora,
    ),
    "bottleneck": Form(
        units=lambda site: {"down": (site.in_features,), "up": (site.out_features,), "tanh": (1,)},
        stored=_stored,
        read=_bottleneck,
        check=_known_gelu,
    ),
    "vector": Form(
        units=lambda site: {"vector": (site.in_features,)},
        stored=lambda site, rank: {"vector": (site.in_features,)},
        read=lambda tensors, header: {"vector": tensors["vector"][None]},
        rank=1,
        paged=False,
    ),
}
