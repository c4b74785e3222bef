"""Room in host memory for large pictures while they are worked on, shared by all bundles.

A request says how much its pictures take at most before they are read. It waits while too little is left
(adapters/pool.py). One that needs more than there is gets all of it, once nobody else is in.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from impasto_server.adapters.pool import Need, Pool

ROOM = 1_500_000_000  # bytes: a hundred small pictures fit, two of 24 million pixels don't

_UNIT = 1 << 20
_KIND = "MiB"


class Place:
    """A request's share of the room."""


class Room:
    """The room and those who wait for it. Safe from any thread."""

    def __init__(self, nbytes: int = ROOM) -> None:
        self._units = nbytes // _UNIT
        self._pool: Pool[Place] = Pool({_KIND: self._units})
        self._asked: dict[Callable[[], None], Place] = {}  # the places of those who wait
        self._inside: set[Place] = set()
        self._lock = Lock()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._pool.waiting

    def take(self, nbytes: int, again: Callable[[], None]) -> Place | None:
        """Take a place, to be given back with `leave`.

        None while there is no room. Then `again` is called once, when there may be: ask once more with the same
        `again`, or call `forget`.
        """
        with self._lock:
            place = self._asked.setdefault(again, Place())
        units = min(self._units, -(-nbytes // _UNIT))
        if self._pool.take({place: Need(_KIND, units)}, again) is None:
            return None
        with self._lock:
            del self._asked[again]
            self._inside.add(place)
        return place

    def leave(self, place: Place) -> None:
        """Give a place back; a second call does nothing."""
        with self._lock:
            if place not in self._inside:
                return
            self._inside.remove(place)
        self._pool.leave([place])

    def forget(self, again: Callable[[], None]) -> None:
        """End the wait of whoever asked with `again`."""
        self._pool.forget(again)
        with self._lock:
            self._asked.pop(again, None)
