"""One device, several step loops: who is next, by a clock that the tests turn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

import pytest

from impasto_server.turnstile import HOLD_S, Share, Shares, Turnstile
from tests.helpers.waiting import eventually

PATIENCE_S = 60.0


@dataclass(eq=False)
class Loop:
    """A step loop: its passes take `pass_s`, and between two of them it works on the host for `host_s`.

    It has rows from `begins` on, for `passes`.
    """

    pass_s: float
    host_s: float = 0.001
    begins: float = 0.0
    passes: int = 1_000_000
    waits: list[float] = field(default_factory=list)
    had_s: float = 0.0


def simulate(loops: Mapping[str, Loop], seconds: float) -> list[str]:
    """Whose passes there were, in order, on a device that does nothing but by the turnstile's rule."""
    shares, now, order = Shares(), 0.0, list[str]()
    mine: dict[str, Share] = {name: shares.add() for name in loops}
    asks = {name: loop.begins for name, loop in loops.items()}
    asked: dict[str, float] = {}
    while now < seconds:
        for name in [name for name, at in asks.items() if at <= now]:
            asked[name] = asks.pop(name)
            shares.ask(mine[name], now)
        waits = {name: shares.wait_s(mine[name], now) for name in asked}
        ready = [name for name, wait_s in waits.items() if wait_s == 0]
        if not ready:
            moments = [now + wait_s for wait_s in waits.values() if wait_s < math.inf]
            now = min([*moments, *asks.values(), math.inf])
            continue
        name = ready[0]
        loop = loops[name]
        loop.waits.append(now - asked.pop(name))
        shares.enter(mine[name], now)
        now += loop.pass_s
        while early := [other for other, at in asks.items() if at <= now]:
            for other in early:  # they come while the pass runs
                asked[other] = asks.pop(other)
                shares.ask(mine[other], asked[other])
        shares.leave(mine[name], now)
        loop.had_s += loop.pass_s
        order.append(name)
        if len(loop.waits) < loop.passes:
            asks[name] = now + loop.host_s
        else:
            shares.rest(mine[name])
    return order


def test_alone_a_loop_never_waits() -> None:
    loop = Loop(0.05)
    simulate({"photo": loop}, 10)
    assert max(loop.waits) == 0
    assert len(loop.waits) == pytest.approx(10 / 0.051, abs=2)


def test_a_pass_of_a_second_does_not_starve_one_of_3_ms() -> None:
    """It waits for one such pass at most, and has half of the device."""
    loops = {"sdxl": Loop(1.0, 0.01), "style": Loop(0.003)}
    simulate(loops, 200)
    assert max(loops["style"].waits) <= 1.0 + 1e-9
    assert loops["style"].had_s == pytest.approx(loops["sdxl"].had_s, rel=0.05)


def test_passes_of_3_ms_do_not_starve_one_of_a_second() -> None:
    """It waits until they have had as much as its own last pass took."""
    loops = {"sdxl": Loop(1.0, 0.01), "style": Loop(0.003)}
    simulate(loops, 200)
    host_s = 0.001 * 1.0 / 0.003
    assert max(loops["sdxl"].waits) <= 1.0 + host_s + 0.01
    assert len(loops["sdxl"].waits) > 60


def test_who_comes_after_a_long_rest_waits_for_one_pass_and_has_no_credit() -> None:
    loops = {"busy": Loop(0.1), "late": Loop(0.1, begins=100.05)}
    order = simulate(loops, 120)
    assert loops["late"].waits[0] <= 0.1
    since = order[order.index("late") :]
    assert Counter(since)["late"] == pytest.approx(len(since) / 2, abs=2)
    assert "late, late, late" not in ", ".join(since)


def test_a_few_requests_now_and_then_wait_for_one_pass_each_time() -> None:
    loops = {"busy": Loop(0.2), "rare": Loop(0.01, host_s=1.7)}
    simulate(loops, 100)
    assert max(loops["rare"].waits) <= 0.2 + 1e-9


@pytest.mark.parametrize("count", [3, 5])
def test_each_of_several_has_its_share(count: int) -> None:
    loops = {f"{n}": Loop(0.004 * 3**n, host_s=0.0005) for n in range(count)}
    simulate(loops, 300)
    total = sum(loop.had_s for loop in loops.values())
    for loop in loops.values():
        assert loop.had_s == pytest.approx(total / count, rel=0.1)


def test_a_device_is_kept_for_a_loop_on_the_host_no_longer_than_said() -> None:
    shares = Shares()
    slow, quick = shares.add(), shares.add()
    shares.ask(quick, 0.0)
    shares.ask(slow, 0.0)
    shares.enter(quick, 0.0)
    shares.leave(quick, 0.003)
    shares.enter(slow, 0.003)  # it has had less
    shares.ask(quick, 0.004)
    shares.leave(slow, 1.003)
    shares.ask(slow, 1.004)
    shares.enter(quick, 1.004)
    assert shares.wait_s(slow, 1.005) == math.inf
    shares.leave(quick, 1.104)
    assert shares.wait_s(slow, 1.104) == pytest.approx(HOLD_S)
    assert shares.wait_s(slow, 1.104 + HOLD_S) == 0
    shares.rest(quick)
    assert shares.wait_s(slow, 1.104) == 0


@contextmanager
def ending(*threads: Thread) -> Iterator[None]:
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_one_pass_at_a_time_and_whoever_has_had_least_is_next() -> None:
    """Three loops want the device while a fourth has it; by a clock that stands still but for their passes."""
    now, inside, order = [0.0], [0], list[str]()
    turnstile = Turnstile(lambda: now[0])
    gates = {name: turnstile.gate() for name in ("first", "b", "c", "d")}

    def run(name: str, seconds: float) -> None:
        with gates[name]:
            inside[0] += 1
            assert inside[0] == 1
            order.append(name)
            now[0] += seconds
            inside[0] -= 1
        gates[name].rest()

    for name, seconds in (("b", 0.3), ("c", 0.1), ("d", 0.2)):
        run(name, seconds)  # by then c has had the least but for `first`
    held, go_on = Event(), Event()

    def hold() -> None:
        with gates["first"]:
            held.set()
            assert go_on.wait(PATIENCE_S)
            now[0] += 1
        gates["first"].rest()

    holding = Thread(target=hold, daemon=True)
    others = [Thread(target=run, args=(name, 0.0), daemon=True) for name in ("b", "c", "d")]
    order.clear()
    with ending(holding):
        assert held.wait(PATIENCE_S)
        with ending(*others):
            eventually(lambda: all(gates[name]._share.waits_since is not None for name in ("b", "c", "d")))
            assert not order
            go_on.set()
    assert order == ["c", "d", "b"]


def test_a_pass_that_fails_lets_others_in() -> None:
    turnstile = Turnstile()
    one, other = turnstile.gate(), turnstile.gate()
    with pytest.raises(ValueError, match="NaN"), one:
        raise ValueError("NaN")
    with other:
        pass
