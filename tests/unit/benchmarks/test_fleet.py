"""What benchmarks/fleet.py asks for, and what it makes of the answers; and the wire that it cuts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.common.fleet_simulation import Fleet, Router, round_robin
from benchmarks.fleet import OURS, PEER, RANDOM, fleet_report, held, turned
from benchmarks.parts.fleet import chart, faults, traffic
from benchmarks.parts.fleet.costs import Measured
from benchmarks.parts.fleet.faults import CUT, DOWN, KILLED, REPLICA_KILLED, ROLLED, UP, Answer, Course, Event
from benchmarks.parts.fleet.figures import Outcome, Segment, compared, ratios, simulated, together
from benchmarks.parts.fleet.play import Side
from benchmarks.parts.fleet.replicas import HOST, counters
from benchmarks.parts.fleet.tables import markdown
from benchmarks.parts.fleet.traffic import STEPS, Asked
from benchmarks.parts.fleet.wire import wire
from PIL import Image

from impasto_client import AsyncClient
from impasto_client.fake import AsyncFakeTransport
from impasto_client.wire import Tensors

COSTS = Measured(request_s=0.1, alone_s=0.12, load_s=0.1, pass_s=0.03, rest_s=0.03)
PAGE = """# HELP impasto_adapter_loads Adapters read from the registry
# TYPE impasto_adapter_loads counter
impasto_adapter_loads{bundle="mini"} 7
impasto_adapter_loads{bundle="muse"} 5
impasto_bank_writes{bundle="mini"} 1.5e+01
impasto_done{bundle="mini"} 40
nv_inference_count{model="stylize"} 99
"""


def segment(took_s: Sequence[float], replicas: Sequence[int], loads: float = 2.0) -> Segment:
    """Requests that were due a second after one another; two of three wear the most popular adapter."""
    both = zip(took_s, replicas, strict=True)
    worn = ("style-000", "style-001", "style-000")
    return Segment([Outcome(at, s, one, worn[at % 3]) for at, (s, one) in enumerate(both)], 2, loads, loads + 1)


def test_the_same_seed_asks_for_the_same() -> None:
    assert traffic.requests(40, 5.0, 200, seed=1) == traffic.requests(40, 5.0, 200, seed=1)
    assert traffic.requests(40, 5.0, 200, seed=1) != traffic.requests(40, 5.0, 200, seed=2)


def test_adapters_are_popular_as_zipf_has_it() -> None:
    named = Counter(one.adapter for one in traffic.requests(20_000, 5.0, 200, seed=1))
    for rank in (2, 4):
        assert named[0] / named[rank - 1] == pytest.approx(rank**1.1, rel=0.1)
    assert sum(traffic.popularity(200)) == pytest.approx(1.0)


def test_requests_come_at_random_at_the_rate_asked_for_and_have_a_mean_work_of_one() -> None:
    asked = traffic.requests(4000, 5.0, 200, seed=1)
    gaps = np.diff([one.at_s for one in asked])
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # as exponential gaps have it
    assert np.mean([one.arrival.work for one in asked]) == pytest.approx(1.0, abs=0.02)
    assert {one.steps for one in asked} == set(STEPS)


def test_no_two_requests_of_a_run_have_one_seed() -> None:
    asked = [one for seed in (60, 61, 62) for one in traffic.requests(200, 5.0, 200, seed)]
    assert len({one.seed for one in asked}) == len(asked)


def test_a_sweep_ends_with_the_most_popular() -> None:
    assert [one.adapter for one in traffic.sweep(4)] == [3, 2, 1, 0]
    assert {one.steps for one in traffic.sweep(4)} == {1}


def test_a_segments_figures() -> None:
    found = segment([1.0, 3.0, 2.0, 2.0], [0, 1, 0, 0])
    assert found.loads_per_100 == 50
    assert found.busiest == 1.5
    assert found.latency_s["p50"] == 2.0
    assert found.goodput_rps(2.5) == 3 / 5  # three in time, from 0 s to 5 s
    assert found.hottest() == Counter({0: 3})
    said = found.report(2.5)
    assert (said["hottest_requests"], said["hottest_replicas"], said["hottest_most_on_one"]) == (3, 1, 1.0)
    assert said["bank_writes_per_100"] == 75


def test_turns_together_follow_one_another() -> None:
    both = segment([1.0, 1.0], [0, 1], 1.0) + segment([2.0, 2.0], [0, 1], 4.0)
    assert both.loads == 5
    assert [one.at_s for one in both.outcomes] == [0, 1, 2, 3]
    assert both.goodput_rps(3.0) == 4 / 5
    assert together([both]) == both


def test_a_ratio_is_of_all_turns_and_its_range_of_single_ones() -> None:
    ours = [segment([1.0, 1.0], [0, 1], 1.0), segment([1.0, 1.0], [0, 1], 3.0)]
    peer = [segment([1.0, 1.0], [0, 1], 4.0), segment([1.0, 1.0], [0, 1], 4.0)]
    assert compared(ours, peer, lambda one: one.loads) == {"ratio": 0.5, "range": [0.25, 0.75]}
    assert compared(peer, peer, lambda one: 0.0)["ratio"] == 1.0, "nothing to load, on both sides"


def test_what_a_simulated_fleet_loaded_while_it_warmed_up_is_not_counted() -> None:
    asked = [replace(one, adapter=number % 2) for number, one in enumerate(traffic.requests(40, 1.0, 2, seed=3))]
    run = Fleet(2, COSTS.machine(2), round_robin()).run([one.arrival for one in asked])
    whole, later = simulated(run, asked, 0), simulated(run, asked, 20)
    assert whole.loads == 2, "each replica has its adapter from its first request on"
    assert later.loads == 0
    assert sorted(one.at_s for one in later.outcomes) == [one.at_s for one in asked[20:]]


def test_turns_are_simulated_at_the_speed_that_the_machine_had_then() -> None:
    then = COSTS.at(capacity_rps=10.0, replicas=2)
    assert then.costs.request_s == 0.2
    assert then.costs.fetch_s == COSTS.load_s


def test_another_side_begins_in_each_round() -> None:
    names = [OURS, PEER, RANDOM]
    assert [turned(names, number)[0] for number in range(4)] == [OURS, PEER, RANDOM, OURS]
    assert all(sorted(turned(names, number)) == sorted(names) for number in range(3))


def test_counters_are_summed_over_bundles() -> None:
    assert counters(PAGE) == {"impasto_adapter_loads": 12, "impasto_bank_writes": 15, "impasto_done": 40}


class Slow(AsyncFakeTransport):
    """Lets others run before it answers."""

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        await asyncio.sleep(0)
        return await super().infer(tensors, timeout_s)


def test_a_side_sends_each_request_where_its_router_says() -> None:
    asked = [Asked(0.0, number, 1, "a boat", number) for number in range(6)]
    seen: list[tuple[int, ...]] = []

    def choose(wanted: Any, under_way: Sequence[int], ready: Sequence[bool]) -> int:
        seen.append(tuple(under_way))
        return int(min(wanted.adapters)[-1]) % 2

    async def run() -> tuple[list[Outcome], list[int]]:
        clients = [AsyncClient(transport=Slow()) for _ in range(2)]
        side = Side([], Router(choose), clients, [0, 0])
        return await side.as_able(asked, users=3), side.under_way

    outcomes, left = asyncio.run(run())
    assert {one.adapter: one.replica for one in outcomes} == {one.name: one.adapter % 2 for one in asked}
    assert seen[:3] == [(0, 0), (1, 0), (1, 1)]
    assert left == [0, 0]


def test_faults_come_in_turns() -> None:
    events = faults.plan(4, 3, every_s=20.0, outage_s=30.0)
    assert [(one.at_s, one.replica) for one in events if one.what in (KILLED, REPLICA_KILLED)] == [
        (5.0, 0),
        (25.0, 1),
        (45.0, 2),
        (65.0, 0),
    ]
    assert Counter(one.what for one in events) == {KILLED: 2, REPLICA_KILLED: 2, CUT: 4, ROLLED: 1, DOWN: 1, UP: 1}
    assert events == sorted(events, key=lambda one: one.at_s)
    down, up = (next(one.at_s for one in events if one.what == what) for what in (DOWN, UP))
    assert up - down == 30


def disturbed() -> Mapping[str, Any]:
    quiet = [Answer(0.0, 0.1, 0, 200, "a"), Answer(0.1, 0.1, 1, 200, "b")]
    others = [
        Answer(0.0, 0.2, 0, 200, "a"),
        Answer(0.2, 0.4, 1, 200, "else"),
        Answer(0.6, 0.1, 0, 503, said="no"),
        Answer(0.7, 0.1, 1, 0, said="reset"),
        Answer(0.8, 0.3, 1, 200, "b"),
    ]
    course = Course(
        [Event(0.3, KILLED, 1), Event(0.4, DOWN), Event(0.6, UP)], [(0.0, (True, True)), (0.5, (True, False))]
    )
    return {"replicas": 2, **faults.report(quiet, others, course)}


def test_what_is_not_answered_with_a_picture_is_lost_and_another_picture_differs() -> None:
    found = disturbed()
    assert (found["requests"], found["lost"], found["identical"], found["different"]) == (5, 2, 2, 1)
    assert [one["status"] for one in found["lost_answers"]] == [503, 0]
    assert found["longest_s"] == 0.4


def reported() -> dict[str, Any]:
    """Ours loads half of round-robin's, and its p95 is the same."""
    turns = {
        OURS: [segment([1.0, 1.0, 1.0], [0, 1, 0], 1.0)],
        PEER: [segment([1.0, 1.0, 1.0], [0, 1, 0], 2.0)],
        RANDOM: [segment([1.0, 2.0, 1.0], [0, 1, 0], 2.0)],
    }
    real = fleet_report(turns, 2, deadline_s=1.5)
    banks = [{"seats": 3, **real}]
    costs = {"request_s": 0.1, "alone_s": 0.1, "load_s": 0.05, "seats": 3}
    simulated = {"seats": 3, **real}
    parts = {"real": real, "simulated_real": real, "simulated": simulated, "simulated_banks": banks}
    return {"costs": costs, "scale": {"adapters": 9}, **parts, "faults": disturbed()}


def test_figures_are_held_against_their_bars() -> None:
    met = {(one["backbone"], one["key"]): one["met"] for one in held(reported())}
    assert met["real", "loads_over_round_robin"]
    assert not met["real", "p95_over_round_robin"]
    assert not met["real", "busiest_over_mean"]  # two of three on one: 1.33
    assert not met["faults", "lost"]
    assert not met["faults", "different"]
    assert not met["faults", "requests"]
    assert not held({"scale": {}})


def test_ratios_are_to_each_of_the_others() -> None:
    found = ratios({OURS: [segment([1.0], [0])], PEER: [segment([2.0], [0])]}, OURS, 1.5)
    assert found.keys() == {PEER}
    assert found[PEER]["p95"]["ratio"] == 0.5


def test_the_tables_tell_what_was_found() -> None:
    said = markdown(reported())
    assert "| adapters | 33.3 |" in said
    assert "| ÷ round-robin | **0.50** |" in said
    assert "| lost | **2** |" in said
    assert markdown({"faults": disturbed()}).startswith("\nFaults, 2 replicas")


@pytest.mark.parametrize("left_out", [(), ("faults",), ("real", "simulated")])
def test_the_picture_shows_what_was_measured(left_out: Sequence[str], tmp_path: Path) -> None:
    report = {name: part for name, part in reported().items() if name not in left_out}
    chart.draw(report, tmp_path / "fleet.png")
    with Image.open(tmp_path / "fleet.png") as image:
        found = np.array([colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []])
    is_red = bool(np.abs(found - chart.RED).max(axis=1).min() < 12)  # the file has a palette of its own
    assert is_red is ("faults" not in left_out), "lost requests are red"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


def test_a_wire_forwards_is_cut_and_refuses_while_it_is_down() -> None:
    async def run() -> list[bytes]:
        heard = []
        async with (
            await asyncio.start_server(echo, HOST, 0) as server,
            wire(server.sockets[0].getsockname()[1]) as between,
        ):
            for down in (False, True, False):
                between.is_down = down
                reader, writer = await asyncio.open_connection(HOST, between.port)
                writer.write(b"boat")
                try:
                    heard.append(await reader.readexactly(4))
                    assert between.cut() == 1
                    heard.append(await reader.read(4))
                except (ConnectionError, asyncio.IncompleteReadError):
                    heard.append(b"reset")
                writer.close()
        return heard

    assert asyncio.run(run()) == [b"boat", b"reset", b"reset", b"boat", b"reset"]
