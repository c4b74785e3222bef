"""A fleet in simulated time: replicas with banks, requests that arrive, and a way to choose where each goes.

A replica works on all its requests at once and shares its time among them, as the server's loop does. A request first
waits for the adapters that its replica lacks: they are loaded beside the work of others, each once. Banks evict what
was unused for longest. Nothing here takes real time, and the same seed gives the same run.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, count
from random import Random
from types import MappingProxyType

from impasto_gateway.residency import Residency
from impasto_gateway.routing import Costs, Wanted, ranked

EPSILON_S = 1e-9
ONE: Mapping[int, float] = MappingProxyType({1: 1.0})
# How much work requests are, as multiples of the mean: steps and numbers of pictures differ.
_STEPS, _PICTURES, _SHARES = (8, 20, 30, 50), (1, 2, 4), (0.7, 0.2, 0.1)
_MEAN = sum(_STEPS) / len(_STEPS) * sum(n * share for n, share in zip(_PICTURES, _SHARES, strict=True))


@dataclass(frozen=True)
class Arrival:
    """A request: when it comes, what it wears, and how much work it is; 1 is the mean."""

    at_s: float
    wanted: Wanted
    work: float = 1.0


@dataclass(frozen=True)
class Outage:
    """A replica that is killed `at_s`, and is back after `for_s` seconds with an empty bank. What it had under way is
    sent to others.
    """

    at_s: float
    for_s: float
    replica: int


@dataclass(frozen=True)
class Machine:
    """What a replica is. `seats` adapters fit into its bank; large batches go 1 + `gain` times as fast as rows."""

    costs: Costs
    seats: int
    gain: float = 0.0

    def speed(self, requests: int) -> float:
        """How many requests' work it does in the time of one, with so many at once."""
        return 1 + self.gain * (1 - 1 / requests)


@dataclass(frozen=True)
class Done:
    """A request that was answered: by whom, how long it took, and how many adapters were loaded for it."""

    wanted: Wanted
    replica: int
    took_s: float
    loads: int
    tries: int


@dataclass(frozen=True)
class Run:
    """All of a run's answers, in the order in which they came."""

    done: tuple[Done, ...]
    replicas: int

    def __add__(self, other: Run) -> Run:
        """Both together, as of one fleet that was as large."""
        return Run(self.done + other.done, self.replicas)

    @property
    def loads(self) -> float:
        """Adapters loaded per request."""
        return sum(one.loads for one in self.done) / len(self.done)

    @property
    def imbalance(self) -> float:
        """The requests of the busiest replica over the mean."""
        return max(self.served().values()) * self.replicas / len(self.done)

    def quantile_s(self, share: float) -> float:
        """That share of requests took no longer."""
        took = sorted(one.took_s for one in self.done)
        return took[min(len(took) - 1, int(share * len(took)))]

    def served(self, adapter: str | None = None) -> Counter[int]:
        """How many requests each replica answered, of all or of those that wear an adapter."""
        return Counter(one.replica for one in self.done if adapter is None or adapter in one.wanted.adapters)


Choose = Callable[[Wanted, Sequence[int], Sequence[bool]], int]  # requests under way, and who is ready -> a replica


@dataclass(frozen=True)
class Router:
    """Chooses, and hears of replicas that restarted."""

    choose: Choose
    restarted: Callable[[int], None] = lambda replica: None


def round_robin() -> Router:
    """One after another."""
    turns = count()

    def choose(wanted: Wanted, under_way: Sequence[int], ready: Sequence[bool]) -> int:
        able = [place for place, is_ready in enumerate(ready) if is_ready]
        return able[next(turns) % len(able)]

    return Router(choose)


def at_random(seed: int) -> Router:
    """Anyone."""
    dice = Random(seed)

    def choose(wanted: Wanted, under_way: Sequence[int], ready: Sequence[bool]) -> int:
        return dice.choice([place for place, is_ready in enumerate(ready) if is_ready])

    return Router(choose)


def by_adapters(replicas: int, costs: Costs, seats: int, hears_of_restarts: bool = True) -> Router:
    """The gateway's own routing. `seats` is how large it takes the banks to be."""
    beliefs = [Residency(seats) for _ in range(replicas)]
    names = [f"replica {place}" for place in range(replicas)]

    def choose(wanted: Wanted, under_way: Sequence[int], ready: Sequence[bool]) -> int:
        seen = zip(names, beliefs, under_way, ready, strict=True)
        best = ranked(wanted, [one.seen(name, wanted, busy, is_ready) for name, one, busy, is_ready in seen], costs)[0]
        place = names.index(best.name)
        beliefs[place].sent(wanted)
        return place

    def restarted(place: int) -> None:
        if hears_of_restarts:
            beliefs[place].restarted()

    return Router(choose, restarted)


def zipf(
    requests: int, per_s: float, seed: int, worn: Mapping[int, float] = ONE, adapters: int = 200, power: float = 1.1
) -> list[Arrival]:
    """Requests at random times, `per_s` on average. `worn` says which share of them wears how many adapters.

    The `adapters` are called 000, 001 …, the most popular first: one of rank k is asked for 1 / k ** `power` times as
    often.
    """
    dice, at_s = Random(seed), 0.0
    cumulative = list(accumulate(1 / rank**power for rank in range(1, adapters + 1)))
    arrivals = list[Arrival]()
    for place in range(requests):
        at_s += dice.expovariate(per_s)
        size = dice.choices(list(worn), list(worn.values()))[0]
        chosen: set[int] = set()
        while len(chosen) < size:
            chosen.update(dice.choices(range(adapters), cum_weights=cumulative))
        wanted = Wanted("bundle", frozenset(map("{:03d}".format, chosen)), str(place))
        work = dice.choice(_STEPS) * dice.choices(_PICTURES, _SHARES)[0] / _MEAN
        arrivals.append(Arrival(at_s, wanted, work))
    return arrivals


@dataclass
class _Job:
    arrival: Arrival
    loads: int = 0
    tries: int = 0


@dataclass
class _Server:
    """A replica. `stage` is the work, in seconds, that a request would have got which was there from the start."""

    machine: Machine
    bank: OrderedDict[str, float] = field(default_factory=OrderedDict)  # adapter -> when it is loaded
    near: set[str] = field(default_factory=set)
    pins: Counter[str] = field(default_factory=Counter)
    jobs: dict[int, _Job] = field(default_factory=dict)
    running: list[tuple[float, int]] = field(default_factory=list)  # the stage at which each is done
    stage: float = 0.0
    now_s: float = 0.0
    is_up: bool = True

    def advance(self, now_s: float) -> None:
        if self.running:
            self.stage += (now_s - self.now_s) * self._rate()
        self.now_s = now_s

    def next_s(self) -> float:
        """When its next request is done, if nothing comes between."""
        return self.now_s + max(0.0, self.running[0][0] - self.stage) / self._rate()

    def load(self, job: _Job, now_s: float) -> float:
        """When all that the request wears is there."""
        costs, ready_s = self.machine.costs, now_s
        for adapter in sorted(job.arrival.wanted.adapters):
            if adapter not in self.bank:
                job.loads += 1
                self.bank[adapter] = now_s + (costs.write_s if adapter in self.near else costs.fetch_s)
                self.near.add(adapter)
            self.bank.move_to_end(adapter)
            self.pins[adapter] += 1
            ready_s = max(ready_s, self.bank[adapter])
        self._evict()
        return ready_s

    def leave(self, number: int) -> _Job:
        job = self.jobs.pop(number)
        self.pins.subtract(job.arrival.wanted.adapters)
        return job

    def kill(self) -> list[_Job]:
        lost, self.is_up = list(self.jobs.values()), False
        for held in (self.bank, self.pins, self.jobs, self.running):
            held.clear()
        return lost

    def _rate(self) -> float:
        return self.machine.speed(len(self.running)) / len(self.running)

    def _evict(self) -> None:
        idle = (adapter for adapter in list(self.bank) if not self.pins[adapter])
        while len(self.bank) > self.machine.seats and (adapter := next(idle, None)) is not None:
            del self.bank[adapter]


class Fleet:
    """Replicas that are alike. `run` plays what comes, once."""

    def __init__(self, replicas: int, machine: Machine, router: Router) -> None:
        self._servers = [_Server(machine) for _ in range(replicas)]
        self._router = router
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._done: list[Done] = []

    def run(self, arrivals: Sequence[Arrival], outages: Sequence[Outage] = ()) -> Run:
        """All the requests' answers. At least one replica must be up at any time."""
        for one in arrivals:
            self._at(one.at_s, partial(self._send, _Job(one)))
        for outage in outages:
            self._at(outage.at_s, partial(self._kill, outage.replica))
            self._at(outage.at_s + outage.for_s, partial(self._start, outage.replica))
        while self._events:
            now_s, _, act = heapq.heappop(self._events)
            act(now_s)
        return Run(tuple(self._done), len(self._servers))

    def _at(self, at_s: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), act))

    def _send(self, job: _Job, now_s: float) -> None:
        servers, number = self._servers, next(self._order)
        place = self._router.choose(
            job.arrival.wanted, [len(one.jobs) for one in servers], [one.is_up for one in servers]
        )
        job.tries += 1
        servers[place].jobs[number] = job
        self._at(servers[place].load(job, now_s), partial(self._join, place, number))

    def _join(self, place: int, number: int, now_s: float) -> None:
        server = self._servers[place]
        if number in server.jobs:  # it may have been killed meanwhile
            server.advance(now_s)
            work_s = server.machine.costs.request_s * server.jobs[number].arrival.work
            heapq.heappush(server.running, (server.stage + work_s, number))
            self._look_again(place, now_s)

    def _look_again(self, place: int, now_s: float) -> None:
        server = self._servers[place]
        if server.running:
            self._at(server.next_s(), partial(self._finish, place))

    def _finish(self, place: int, now_s: float) -> None:
        """Answer what is done by now; mostly one request, or none if others came since this was planned."""
        server = self._servers[place]
        server.advance(now_s)
        finished = 0
        while server.running and server.running[0][0] <= server.stage + EPSILON_S:
            job = server.leave(heapq.heappop(server.running)[1])
            wanted, took_s = job.arrival.wanted, now_s - job.arrival.at_s
            self._done.append(Done(wanted, place, took_s, job.loads, job.tries))
            finished += 1
        if finished:
            self._look_again(place, now_s)

    def _kill(self, place: int, now_s: float) -> None:
        lost = self._servers[place].kill()
        self._router.restarted(place)
        for job in lost:
            self._send(job, now_s)

    def _start(self, place: int, now_s: float) -> None:
        self._servers[place].is_up = True
