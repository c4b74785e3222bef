"""Where a request should go: to the replica that is likely to have it done first.

A replica costs a request its queue, and the loading of each adapter that it lacks. So requests go where their adapters
are until the queue there costs more than a load elsewhere: a hot adapter spreads over as many replicas as it keeps
busy. When it is calmer, its requests go home again, and the copies that nobody wears are evicted.

These are pure functions: no clock, no network, nothing is kept. What is known of replicas is kept by residency.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from hashlib import blake2b

NOTHING: frozenset[str] = frozenset()

# A load counts twice: for the request that waits for it, and for whoever wears what is evicted for it. Counted once,
# simulated fleets load a third more, and are hardly faster (tests/unit/gateway/test_fleet.py).
COUNTED = 2


@dataclass(frozen=True)
class Wanted:
    """What a request needs of a replica: a bundle, and all `adapters` that it wears, by digest or by name.

    `spread` is any text of the request's own: requests without adapters, which are at home anywhere, are spread by it.
    """

    bundle: str
    adapters: frozenset[str] = NOTHING
    spread: str = ""


@dataclass(frozen=True)
class Costs:
    """Seconds. `request_s` is what one request adds to the wait of the next; `write_s` is the loading of an adapter
    that lies on the replica's disk, or in its memory, and `fetch_s` of one that must come from the store.
    """

    request_s: float = 1.0
    write_s: float = 0.1
    fetch_s: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for costs that would send requests astray."""
        if not (self.request_s > 0 and 0 <= self.write_s <= self.fetch_s):
            fix = "request_s must be above 0, write_s at least 0, and fetch_s no less than write_s"
            raise ValueError(f"costs: {self} can't be; {fix}")


@dataclass(frozen=True)
class Replica:
    """What is known of a replica now, as far as a request for one bundle is concerned.

    `under_way` counts requests that it has and hasn't answered. `resident` are adapters in the bank of that bundle,
    `near` those on its disk or in its memory; sets, or views of dicts, which aren't copied. It may all be wrong: then a
    request takes longer, and that is all.
    """

    name: str
    under_way: int = 0
    resident: Set[str] = NOTHING
    near: Set[str] = NOTHING
    is_ready: bool = True


def cost_s(wanted: Wanted, replica: Replica, costs: Costs) -> float:
    """What the request would cost there, in seconds: the replica's queue, and the loading of what it lacks."""
    lacking = [one for one in wanted.adapters if one not in replica.resident]
    near = sum(one in replica.near for one in lacking)
    loading_s = near * costs.write_s + (len(lacking) - near) * costs.fetch_s
    return replica.under_way * costs.request_s + COUNTED * loading_s


def ranked(wanted: Wanted, replicas: Iterable[Replica], costs: Costs) -> list[Replica]:
    """The replicas, the best first; those that aren't ready come last.

    Where several are as good, the order follows from the set of adapters alone: all who route choose the same without
    a word between them, and sets are spread evenly. If a replica leaves, only what was at home there moves.
    """
    return sorted(
        replicas,
        key=lambda one: (not one.is_ready, cost_s(wanted, one, costs), -_affinity(wanted, one.name), one.name),
    )


def _affinity(wanted: Wanted, name: str) -> int:
    """How much a replica is a set's home, by rendezvous hashing: that with the highest value is."""
    worn = sorted(wanted.adapters) if wanted.adapters else ["", wanted.spread]
    said = "\0".join([wanted.bundle, *worn, name])
    return int.from_bytes(blake2b(said.encode(), digest_size=8).digest(), "big")
