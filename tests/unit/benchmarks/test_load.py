"""What benchmarks/load.py offers, and what it makes of the answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.common.bench import percentiles
from benchmarks.common.canvas import round_marks
from benchmarks.load import Level, report
from benchmarks.parts.load import chart, traffic
from benchmarks.parts.load.traffic import DECK, Outcome
from PIL import Image

ADAPTERS = [f"adapter-{number}" for number in range(16)]


def outcome(at_s: float, latency_s: float, solo_s: float = 1.0, warm_up: bool = False) -> Outcome:
    return Outcome(at_s, 25, 5.0, latency_s, queue_s=0.0, solo_s=solo_s, warm_up=warm_up)


def test_the_same_seed_asks_for_the_same() -> None:
    assert traffic.requests(40, ADAPTERS, 64, seed=1) == traffic.requests(40, ADAPTERS, 64, seed=1)
    assert traffic.requests(40, ADAPTERS, 64, seed=1) != traffic.requests(40, ADAPTERS, 64, seed=2)


def test_every_kind_is_asked_for_as_often_as_the_deck_has_it() -> None:
    asked = traffic.requests(3 * len(DECK), ADAPTERS, 64, seed=1)
    dealt = Counter((one.sampling.steps, one.strengths["GUIDANCE_SCALE"]) for one in asked)
    assert dealt == Counter(3 * DECK)
    assert set(dealt) == set(traffic.kinds())
    assert [one.sampling.steps for one in asked[: len(DECK)]] != [steps for steps, _ in DECK]


def test_adapters_are_popular_as_zipf_has_it() -> None:
    asked = traffic.requests(8000, ADAPTERS, 64, seed=1)
    named = Counter(one.styles.adapter_names[0] for one in asked if one.styles.adapter_names)
    assert named.total() / len(asked) == pytest.approx(traffic.STYLED, abs=0.02)
    assert set(named) == set(ADAPTERS)
    for rank in (2, 4):
        assert named[ADAPTERS[0]] / named[ADAPTERS[rank - 1]] == pytest.approx(rank**traffic.ZIPF, rel=0.1)


def test_arrivals_come_at_random_at_the_rate_asked_for() -> None:
    asked = traffic.requests(4000, ADAPTERS, 64, seed=1)
    arrivals = traffic.poisson(asked, rate=5.0, seed=1)
    moments = np.array([arrival.at_s for arrival in arrivals])
    gaps = np.diff(moments)
    assert [arrival.request for arrival in arrivals] == asked
    assert 0 <= moments[0] <= moments[-1] <= 800
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.2, rel=0.01)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as exponential gaps have it


def test_another_rate_is_the_same_process_played_faster() -> None:
    asked = traffic.requests(20, ADAPTERS, 64, seed=1)
    slow, fast = (traffic.poisson(asked, rate, seed=3) for rate in (1.0, 4.0))
    assert [one.at_s for one in fast] == pytest.approx([one.at_s / 4 for one in slow])


def test_percentiles_interpolate() -> None:
    assert percentiles([3.0, 1.0, 2.0, 5.0, 4.0]) == {"p50": 3.0, "p95": 4.8, "p99": 4.96}


def test_a_summary_counts_what_was_good_and_leaves_the_warm_up_out() -> None:
    late, good, slow = outcome(0, 9, warm_up=True), outcome(1, 2.0), outcome(2, 3.0)
    found = traffic.summary(0.5, [late, good, slow])
    assert found["requests"] == 2
    assert found["good_share"] == 0.5
    assert found["slowdown"]["p50"] == 2.5
    assert found["completed_rps"] == 2 / 4  # from the first arrival, at 1 s, to the last answer, at 5 s
    assert found["goodput_rps"] == 1 / 4


@pytest.mark.parametrize(
    ("shares", "expected", "swept"),
    [
        ({1.0: 1.0, 2.0: 0.9}, 1.5, 1.0),  # halfway down to 95 %
        ({2.0: 0.9}, 1.0, 0.0),  # from 100 % at no load
        ({1.0: 1.0, 2.0: 0.96}, 2.0, 2.0),  # never below
        ({3.0: 0.99, 2.0: 0.9, 1.0: 0.95}, 1.0, 1.0),  # what comes after the first failure doesn't count
    ],
)
def test_a_load_is_sustained_up_to_the_first_failure(shares: dict[float, float], expected: float, swept: float) -> None:
    assert traffic.sustained(shares) == pytest.approx(expected)
    assert traffic.swept(shares) == swept


def test_held_answers_wait_for_the_last_of_their_batch() -> None:
    short, long, alone = outcome(0.0, 1.0), outcome(0.5, 4.0), outcome(3.0, 2.5)
    held = traffic.held([short, long, alone], batches=[7, 7, 8])
    assert [one.latency_s for one in held] == [4.5, 4.0, 2.5]


def test_the_interval_holds_the_ratio_and_is_a_point_without_chance() -> None:
    rng = np.random.default_rng(1)
    luck = rng.random(200)
    ours, peer = (np.array([luck < share for share in shares]) for shares in ((0.99, 0.97, 0.8), (0.97, 0.85, 0.5)))
    low, high = traffic.ratio_interval([1.0, 2.0, 3.0], ours, peer)
    exact = [traffic.sustained(dict(zip([1.0, 2.0, 3.0], good.mean(axis=1), strict=True))) for good in (ours, peer)]
    assert low < exact[0] / exact[1] < high
    always, never = np.ones((2, 5), np.bool_), np.array([[True] * 5, [False] * 5])
    assert traffic.ratio_interval([1.0, 2.0], always, never) == (1.9048, 1.9048)


def test_a_sweep_takes_the_time_it_is_given() -> None:
    count = traffic.sample_size(seconds=400, each_s=0.1, runs=16)
    assert count % len(DECK) == 0
    assert 300 <= 16 * count * 0.1 <= 400
    assert traffic.sample_size(1, 1, 16) == len(DECK)


def levels() -> list[Level]:
    """Ours gets slow at the third load, the peer at the second."""
    slowdowns = {"ours": (1.1, 1.2, 4.0), "peer": (1.5, 3.0, 9.0), "peer_held": (1.9, 4.0, 9.0)}
    return [
        Level(rate, {side: [outcome(i / rate, slowdowns[side][load]) for i in range(20)] for side in chart.SIDES})
        for load, rate in enumerate((1.0, 2.0, 3.0))
    ]


def test_the_report_compares_the_loads_that_both_sides_sustain() -> None:
    found = report(levels())
    assert found["goodput_at_p95_rps"] == {"ours": 2.05, "peer": 1.05, "peer_held": 1.05}
    assert found["measured_goodput_at_p95_rps"] == {"ours": 2.0, "peer": 1.0, "peer_held": 1.0}
    assert found["goodput_ratio"] == pytest.approx(2.05 / 1.05, abs=1e-4)
    assert found["peak_goodput_rps"]["ours"] > found["peak_goodput_rps"]["peer"]


def test_the_chart_is_drawn_from_the_report(tmp_path: Path) -> None:
    facts = {"capacity_rps": {"ours": 2.5}, "adapters": 16, "calibration": {"precision": "bf16"}}
    chart.draw({**report(levels()), **facts, "machine": {"cores": 2}}, tmp_path / "load.png")
    with Image.open(tmp_path / "load.png") as image:
        assert image.width > 2 * image.height
        found = np.array([colour for _, colour in image.convert("RGB").getcolors() or []])
    for _, colour in chart.SIDES.values():
        assert np.abs(found - colour).max(axis=1).min() < 12  # the file has a palette of its own


@pytest.mark.parametrize(
    ("highest", "marks"), [(4.7, [0, 1, 2, 3, 4, 5]), (0.93, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (10, [0, 2, 4, 6, 8, 10])]
)
def test_axes_have_round_marks(highest: float, marks: list[float]) -> None:
    assert round_marks(highest) == pytest.approx(marks)


@pytest.mark.parametrize(
    ("values", "marks"),
    [([0.3, 4.7], [0.2, 0.5, 1, 2, 5]), ([1.0, 2.0], [1, 2]), ([60.0, 700.0], [50, 100, 200, 500, 1000])],
)
def test_logarithmic_axes_have_too(values: list[float], marks: list[float]) -> None:
    assert chart.log_marks(values) == pytest.approx(marks)
