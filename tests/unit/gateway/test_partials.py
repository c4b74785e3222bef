"""Previews spread over a request's steps."""

from __future__ import annotations

import pytest

from impasto_client import Progress
from impasto_gateway.partials import Spread, enlarged, preview_every
from tests.helpers.gateways import png, size_of


def sent(steps: int, count: int, expected: int | None = None) -> list[int]:
    """The steps after which previews are sent, where `expected` steps were reckoned with."""
    every, spread = preview_every(expected or steps, count), Spread(count)
    shown = range(every, steps + 1, every) if every else ()
    told = [Progress(step, steps, 0.0, (b"a preview",) if step in shown else ()) for step in range(1, steps + 1)]
    return [progress.step for progress in told if spread.chosen(progress)]


@pytest.mark.parametrize(
    ("steps", "count", "after"),
    [
        (25, 0, []),
        (25, 1, [12]),
        (24, 1, [12]),
        (24, 3, [6, 12, 18]),
        (25, 3, [6, 12, 18]),
        (4, 3, [1, 2, 3]),
        (3, 3, [1, 2]),
        (1, 3, []),
    ],
)
def test_previews_are_spread_evenly(steps: int, count: int, after: list[int]) -> None:
    assert sent(steps, count) == after


def test_more_steps_than_expected_still_give_what_was_asked_for() -> None:
    assert sent(36, 3, expected=12) == [9, 18, 27]


def test_fewer_steps_than_expected_give_what_there_is() -> None:
    assert sent(8, 3, expected=25) == [6]


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_preview_is_sent_in_the_size_and_format_of_the_picture(format: str) -> None:
    assert size_of(enlarged(png(4, 3), (64, 48), format)) == (format.upper(), 64, 48)
