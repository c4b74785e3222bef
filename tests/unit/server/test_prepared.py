"""Rows to feeds to predictions, over an engine that writes down what it is fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Feeds, Row, samples
from impasto_server.steps import Ask

NEON = Seat({"lora": ((1, 1.0),)})


class Noting:
    """Answers with the samples that it is fed, times what its weights are called."""

    usual = (NEON, Seat())

    def __init__(self, weights: int = 1) -> None:
        self.weights = weights
        self.ran: list[tuple[list[str], Sequence[Seat]]] = []

    def prepare(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> None:
        """There is nothing to it."""

    def run(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> list[NDArray[Any]]:
        self.ran.append((feeds["context"].tolist(), seats))
        return [self.weights * feeds["sample"]]


def fed(rows: Sequence[Row]) -> Feeds:
    return {"sample": samples(rows), "context": np.array([row.context for row in rows])}


def row(value: float, context: str = "a boat", seat: Seat = NEON) -> Row:
    return Row(Ask(np.full((1, 2, 2), value, np.float32), 0.0, 0, 1), context, seat)


def test_a_row_that_fills_a_batch_up_says_nothing_and_wears_nothing() -> None:
    """Batches of 8 lanes are prepared, and none of 7: another row makes it 8."""
    engine = Noting()
    backbone = Backbone([engine], fed)
    backbone.prepare(row(0, "nothing", Seat()), 8, 99)
    found = backbone.run([row(value) for value in range(7)])
    assert found[:, 0, 0, 0].tolist() == list(range(7))
    assert engine.ran == [([*["a boat"] * 7, "nothing"], [*[NEON] * 7, Seat()])]


def test_rows_on_other_weights_are_another_pass_and_answers_keep_their_places() -> None:
    engines = [Noting(1), Noting(10)]
    backbone = Backbone(engines, fed)
    found = backbone.run([row(value, seat=Seat(merged=value % 2)) for value in range(4)])
    assert found[:, 0, 0, 0].tolist() == [0, 10, 2, 30]
    assert [len(engine.ran) for engine in engines] == [1, 1]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_batch_as_large_as_the_largest_is_not_filled_up(most: int) -> None:
    engine = Noting()
    backbone = Backbone([engine], fed)
    backbone.prepare(row(0, "nothing", Seat()), most, 99)
    backbone.run([row(0)] * most)
    assert [len(contexts) for contexts, _ in engine.ran] == [most]
