"""Places that requests hold while they run: the bank's pages today, whatever else there is a bounded number of.

A key takes so many places of one kind, whoever asks for it. What nobody holds stays where it is until its places are
needed: then those go first that were asked for the longest ago.

Who finds too few places free waits, and is given them as soon as there are enough, in the order in which they came.
Those who fit in meanwhile are let in before them. Who has been passed over PATIENCE times is passed over only by those
who fit in beside it, and beside each other: so nobody waits for ever.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")

PATIENCE = 16

Again = Callable[[], None]
Places = tuple[int, ...]


class Need(NamedTuple):
    """What a key takes: so many `places` of a `kind`."""

    kind: str
    places: int


@dataclass(eq=False)
class _Waiting(Generic[K]):
    """One who asked: for what, how often it was passed over since, and whether it has its places by now."""

    wanted: Mapping[K, Need]
    passed: int = 0
    served: bool = False


class Pool(Generic[K]):
    """Places by number, from 1, `sizes` of each kind. Thread-safe, and never busy for long."""

    def __init__(self, sizes: Mapping[str, int], evicted: Callable[[], None] = lambda: None) -> None:
        """`evicted` is called for each key whose places were needed."""
        self.sizes = sizes
        self._evicted = evicted
        self._free = {kind: list(range(size, 0, -1)) for kind, size in sizes.items()}
        self._held: OrderedDict[K, tuple[str, Places]] = OrderedDict()  # the longest idle first
        self._pins: Counter[K] = Counter()
        self._late: Counter[K] = Counter()  # of these, by those who were let in past somebody without patience
        self._waiting: dict[Again, _Waiting[K]] = {}  # in the order in which they came
        self._lock = Lock()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def holders(self) -> int:
        """How many hold a key, each key counted."""
        return self._pins.total()

    def fits(self, wanted: Mapping[K, Need]) -> bool:
        """Whether all of `wanted` could be held at once, were nothing else here."""
        return all(count <= self.sizes.get(kind, 0) for kind, count in _counts(wanted.values()).items())

    def take(self, wanted: Mapping[K, Need], again: Again) -> dict[K, Places] | None:
        """Places for every key, all or none; give them back with `leave`.

        None while there are too few, and then `again` is called, once, when there are places kept for who asked: it
        asks with the same `again` once more, or says `forget`. What is wanted must fit.
        """
        assert self.fits(wanted)
        with self._lock:
            mine = self._waiting.setdefault(again, _Waiting(wanted))
            others = [one for one in self._serve() if one != again]
            places = {key: self._held[key][1] for key in wanted} if mine.served else None
            if mine.served:
                del self._waiting[again]
        _call(others)
        return places

    def leave(self, keys: Iterable[K]) -> None:
        """Give back what one `take` gave."""
        with self._lock:
            self._release(keys)
            served = self._serve()
        _call(served)

    def forget(self, again: Again) -> None:
        """Whoever waited with it waits no more, and gives back what was kept for it."""
        if again not in self._waiting:  # as of all but a few
            return
        with self._lock:
            mine = self._waiting.pop(again, None)
            if mine is not None and mine.served:
                self._release(mine.wanted)
            served = self._serve()
        _call(served)

    def _release(self, keys: Iterable[K]) -> None:
        for key in keys:
            self._pins[key] -= 1
            assert self._pins[key] >= 0
            if self._late[key] > self._pins[key]:
                self._late[key] = self._pins[key]
        self._pins, self._late = +self._pins, +self._late

    def _serve(self) -> list[Again]:
        """Give places to those who wait and fit; they are to be called."""
        served: list[Again] = []
        passed: list[_Waiting[K]] = []
        first: _Waiting[K] | None = None  # of those without patience
        for again, one in self._waiting.items():
            if one.served:
                continue
            if self._has_room(one, first):
                self._admit(one, late=first is not None)
                served.append(again)
                for other in passed:
                    other.passed += 1
            else:
                passed.append(one)
                first = first or (one if one.passed >= PATIENCE else None)
        if first is None:
            self._late.clear()
        return served

    def _has_room(self, one: _Waiting[K], first: _Waiting[K] | None) -> bool:
        """Whether `one` fits in beside all who are in; also beside who comes `first`, with those who passed it."""
        if first is not None and not self.fits({**first.wanted, **one.wanted, **self._needs(self._late)}):
            return False
        return self.fits({**self._needs(self._pins), **one.wanted})

    def _needs(self, held: Iterable[K]) -> dict[K, Need]:
        found = {key: self._held[key] for key in held}
        return {key: Need(kind, len(places)) for key, (kind, places) in found.items()}

    def _admit(self, one: _Waiting[K], late: bool) -> None:
        one.served = True
        self._pins.update(one.wanted.keys())
        if late:
            self._late.update(one.wanted.keys())
        for key, need in one.wanted.items():
            if key not in self._held:
                self._held[key] = need.kind, self._found(need)
            self._held.move_to_end(key)

    def _found(self, need: Need) -> Places:
        """Free places, made free where there are too few."""
        free = self._free[need.kind]
        idle = [key for key, (kind, _) in self._held.items() if kind == need.kind and key not in self._pins]
        for key in idle:
            if len(free) >= need.places:
                break
            free += self._held.pop(key)[1]
            self._evicted()
        return tuple(free.pop() for _ in range(need.places))


def _counts(needs: Collection[Need]) -> Counter[str]:
    found: Counter[str] = Counter()
    for kind, count in needs:
        found[kind] += count
    return found


def _call(served: Iterable[Again]) -> None:
    for again in served:
        again()
