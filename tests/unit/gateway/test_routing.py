"""Where requests go: to their adapters, until the queue there costs more than a load."""

from __future__ import annotations

from collections import Counter

import pytest

from impasto_gateway.residency import Residency, Shelf
from impasto_gateway.routing import COUNTED, Costs, Replica, Wanted, ranked

COSTS = Costs(request_s=1.0, write_s=0.5, fetch_s=2.0)
NEON, PAIR, PLAIN = (Wanted("studio", frozenset(worn)) for worn in (("neon",), ("neon", "glass"), ()))


def best(wanted: Wanted, *replicas: Replica, costs: Costs = COSTS) -> str:
    return ranked(wanted, replicas, costs)[0].name


def holding(name: str, *adapters: str, under_way: int = 0) -> Replica:
    return Replica(name, under_way, frozenset(adapters))


@pytest.mark.parametrize("holder", ["a", "b", "c"])
def test_a_request_goes_where_its_adapter_is(holder: str) -> None:
    assert best(NEON, *(holding(name, *(["neon"] if name == holder else [])) for name in "abc")) == holder


def test_it_stays_until_the_queue_costs_more_than_a_load() -> None:
    queue = int(COUNTED * COSTS.fetch_s)
    assert best(NEON, holding("home", "neon", under_way=queue - 1), holding("other")) == "home"
    assert best(NEON, holding("home", "neon", under_way=queue + 1), holding("other")) == "other"


def test_what_lies_near_is_a_cheaper_load() -> None:
    home = holding("home", "neon", under_way=2)
    far, near = Replica("far"), Replica("near", near=frozenset({"neon"}))
    assert [one.name for one in ranked(NEON, [far, home, near], COSTS)] == ["near", "home", "far"]


def test_of_a_set_every_adapter_counts() -> None:
    places = [holding("one", "neon"), holding("both", "neon", "glass"), holding("none")]
    assert [one.name for one in ranked(PAIR, places, COSTS)] == ["both", "one", "none"]


def test_where_loads_cost_nothing_the_shorter_queue_wins() -> None:
    free = Costs(1.0, 0.0, 0.0)
    assert best(NEON, holding("home", "neon", under_way=1), holding("other"), costs=free) == "other"


def test_a_replica_that_is_not_ready_comes_last() -> None:
    gone = Replica("gone", resident=frozenset({"neon"}), is_ready=False)
    assert [one.name for one in ranked(NEON, [gone, holding("busy", under_way=99)], COSTS)] == ["busy", "gone"]


def test_equals_are_spread_evenly_and_by_the_set_alone() -> None:
    replicas = [Replica(name) for name in "abcd"]
    sets = [Wanted("studio", frozenset({f"{place}", f"{place + 1}"})) for place in range(400)]
    homes = [best(one, *replicas) for one in sets]
    assert homes == [best(one, *reversed(replicas)) for one in sets]
    assert all(70 < count < 130 for count in Counter(homes).values()), "about a hundred each"


def test_requests_without_adapters_are_spread_too() -> None:
    replicas = [Replica(name) for name in "abcd"]
    homes = Counter(best(Wanted("studio", spread=str(place)), *replicas) for place in range(400))
    assert all(70 < count < 130 for count in homes.values())


def test_when_a_replica_leaves_only_its_own_move() -> None:
    replicas = [Replica(name) for name in "abcd"]
    for place in range(100):
        wanted = Wanted("studio", frozenset({str(place)}))
        before = best(wanted, *replicas)
        after = best(wanted, *replicas[:3])
        assert after == before or before == "d"


@pytest.mark.parametrize("costs", [(0.0, 0.1, 1.0), (1.0, -0.1, 1.0), (1.0, 2.0, 1.0), (float("nan"), 0.1, 1.0)])
def test_costs_that_would_send_requests_astray_are_refused(costs: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="request_s must be above 0"):
        Costs(*costs)


def test_a_shelf_keeps_what_was_used_last() -> None:
    shelf = Shelf(2)
    for adapter in ("neon", "glass", "neon", "wave"):
        shelf.use([adapter])
    assert list(shelf.held) == ["neon", "wave"]


def test_a_set_that_is_larger_than_the_shelf_is_held_while_it_is_used() -> None:
    shelf = Shelf(1)
    shelf.use(["neon", "glass"])
    assert set(shelf.held) == {"neon", "glass"}
    shelf.use(["wave"])
    assert list(shelf.held) == ["wave"]


def test_what_was_sent_is_believed_to_be_there() -> None:
    belief = Residency(seats=1)
    belief.sent(NEON)
    assert set(belief.seen("a", NEON, 0).resident) == {"neon"}
    assert not belief.seen("a", Wanted("other", NEON.adapters), 0).resident, "each bundle has its bank"
    belief.sent(Wanted("studio", frozenset({"wave"})))
    seen = belief.seen("a", NEON, 3)
    assert (set(seen.resident), set(seen.near), seen.under_way) == ({"wave"}, {"neon", "wave"}, 3)


def test_a_replica_that_restarted_has_its_disk_alone() -> None:
    belief = Residency()
    belief.sent(NEON)
    belief.restarted()
    seen = belief.seen("a", NEON, 0)
    assert (set(seen.resident), set(seen.near)) == (set(), {"neon"})


def test_a_bank_is_as_large_after_a_restart() -> None:
    belief = Residency()
    belief.limit("studio", 1)
    belief.restarted()
    for adapter in ("neon", "glass"):
        belief.sent(Wanted("studio", frozenset({adapter})))
    assert set(belief.seen("a", NEON, 0).resident) == {"glass"}


def test_a_server_may_say_that_its_bank_is_smaller() -> None:
    belief = Residency()
    for adapter in ("neon", "glass"):
        belief.sent(Wanted("studio", frozenset({adapter})))
    belief.limit("studio", 1)
    assert set(belief.seen("a", NEON, 0).resident) == {"glass"}
