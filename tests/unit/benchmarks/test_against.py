"""What the comparison of two commits makes of its rounds."""

from __future__ import annotations

from benchmarks.against import Round, report


def test_a_commit_that_takes_longer_has_ratios_above_one() -> None:
    rounds = [Round(alone=(0.3, 0.2), crowd=(1.0, 2.0), identical=True)] * 3

    found = report(rounds)

    assert found["latency_ratio"] == 1.5
    assert found["latency_ratio_interval_95"] == (1.5, 1.5)
    assert found["crowd_ratio"] == 0.5


def test_pictures_that_differ_are_counted() -> None:
    same, other = (Round((1, 1), (1, 1), identical) for identical in (True, False))

    assert report([same, other, same])["identical_images"] == 2
