"""Room in the host's memory for what is large: pictures while they are worked on, whichever bundle they are for.

Each says before it's read how much it takes at most. Who finds too little left waits, as for any other place that there
is a bounded number of (adapters/pool.py); who takes more than there is gets all of it, once nobody else is in.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from impasto_server.adapters.pool import Need, Pool

ROOM = 1_500_000_000  # bytes: of two pictures of 24 million pixels one waits, and some hundred small ones don't

_UNIT = 1 << 20
_KIND = "MiB"


class Place:
    """What one has taken."""


class Room:
    """Safe from any thread."""

    def __init__(self, nbytes: int = ROOM) -> None:
        self._units = nbytes // _UNIT
        self._pool: Pool[Place] = Pool({_KIND: self._units})
        self._asked: dict[Callable[[], None], Place] = {}  # of those who wait
        self._inside: set[Place] = set()
        self._lock = Lock()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._pool.waiting

    def take(self, nbytes: int, again: Callable[[], None]) -> Place | None:
        """A place, to be given back with `leave`.

        None while there's no room, and then `again` is called, once, when there is: who asked asks with the same
        `again` once more, or says `forget`.
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
        """Once or several times."""
        with self._lock:
            if place not in self._inside:
                return
            self._inside.remove(place)
        self._pool.leave([place])

    def forget(self, again: Callable[[], None]) -> None:
        """Whoever waited with it waits no more."""
        self._pool.forget(again)
        with self._lock:
            self._asked.pop(again, None)
