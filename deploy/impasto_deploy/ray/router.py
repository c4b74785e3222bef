"""Ray's request router by the gateway's policy: a request goes where its set of adapters is, unless that costs more.

Each handle has a router of its own. It knows at once what it has sent where itself. Each second replicas say whether
their servers are ready, whether these were lost, and what others have sent them (`record_routing_stats`). The policy is
impasto_gateway/routing.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from impasto_deploy.ray.request import Routed
from impasto_gateway.residency import Residency
from impasto_gateway.routing import Costs, Replica, Wanted, ranked

ANYTHING = Routed(Wanted(""))


class AdapterRouter(RequestRouter):
    """Ray makes one for each handle; `request_router_kwargs` are those of Costs."""

    def initialize_state(self, **kwargs: float) -> None:
        """Ray calls it once, with `request_router_kwargs`. Raises ValueError for costs that can't be."""
        self._costs = Costs(**kwargs)
        self._believed: dict[ReplicaID, Believed] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Ray calls it whenever there are others, or they tell something new."""
        self._believed = {one.replica_id: self._believed.get(one.replica_id) or Believed() for one in replicas}
        for one in replicas:
            self._believed[one.replica_id].told(one.routing_stats)
        super().update_replicas(replicas)

    async def choose_replicas(
        self, candidate_replicas: Sequence[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All of them, the best first, each in a rank of its own: Ray takes the first that has room."""
        routed = routed_of(pending_request)
        named = {one.replica_id.unique_id: one for one in candidate_replicas}
        seen = [self._seen(one, routed) for one in candidate_replicas]
        return [[named[one.name]] for one in ranked(routed.wanted, seen, self._costs)]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Ray calls it when a replica has taken a request: it loads what the request wears."""
        if replica_id in self._believed:
            self._believed[replica_id].residency.sent(routed_of(pending_request).wanted)

    def _seen(self, replica: RunningReplica, routed: Routed) -> Replica:
        believed, name = self._believed[replica.replica_id], replica.replica_id.unique_id
        under_way = self.replica_queue_len_cache.get(replica.replica_id) or 0
        is_ready = believed.is_ready and name not in routed.avoided
        return believed.residency.seen(name, routed.wanted, under_way, is_ready)


class Believed:
    """What a router believes of a replica."""

    def __init__(self) -> None:
        self.residency = Residency()
        self.is_ready = True
        self._emptied = 0

    def told(self, stats: dict[str, Any]) -> None:
        """What the replica last said of itself; nothing at first."""
        self.is_ready = bool(stats.get("ready", True))
        emptied = int(stats.get("emptied", 0))
        if emptied != self._emptied:
            self._emptied = emptied
            self.residency.restarted()
        for bundle, names in stats.get("held", {}).items():
            held = self.residency.seen("", Wanted(bundle), 0).resident
            if news := frozenset(names) - held:  # what is known is in order of use, which must stay
                self.residency.sent(Wanted(bundle, news))


def routed_of(request: PendingRequest | None) -> Routed:
    """What HandleTransport put before a call's arguments."""
    first = request.args[0] if request is not None and request.args else None
    return first if isinstance(first, Routed) else ANYTHING
