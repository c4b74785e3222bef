"""Counters, gauges, and observations for histograms."""

from __future__ import annotations

from impasto_server.stats import UNREAD, Stats


def test_an_observation_is_read_once() -> None:
    stats = Stats()
    stats.observe("e2e_seconds", 0.5)
    stats.observe("e2e_seconds", 0.25)
    assert stats.observed() == [("e2e_seconds", 0.5), ("e2e_seconds", 0.25)]
    assert stats.observed() == []


def test_where_nobody_reads_they_do_not_pile_up() -> None:
    stats = Stats()
    for number in range(UNREAD + 3):
        stats.observe("e2e_seconds", number)
    seen = stats.observed()
    assert len(seen) == UNREAD
    assert seen[-1] == ("e2e_seconds", UNREAD + 2)
