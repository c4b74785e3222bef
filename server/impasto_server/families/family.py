"""The protocol of a family: what is sampled and how, what conditions it, and how samples become pictures.

The rest of the server knows a family only through this protocol. Nobody else looks into its contexts: they go from
`Conditions.contexts` through the step loop to its own backbones. A family may have no words, one step, or several
stages, each a backbone with lanes of its own.

To add a family: a folder here, and its entry in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.bank import Bank
from impasto_server.adapters.graphs import Graphs
from impasto_server.adapters.seat import Seat
from impasto_server.adapters.seating import Seating
from impasto_server.backbone import Backbone, Row
from impasto_server.bundle import Bundle, Manifest
from impasto_server.engines.runtime import Runtime
from impasto_server.guidance import Guidance, Mix
from impasto_server.offer import FamilyOffer
from impasto_server.request import Request
from impasto_server.stats import Stats
from impasto_server.steps import Finished, Steps
from impasto_server.turns import Work
from impasto_server.worn import Worn


class Conditions(Protocol):
    """What conditions a request's lanes at each stage. It is made in parts that take turns with other requests'.

    Seats are few, so what needs no seat is done first, by `gather`. Both methods may be called again after a wait; what
    was done stays done.
    """

    @property
    def guidance(self) -> Mapping[str, Guidance]:
        """Lanes and coefficients, by stage."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about parts of the request that are not read."""
        ...

    @property
    def told(self) -> Mapping[str, object]:
        """The family's own part of META, JSON-ready; usually empty."""
        ...

    def gather(self) -> Work[None]:
        """Do the work that needs no seat."""
        ...

    def contexts(self, seats: Mapping[Mix, Seat]) -> Work[Mapping[str, Sequence[Any]]]:
        """A context for each lane of each stage's guidance, from which the stage's backbone makes its feeds."""
        ...


class Family(Protocol):
    """Everything around the step loop that differs between families."""

    @property
    def backbones(self) -> Mapping[str, Backbone]:
        """The backbones, which run at every step, by stage."""
        ...

    def example(self, stage: str) -> Row:
        """A row of the default size without words: for warming, calibration and benchmarks."""
        ...

    def warm(self, lanes: int) -> None:
        """Run everything but the backbones on pictures of the default size; `lanes` is the most lanes of a batch."""
        ...

    def room(self, request: Request) -> int:
        """The bytes of memory that a request's pictures take once they are read, by their headers alone.

        0 where they always take little. Raises InvalidArgument.
        """
        ...

    def read(self, request: Request) -> Work[Any]:
        """Read the request's pictures, one a turn. Raises InvalidArgument."""
        ...

    def condition(self, request: Request, worn: Worn, seen: Any) -> Work[Conditions]:
        """The request's conditions, with the words and mixes in `worn`. `seen` is what `read` returned, None without
        pictures.

        Raises InvalidArgument.
        """
        ...

    def begin(self, request: Request, seed: int, seen: Any, contexts: Mapping[str, Sequence[Any]]) -> Steps:
        """A new sampler for one candidate; `contexts` are its lanes', by stage. Raises InvalidArgument."""
        ...

    def decode(self, sample: Finished) -> NDArray[np.uint8]:
        """A finished sample → RGB uint8 [H, W, 3]."""
        ...

    def preview(self, sample: Finished) -> bytes:
        """A predicted final sample → a small PNG."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a family is made of: a bundle, its graphs, its seating, and the bytes of prompt embeds it may keep."""

    bundle: Bundle
    graphs: Graphs
    seating: Seating
    host_bytes: int

    @classmethod
    def of(cls, bundle: Bundle, runtime: Runtime, bank: Bank, stats: Stats, host_bytes: int) -> Parts:
        return cls(bundle, Graphs(bundle, runtime, bank), Seating(bundle.manifest, bank, stats), host_bytes)


Make = Callable[[Parts], Family]


@dataclass(frozen=True)
class Kind:
    """An entry of FAMILIES: the type of its manifests, how it is made, and its offer."""

    manifest: type[Manifest]
    make: Make
    offer: FamilyOffer
