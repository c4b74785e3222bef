"""The capacity model: against closed forms by hand, more is never less, and bad figures are named."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from benchmarks.capacity import (
    BadInput,
    Demand,
    Device,
    Replica,
    Workload,
    compared,
    erlang_c,
    hit_rate,
    hits,
    p95,
    plan,
    rows,
    table,
)
from tests.helpers.pages import ROOT, page

REPLICA = Replica(work_s=0.2, alone_s=0.5, load_s=0.1, seats=20, price_per_hour=1.0, spare=1)
DEMAND = Demand(per_second=30.0, p95_s=2.0, adapters=200)
FILE = json.loads((ROOT / "benchmarks/capacity.json").read_text())
FLEET = json.loads((ROOT / "tests/unit/benchmarks/fleet.json").read_text())


def test_one_server_waits_as_often_as_it_is_busy() -> None:
    assert erlang_c(1, 0.3) == pytest.approx(0.3)


def test_erlang_c_by_hand() -> None:
    # c = 2, a = 1: (a²/2)(1/(1 - 1/2)) / (1 + a + (a²/2)(1/(1 - 1/2))) = 1 / 3
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    # c = 3, a = 2: (8/6)·3 / (1 + 2 + 2 + (8/6)·3) = 4 / 9
    assert erlang_c(3, 2.0) == pytest.approx(4 / 9)


def test_a_large_fleet_hardly_waits_and_a_full_one_always() -> None:
    assert erlang_c(10_000, 8000.0) < 1e-6
    assert erlang_c(10, 9.999) > 0.99
    with pytest.raises(BadInput, match="not below 10 servers"):
        erlang_c(10, 10.0)


def test_p95_of_one_server_by_hand() -> None:
    """M/M/1: P(wait > t) = rho·exp(-(1 - rho)·t/s), so t95 = s·ln(rho/0.05)/(1 - rho)."""
    one, demand = Replica(0.2, 0.2, 0.0, 1), Demand(4.0, 10.0)
    assert p95(one, demand, 1) == pytest.approx(0.2 + 0.2 * math.log(0.8 / 0.05) / 0.2)
    steady = replace(demand, variation=0.0)
    assert p95(one, steady, 1) == pytest.approx(0.2 + 0.5 * 0.2 * math.log(0.8 / 0.05) / 0.2)
    assert p95(one, replace(demand, per_second=5.0), 1) == math.inf


def test_pictures_share_a_pass_by_littles_law() -> None:
    """8 at once take 8 x 0.2 s = 1.6 s each, one alone 0.9 s: a slope of 0.1 s. n = 3 (0.9 + (n - 1) 0.1) = 24/7."""
    batched = Replica(0.2, 0.9, 0.0, 1, batch=8)
    assert batched.painting_s(3.0) == pytest.approx(0.9 + (24 / 7 - 1) * 0.1)
    assert batched.painting_s(0.0) == 0.9
    assert batched.painting_s(5.0) == pytest.approx(1.6), "a full batch"


def test_the_hit_rate_is_that_of_an_lru_cache() -> None:
    """A simulated one, to Che's approximation's own few thousandths."""
    random, adapters, seats, asked = Random(1), 100, 20, 30_000
    weights = [rank**-1.1 for rank in range(1, adapters + 1)]
    cache: dict[int, None] = {}
    found = 0
    for adapter in random.choices(range(adapters), weights, k=asked):
        found += adapter in cache
        cache.pop(adapter, None)
        cache[adapter] = None
        if len(cache) > seats:
            del cache[next(iter(cache))]
    assert hit_rate(adapters, 1.1, seats) == pytest.approx(found / asked, abs=0.02)


def test_hit_rates_at_the_ends() -> None:
    assert hit_rate(10, 1.1, 10) == hit_rate(10, 1.1, 99) == 1.0
    assert hit_rate(10, 1.1, 0) == 0.0
    assert hit_rate(100, 0.0, 25) == pytest.approx(0.25), "all equally popular"


def test_routed_by_adapters_all_seats_count() -> None:
    turns = replace(DEMAND, routing="round-robin")
    assert hits(REPLICA, DEMAND, 1) == hits(REPLICA, turns, 1) == hits(REPLICA, turns, 4)
    assert hits(REPLICA, DEMAND, 4) > hits(REPLICA, turns, 4)
    assert hits(REPLICA, DEMAND, 10) == 1.0


def test_a_plan_is_the_fewest_that_do_it() -> None:
    found = plan(REPLICA, DEMAND)
    needed = found.replicas - REPLICA.spare
    assert found.p95_s <= DEMAND.p95_s
    assert found.utilization <= DEMAND.utilization
    fewer = DEMAND.per_second * (REPLICA.work_s + (1 - hits(REPLICA, DEMAND, needed - 1)) * REPLICA.load_s)
    assert fewer / (needed - 1) > DEMAND.utilization or p95(REPLICA, DEMAND, needed - 1) > DEMAND.p95_s
    assert found.dollars_per_day == found.replicas * 24


@pytest.mark.parametrize(
    ("more", "less"),
    [
        (replace(DEMAND, per_second=60.0), DEMAND),
        (replace(DEMAND, p95_s=0.7), DEMAND),
        (replace(DEMAND, routing="round-robin"), DEMAND),
        (replace(DEMAND, utilization=0.5), DEMAND),
        (replace(DEMAND, adapters=20_000), DEMAND),
    ],
)
def test_who_asks_for_more_needs_no_fewer(more: Demand, less: Demand) -> None:
    assert plan(REPLICA, more).replicas >= plan(REPLICA, less).replicas


def test_a_slower_replica_needs_no_fewer_and_more_of_them_are_no_slower() -> None:
    assert plan(replace(REPLICA, work_s=0.3), DEMAND).replicas > plan(REPLICA, DEMAND).replicas
    times = [p95(replace(REPLICA, batch=4), DEMAND, count) for count in range(1, 60)]
    assert times == sorted(times, reverse=True)


def test_what_no_fleet_can_do_is_said() -> None:
    with pytest.raises(BadInput, match=r"p95_s: no number of replicas does it in 0.4 s; a picture alone takes 0.5 s"):
        plan(REPLICA, replace(DEMAND, p95_s=0.4))


@pytest.mark.parametrize(
    ("field", "value"),
    [("per_second", 0.0), ("p95_s", -1.0), ("zipf", -1.0), ("adapters", 0), ("utilization", 1.5), ("routing", "luck")],
)
def test_a_demand_that_cannot_be_is_named(field: str, value: Any) -> None:
    with pytest.raises(BadInput, match=f"^{field}: "):
        replace(DEMAND, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("work_s", 0.0), ("alone_s", math.nan), ("load_s", -1.0), ("seats", -1), ("batch", 0.5)]
)
def test_a_replica_that_cannot_be_is_named(field: str, value: Any) -> None:
    with pytest.raises(BadInput, match=f"^{field}: "):
        replace(REPLICA, **{field: value})


DEVICE = Device("a machine", 1e12, 1e9, 0.5, 0.0, 4, 0.1, 1e9, 1.0, 0, ())
WORK = Workload("pictures", 10, 2, 8, 1e10, 1e7, 1e7, 0.2, {}, {})


def test_a_pass_by_the_data_sheet_takes_what_its_slower_half_takes() -> None:
    computed = WORK.on("it", DEVICE)  # 2 rows: 2e10 / 5e11 s; 8 rows: 8e10 / 5e11 s; weights: 1e7 / 1e9 s
    assert computed.alone_s == pytest.approx(0.2 + 10 * 0.04)
    assert computed.work_s == pytest.approx(10 * 2 * 0.16 / 8 + 0.2 / 4)
    assert (computed.seats, computed.batch, computed.measured) == (100, 4.0, False)
    read = replace(WORK, weight_bytes=1e9).on("it", DEVICE)
    assert read.alone_s == pytest.approx(0.2 + 10 * 1.0)


def test_what_was_measured_counts_more_than_the_data_sheet() -> None:
    passes = replace(WORK, passes={"it": {"2": 0.1, "8": 0.2}}).on("it", DEVICE)
    assert passes.alone_s == pytest.approx(1.2)
    assert passes.work_s == pytest.approx(10 * 2 * 0.2 / 8 + 0.05)
    whole = replace(WORK, whole={"it": {"alone_s": 3.0, "work_s": 2.0}}).on("it", DEVICE)
    assert (whole.alone_s, whole.work_s) == (3.0, 2.0)
    assert passes.measured
    assert whole.measured


def test_the_file_gives_the_table_of_the_docs() -> None:
    made = list(rows(FILE))
    assert len(made) == len(FILE["workloads"]) * len(FILE["devices"]) * len(FILE["demand"]["images_per_day"])
    assert {one.device for one in made if one.replica.measured} == {"cpu"}, "nobody here has such GPUs"
    assert table(made) in page("docs/capacity.md").text


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("devices", None, "devices: it is missing"),
        ("devices.cpu.flop", 1.0, "devices.cpu.flop: there is no such figure"),
        ("devices.l4.flops", "fast", "devices.l4.flops: 'fast' is not a number"),
        ("workloads.photo-1024.steps", 0, "workloads.photo-1024.steps: 0 can't be"),
        ("demand.peak_to_mean", 0.5, "demand.peak_to_mean: 0.5 can't be; give at least 1"),
        ("demand.p95_s", {}, "demand.p95_s: it has no photo-1024"),
    ],
)
def test_a_wrong_file_is_told_where(path: str, value: object, message: str) -> None:
    broken = json.loads(json.dumps(FILE))
    *above, last = path.split(".")
    place = broken
    for word in above:
        place = place[word]
    place[last] = value
    with pytest.raises(BadInput) as told:
        list(rows(broken))
    assert str(told.value).startswith(message)


def test_beside_a_measured_fleet() -> None:
    found = {(one.what, one.replicas): one for one in compared(FLEET)}
    assert found["pictures/s", 2].predicted == pytest.approx(10.0)
    assert found["pictures/s", 2].ratio == pytest.approx(10.0 / 9.5)
    real = found["real, round-robin: loads in 100", 2]
    assert real.predicted == pytest.approx(100 * (1 - hit_rate(200, 1.1, 80)))
    assert real.measured == 20.0
    by_adapters = found["simulated, adapters: loads in 100", 4]
    assert by_adapters.predicted == pytest.approx(100 * (1 - hit_rate(200, 1.1, 160)))
    assert len(found) == 2 + 2 * 2 * 2


def test_what_is_no_fleet_is_refused() -> None:
    with pytest.raises(BadInput, match=r"check: this is no JSON of benchmarks/fleet\.py \(KeyError: 'costs'\)"):
        compared({"bars": []})


def test_the_command(tmp_path: Path) -> None:
    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "benchmarks/capacity.py"), *words]
        return subprocess.run(command, capture_output=True, text=True)

    small = {**FILE, "workloads": {"photo-1024": FILE["workloads"]["photo-1024"]}}
    (tmp_path / "own.json").write_text(json.dumps(small))
    assert ran("--input", str(tmp_path / "own.json")).stdout == table(list(rows(small))) + "\n"
    checked = ran("--check", str(ROOT / "tests/unit/benchmarks/fleet.json"))
    assert "real, adapters: p95, s" in checked.stdout
    (tmp_path / "bad.json").write_text("{}")
    bad = ran("--input", str(tmp_path / "bad.json"))
    assert (bad.returncode, bad.stderr) == (
        1,
        "error  devices: it is missing; benchmarks/capacity.json shows the form\n",
    )
