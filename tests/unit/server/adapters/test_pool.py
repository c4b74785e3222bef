"""Places that requests hold: who gets them, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice, pairwise

import numpy as np
import pytest

from impasto_server.adapters.pool import PATIENCE, Need, Places, Pool


@dataclass
class Counter:
    """A pool, and those who ask it: each key takes a place, or `wide` three."""

    pool: Pool[str]
    called: list[str] = field(default_factory=list)
    _again: dict[str, partial[None]] = field(default_factory=dict)

    def ask(self, who: str, *keys: str) -> dict[str, Places] | None:
        again = self._again.setdefault(who, partial(self.called.append, who))
        return self.pool.take(needs(*keys), again)

    def forget(self, who: str) -> None:
        self.pool.forget(self._again[who])


def needs(*keys: str) -> dict[str, Need]:
    return {key: Need("lora", 3 if key == "wide" else 1) for key in keys}


@pytest.fixture
def three() -> Counter:
    """Three places."""
    return Counter(Pool({"lora": 3}))


def test_a_key_has_the_same_places_whoever_asks(three: Counter) -> None:
    first, second = three.ask("one", "a", "b"), three.ask("two", "b", "c")
    assert first is not None
    assert second is not None
    assert first["b"] == second["b"]
    assert sorted(place for places in {**first, **second}.values() for place in places) == [1, 2, 3]


def test_what_nobody_holds_stays_until_it_is_needed_and_the_longest_idle_goes_first(three: Counter) -> None:
    for key in "abc":
        three.ask(key, key)
    kept = three.ask("a again", "a")
    three.pool.leave("abca")
    assert three.ask("x", "a") == kept
    three.pool.leave("a")
    b = three.ask("y", "b")  # c is the longest idle now
    assert b is not None
    d, c_before = three.ask("z", "d"), three.ask("w", "a")
    assert d is not None
    assert c_before == kept
    assert d["d"] not in (b["b"], kept["a"] if kept else None)


def test_each_kind_has_places_of_its_own() -> None:
    pool: Pool[str] = Pool({"lora": 1, "bottleneck": 1})
    assert pool.take({"a": Need("lora", 1), "b": Need("bottleneck", 1)}, pytest.fail) == {"a": (1,), "b": (1,)}
    assert not pool.fits({"a": Need("lora", 2)})
    assert not pool.fits({"a": Need("vector", 1)})


def test_all_or_none_are_had_and_nothing_is_held_back_for_who_waits(three: Counter) -> None:
    assert three.ask("one", "a", "b")
    assert three.ask("wide", "wide") is None
    assert three.ask("three", "c")


def test_who_waits_is_called_once_when_its_places_are_kept_for_it(three: Counter) -> None:
    three.ask("one", "a", "b")
    assert three.ask("two", "c", "d") is None
    three.pool.leave(["a", "b"])
    assert three.called == ["two"]
    assert three.ask("late", "e", "f") is None  # they are the second's, who hasn't come for them yet
    found = three.ask("two", "c", "d")
    assert found is not None
    three.pool.leave(found)
    assert three.called == ["two", "late"]


def test_only_those_who_can_be_served_are_called_in_the_order_in_which_they_came(three: Counter) -> None:
    three.ask("one", "a", "b", "c")
    for who, keys in (("first", "de"), ("second", "fg"), ("third", "h")):
        assert three.ask(who, *keys) is None
    three.pool.leave("abc")
    assert three.called == ["first", "third"]  # two places and one: nothing is left for the second
    assert three.ask("first", *"de")
    three.pool.leave("de")
    assert three.called == ["first", "third", "second"]


def test_who_is_forgotten_is_not_called_and_holds_nothing(three: Counter) -> None:
    three.ask("one", "a", "b", "c")
    assert three.ask("two", "d") is None
    assert three.ask("three", "e", "f", "g") is None
    three.forget("two")
    three.forget("two")
    three.pool.leave("abc")
    assert three.called == ["three"]
    three.forget("three")  # which was called, and does not come
    assert three.ask("four", *"xyz")
    assert three.pool.waiting == 0


def test_nobody_is_passed_over_for_ever(three: Counter) -> None:
    """Requests for a, b and c come and go, two at a time at least; one that wants all of the places waits.

    a, b and c are here, so every request for them fits in at once; without patience the wide one would never get in.
    """
    three.ask("0", "a")
    assert three.ask("wide", "wide") is None
    let_in = 0
    for one, other in pairwise(islice(_names(), 3 * PATIENCE)):
        if three.ask(other[0], other[1]) is None:
            break
        let_in += 1
        three.pool.leave([one[1]])
    assert let_in == PATIENCE
    assert three.called == []
    three.pool.leave([one[1]])  # the last that was let in
    assert three.called[0] == "wide"
    found = three.ask("wide", "wide")
    assert found is not None
    three.pool.leave(found)
    assert three.called == ["wide", other[0]]


def _names() -> Iterator[tuple[str, str]]:
    """Who comes, and for what."""
    for number in count():
        yield str(number), "abc"[number % 3]


def test_those_who_fit_in_beside_who_has_no_patience_are_let_in_still() -> None:
    pool: Pool[str] = Pool({"lora": 5})
    five = Counter(pool)
    five.ask("0", "a", "b", "c")
    assert five.ask("wide", "wide") is None
    for number in range(PATIENCE):
        assert five.ask(f"{number}", "a")
        pool.leave("a")
    assert five.ask("beside", "d")  # d and the wide one's three are four of five
    assert five.ask("too many", "e", "f") is None  # with d, and the wide one's, these are six
    assert five.ask("another", "a")
    assert five.ask("one more", "b") is None  # a, b, d and the wide one's are six
    pool.leave("ab")
    assert five.called == []
    pool.leave("c")  # a and d are left, and leave it room
    assert five.called == ["wide"]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_and_goes_nobody_shares_a_place_and_all_are_served(seed: int) -> None:
    draw = np.random.default_rng(seed)
    pool: Pool[str] = Pool({"lora": 8})
    needed = {str(number): Need("lora", int(draw.integers(1, 4))) for number in range(12)}
    asked, served = Counter(pool), dict[str, dict[str, Places]]()
    wanted: dict[str, dict[str, Need]] = {}
    for number in range(400):
        who = f"{number}"
        keys = draw.choice(12, size=int(draw.integers(1, 3)), replace=False)
        wanted[who] = {str(key): needed[str(key)] for key in keys}
        waiting = [one for one in wanted if one not in served]
        for one in [*waiting[:-1], who]:
            if one in asked.called or one == who:
                found = pool.take(wanted[one], asked._again.setdefault(one, partial(asked.called.append, one)))
                if found is not None:
                    served[one] = found
        held = {key: places for found in served.values() for key, places in found.items()}
        taken = [place for places in held.values() for place in places]
        assert len(taken) == len(set(taken)) <= 8
        for one in draw.permutation(sorted(served))[: len(served) * 2 // 3]:
            pool.leave(served.pop(str(one)))
            del wanted[str(one)]
    while wanted:
        for one in list(served):
            pool.leave(served.pop(one))
            del wanted[one]
        left = {one: pool.take(wanted[one], asked._again[one]) for one in list(wanted) if one in asked.called}
        assert not wanted or left, "nobody is called though all have left"
        served |= {one: found for one, found in left.items() if found is not None}
    assert pool.holders == pool.waiting == 0
