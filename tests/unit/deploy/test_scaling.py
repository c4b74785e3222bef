"""How many replicas there should be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from impasto_deploy.ray.replica import QUEUE_DELAY_S
from impasto_deploy.ray.scaling import QueueDelay, wanted


@pytest.mark.parametrize(
    ("running", "delay_s", "requests", "expected"),
    [
        (2, 3.0, 50, 3),  # half as long again as wished: half as many again
        (2, 60.0, 50, 4),  # never more than twice as many at once
        (2, 1.0, 50, 2),  # about as long as wished
        (4, 0.1, 50, 4),  # nobody waits, but all are at work
        (4, 0.1, 2, 3),  # one could go, and each of the others would have less than one request
        (4, 1.0, 2, 4),
        (1, 0.0, 0, 1),
    ],
)
def test_replicas_follow_the_wait(running: int, delay_s: float, requests: float, expected: float) -> None:
    assert wanted(running, delay_s, requests, target_s=2.0) == expected


def context(running: int, told: dict[str, float] | None) -> Any:
    metrics = None if told is None else {QUEUE_DELAY_S: told}
    return SimpleNamespace(
        current_num_replicas=running, target_num_replicas=3, aggregated_metrics=metrics, total_num_requests=9
    )


def test_the_wait_is_the_mean_over_the_replicas() -> None:
    assert QueueDelay(target_s=2.0)(context(2, {"one": 5.0, "other": 1.0})) == (3.0, {})


def test_without_a_report_nothing_changes() -> None:
    assert QueueDelay(target_s=2.0)(context(2, None)) == (2, {})


def test_replicas_that_are_still_starting_are_waited_for() -> None:
    assert QueueDelay(target_s=2.0)(context(0, None)) == (3, {})
