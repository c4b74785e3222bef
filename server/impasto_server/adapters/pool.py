"""A pool of numbered places that requests hold while they run: pages of the bank, or memory for pictures.

A key takes a number of places of one kind, the same for everyone who asks for it. A key that nobody holds keeps its
places until others need them; the one unused for longest goes first.

Whoever finds too few free places waits, and gets them when there are enough, first come first served. Later comers that
fit in meanwhile may pass. Once someone has been passed PATIENCE times, only those may pass that fit in beside it and
beside one another. So nobody waits for ever.
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
    """What a key takes: a number of `places` of a `kind`."""

    kind: str
    places: int


@dataclass(eq=False)
class _Waiting(Generic[K]):
    """One who asked: for what, how often it was passed since, and whether it has its places by now."""

    wanted: Mapping[K, Need]
    passed: int = 0
    served: bool = False


class Pool(Generic[K]):
    """Places by number, from 1; `sizes` says how many of each kind. Thread-safe, and never busy for long."""

    def __init__(self, sizes: Mapping[str, int], evicted: Callable[[], None] = lambda: None) -> None:
        """`evicted` is called for each key that loses its places."""
        self.sizes = sizes
        self._evicted = evicted
        self._free = {kind: list(range(size, 0, -1)) for kind, size in sizes.items()}
        self._held: OrderedDict[K, tuple[str, Places]] = OrderedDict()  # the longest unused first
        self._pins: Counter[K] = Counter()
        self._late: Counter[K] = Counter()  # the pins of those who passed someone without patience left
        self._waiting: dict[Again, _Waiting[K]] = {}  # in order of arrival
        self._lock = Lock()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def holders(self) -> int:
        """How many holds there are, over all keys."""
        return self._pins.total()

    def fits(self, wanted: Mapping[K, Need]) -> bool:
        """Whether an empty pool could hold all of `wanted` at once."""
        return all(count <= self.sizes.get(kind, 0) for kind, count in _counts(wanted.values()).items())

    def take(self, wanted: Mapping[K, Need], again: Again) -> dict[K, Places] | None:
        """Places for every key, all or none; give them back with `leave`.

        None while there are too few. Then `again` is called once, when places are reserved for the caller: take them
        with the same `again`, or call `forget`. `wanted` must fit an empty pool.
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
        """Give back the places of one `take`."""
        with self._lock:
            self._release(keys)
            served = self._serve()
        _call(served)

    def forget(self, again: Again) -> None:
        """End the wait of whoever asked with `again`, and free what was reserved for it."""
        if again not in self._waiting:  # the usual case, without the lock
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
        """Reserve places for those who wait and fit; returns them, to be called."""
        served: list[Again] = []
        passed: list[_Waiting[K]] = []
        first: _Waiting[K] | None = None  # the first without patience left
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
        """Whether `one` fits in beside all who are in, and beside `first` with those who passed it."""
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
        """Free places; idle keys are evicted where there are too few."""
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
