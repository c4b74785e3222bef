"""For which batches a backbone is prepared, and how others are fitted to those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Row
from impasto_server.steps import Ask

MANY = 99
BEYOND = [(5, True), (5, False), (4, True), (4, False)]
PAGED, NONE = Seat({"lora": ((1, 1.0),)}), Seat()
ROW = Row(Ask(np.zeros((4, 8, 8), np.float32), 0.0, 0, 1), None, NONE)


@dataclass
class Noted:
    """An engine that notes what it is prepared for, and how many lanes it is given."""

    usual: tuple[Seat, ...] = (PAGED, NONE)
    prepared: list[tuple[int, bool]] = field(default_factory=list)
    given: list[list[bool]] = field(default_factory=list)

    def prepare(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> None:
        self.prepared.append((len(seats), bool(seats[0].pages)))

    def run(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> list[NDArray[Any]]:
        self.given.append([bool(seat.pages) for seat in seats])
        return [np.zeros((len(seats), 1))]


def backbone(*engines: Noted) -> Backbone:
    return Backbone(engines, lambda rows: {})


def test_batches_with_adapters_and_without_are_prepared_by_turns_and_not_all_of_them() -> None:
    """Half as many again as there are sizes, so that starting takes little longer than with one kind of batch."""
    engine = Noted()
    backbone(engine).prepare(ROW, 8, MANY)
    assert engine.prepared == [(8, True), (8, False), (2, True), (2, False), (3, True), (3, False), *BEYOND]
    single = Noted(usual=(PAGED,))
    backbone(single).prepare(ROW, 8, MANY)
    assert [lanes for lanes, _ in single.prepared] == [8, 2, 3, 5, 4, 6, 1]


def test_a_large_backbone_is_prepared_for_its_largest_batch_with_adapters() -> None:
    engine = Noted()
    backbone(engine).prepare(ROW, 8, 1)
    assert engine.prepared == [(8, True)]


def test_every_batch_that_is_prepared_for_counts_as_a_copy_of_the_weights() -> None:
    """Lanes with one page and lanes with more are compiled apart."""
    engine = Noted(usual=(PAGED, NONE, Seat({"lora": ((1, 1.0), (2, 1.0))})))
    backbone(engine).prepare(ROW, 8, 4)
    assert engine.prepared == [(8, True), (8, False), (8, True), (2, True)]


@pytest.mark.parametrize(
    ("lanes", "adapted", "given"),
    [
        (8, True, 8),
        (8, False, 8),
        (7, True, 8),  # an empty lane more
        (7, False, 8),
        (5, False, 5),  # what is prepared for adapters does for none
        (6, True, 6),  # neither 6 nor 7 are prepared
    ],
)
def test_a_batch_is_fitted_to_what_is_prepared(lanes: int, adapted: bool, given: int) -> None:
    engine = Noted()
    made = backbone(engine)
    made.prepare(ROW, 8, MANY)
    rows = [replace(ROW, seat=PAGED if adapted else NONE)] * lanes
    assert len(made.run(rows)) == lanes
    assert engine.given == [[adapted] * lanes + [False] * (given - lanes)]


def test_weights_of_a_pinned_mix_are_prepared_without_adapters() -> None:
    own, pinned = Noted(), Noted(usual=(NONE,))
    backbone(own, pinned).prepare(ROW, 2, MANY)
    assert (own.prepared[:2], pinned.prepared[:1]) == ([(2, True), (2, False)], [(2, False)])
