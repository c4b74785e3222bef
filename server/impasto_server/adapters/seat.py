"""Seats: where a row's adapters are; and the engines that take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from numpy.typing import NDArray

Pages = Mapping[str, tuple[tuple[int, float], ...]]  # by form: pages of the bank, each with its weight

NONE: Pages = MappingProxyType({})


@dataclass(frozen=True)
class Seat:
    """Where a mix of adapters is: in `pages` of the bank, or `merged` into weights, 0 being the bundle's own."""

    pages: Pages = field(default_factory=lambda: NONE)
    merged: int = 0


class SeatedEngine(Protocol):
    """An engine that is given the seat of each row, where its graph has sites for adapters."""

    def run(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> list[NDArray[Any]]:
        """As Engine.run."""
        ...


class BackboneEngine(SeatedEngine, Protocol):
    """A seated engine that is prepared for its batches."""

    @property
    def usual(self) -> tuple[Seat, ...]:
        """Seats that are worth preparing for: with adapters, and without if that makes a difference."""
        ...

    def prepare(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> None:
        """As Engine.prepare."""
        ...
