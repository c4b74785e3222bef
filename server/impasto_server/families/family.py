"""What a family decides: what is sampled and how, what steers it, and how pictures come of it.

The rest of the server knows a family by this protocol alone. What its contexts hold nobody else looks at: they go from
`Conditions.contexts` through the step loop into its own backbones. A family may have no words, one step, or several
stages, each a backbone with lanes of its own.

To add one: a folder here, and its entry in FAMILIES.
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
    """What steers a request's lanes, at each stage. It's put together in parts that take turns with others'.

    Seats are few, so what needs none is gathered before they are taken. Either part may be asked for again, after a
    wait: what was done stays done.
    """

    @property
    def guidance(self) -> Mapping[str, Guidance]:
        """Lanes and coefficients, by stage."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the request nobody reads."""
        ...

    @property
    def told(self) -> Mapping[str, object]:
        """What META says of it that other families' requests don't have; JSON-ready, most often nothing."""
        ...

    def gather(self) -> Work[None]:
        """Do what takes no seat."""
        ...

    def contexts(self, seats: Mapping[Mix, Seat]) -> Work[Mapping[str, Sequence[Any]]]:
        """By stage a context for each lane of its guidance: what the feeds of that stage's backbone know of a row."""
        ...


class Family(Protocol):
    """Everything around the step loop that isn't the same for every family."""

    @property
    def backbones(self) -> Mapping[str, Backbone]:
        """What runs at every step, by stage."""
        ...

    def example(self, stage: str) -> Row:
        """A row of the usual picture that says nothing: for warming, calibration and benchmarks."""
        ...

    def warm(self, lanes: int) -> None:
        """Run, on pictures of the usual size, what isn't a backbone; `lanes` are a batch's at most."""
        ...

    def room(self, request: Request) -> int:
        """Bytes of memory that a request with pictures takes from when they are read, by their headers alone.

        0 where that is little whatever they are. Raises InvalidArgument.
        """
        ...

    def read(self, request: Request) -> Work[Any]:
        """What there is to see in the request's pictures; one a turn. Raises InvalidArgument."""
        ...

    def condition(self, request: Request, worn: Worn, seen: Any) -> Work[Conditions]:
        """The request's lanes, in what it wears; `seen` is what was read, None of a request without pictures.

        Raises InvalidArgument.
        """
        ...

    def begin(self, request: Request, seed: int, seen: Any, contexts: Mapping[str, Sequence[Any]]) -> Steps:
        """The request's sampler, at its start; `contexts` are those of its lanes, by stage. Raises InvalidArgument."""
        ...

    def decode(self, sample: Finished) -> NDArray[np.uint8]:
        """A finished sample → RGB uint8 [H, W, 3]."""
        ...

    def preview(self, sample: Finished) -> bytes:
        """What a sampler takes a finished sample to be → a small PNG of it."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a family is made of: a bundle and its graphs, where mixes are seated, and the bytes that it may keep."""

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
    """A family as FAMILIES has it: what its bundles' manifests say, how it's made of one, what it knows of requests."""

    manifest: type[Manifest]
    make: Make
    offer: FamilyOffer
