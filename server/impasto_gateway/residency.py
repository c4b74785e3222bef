"""What is believed of the replicas: which adapters are in their banks, and which on their disks.

A server doesn't list what it has loaded, but it loads what it is asked for, and evicts what was unused for longest. So
whoever sends it requests can keep the same list, and hears of others' requests from its metrics (load.py). A wrong
belief costs one load, and is right after that.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, KeysView

from impasto_gateway.routing import Replica, Wanted

SEATS = 64  # adapters that a bank is taken to hold, unless its server says
NEAR = 4096  # adapters that a replica's disk is taken to hold


class Shelf:
    """The adapters that were used last, `room` of them at most."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._held: OrderedDict[str, None] = OrderedDict()  # the longest unused first

    @property
    def held(self) -> KeysView[str]:
        """A view, which follows what happens."""
        return self._held.keys()

    def use(self, adapters: Iterable[str]) -> None:
        """They are used together now; what was unused for longest makes room. More than the room holds are kept while
        nothing else is used: a server that ran them must have had the room.
        """
        used = sorted(adapters)
        for one in used:
            self._held[one] = None
            self._held.move_to_end(one)
        while len(self._held) > max(self._room, len(used)):
            self._held.popitem(last=False)

    def limit(self, room: int) -> None:
        """The room is another than was thought."""
        self._room = room
        while len(self._held) > room:
            self._held.popitem(last=False)

    def clear(self) -> None:
        """Nothing is held."""
        self._held.clear()


class Residency:
    """What is believed of one replica."""

    def __init__(self, seats: int = SEATS, near: int = NEAR) -> None:
        self._banks: defaultdict[str, Shelf] = defaultdict(lambda: Shelf(seats))  # by bundle
        self._near = Shelf(near)

    def sent(self, wanted: Wanted) -> None:
        """The replica gets this request, and loads what it needs for it."""
        self._banks[wanted.bundle].use(wanted.adapters)
        self._near.use(wanted.adapters)

    def restarted(self) -> None:
        """Its banks are empty; its disk has what it had."""
        for bank in self._banks.values():
            bank.clear()

    def limit(self, bundle: str, seats: int) -> None:
        """So many adapters fit into this bundle's bank, as the server says."""
        self._banks[bundle].limit(seats)

    def seen(self, name: str, wanted: Wanted, under_way: int, is_ready: bool = True) -> Replica:
        """The replica as a request sees it."""
        return Replica(name, under_way, self._banks[wanted.bundle].held, self._near.held, is_ready)
