"""Ray's request router by the gateway's policy, without Ray's processes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from impasto_deploy.ray.request import Routed
from impasto_deploy.ray.router import AdapterRouter
from impasto_gateway.routing import Wanted

NAMES = ("one", "other", "third")
DEPLOYMENT = DeploymentID(name="replica", app_name="impasto")


def replica(name: str, **stats: Any) -> Any:
    async def queue_len(*, deadline_s: float) -> int:
        return 0

    return SimpleNamespace(
        replica_id=ReplicaID(unique_id=name, deployment_id=DEPLOYMENT),
        routing_stats=stats,
        max_ongoing_requests=64,
        get_queue_len=queue_len,
    )


def asking(*adapters: str, avoided: tuple[str, ...] = ()) -> PendingRequest:
    metadata = RequestMetadata(request_id="r", internal_request_id="i")
    return PendingRequest(
        args=[Routed(Wanted("", frozenset(adapters)), frozenset(avoided))], kwargs={}, metadata=metadata
    )


class Fleet:
    """A router and its replicas."""

    def __init__(self, **costs: float) -> None:
        self.router = AdapterRouter(DEPLOYMENT, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
        self.router.initialize_state(**costs)
        self.told()

    def told(self, **stats: dict[str, Any]) -> None:
        """The replicas as they are now, with what they say of themselves."""
        self.replicas = [replica(name, **stats.get(name, {})) for name in NAMES]
        self.router.update_replicas(self.replicas)

    def queue(self, name: str, count: int) -> None:
        self.router.on_new_queue_len_info(ReplicaID(unique_id=name, deployment_id=DEPLOYMENT), count)

    async def order(self, request: PendingRequest | None) -> list[str]:
        ranks = await self.router.choose_replicas(self.replicas, request)
        assert all(len(rank) == 1 for rank in ranks)
        return [one.replica_id.unique_id for (one,) in ranks]

    async def send(self, *adapters: str) -> str:
        """Where a request goes; the replica then has its adapters."""
        request = asking(*adapters)
        first = (await self.order(request))[0]
        self.router.on_request_routed(request, ReplicaID(unique_id=first, deployment_id=DEPLOYMENT), None)
        return first


def test_adapters_stay_home() -> None:
    async def main() -> None:
        fleet = Fleet()
        home = {name: await fleet.send(name) for name in "abcdefgh"}
        assert len(set(home.values())) > 1
        for _ in range(2):
            assert {name: await fleet.send(name) for name in home} == home

    asyncio.run(main())


def test_a_set_goes_where_most_of_it_is() -> None:
    async def main() -> None:
        fleet = Fleet()
        home = await fleet.send("a", "b", "c")
        assert await fleet.send("c", "b", "a", "d") == home

    asyncio.run(main())


def test_a_hot_adapter_spills_over_and_comes_home() -> None:
    async def main() -> None:
        fleet = Fleet(request_s=1.0, write_s=0.1, fetch_s=2.5)
        home = await fleet.send("hot")
        fleet.queue(home, 2)
        assert await fleet.send("hot") == home  # two before it take less than fetching it elsewhere
        fleet.queue(home, 9)
        second = await fleet.send("hot")
        assert second != home
        fleet.queue(home, 0)
        fleet.queue(second, 1)
        assert await fleet.send("hot") == home

    asyncio.run(main())


def test_a_replica_that_is_not_ready_comes_last() -> None:
    async def main() -> None:
        fleet = Fleet()
        home = await fleet.send("a")
        fleet.told(**{home: {"ready": False, "emptied": 0}})
        assert (await fleet.order(asking("a")))[-1] == home
        fleet.told(**{home: {"ready": True, "emptied": 0}})
        assert (await fleet.order(asking("a")))[0] == home

    asyncio.run(main())


def test_a_replica_that_just_lost_a_request_comes_last() -> None:
    async def main() -> None:
        fleet = Fleet()
        home = await fleet.send("a")
        assert (await fleet.order(asking("a", avoided=(home,))))[-1] == home

    asyncio.run(main())


def test_a_restarted_server_has_its_adapters_no_more() -> None:
    async def main() -> None:
        fleet = Fleet(request_s=1.0, write_s=1.5, fetch_s=9.0)
        home = await fleet.send("a")
        other = next(name for name in NAMES if name != home)
        fleet.queue(home, 9)
        for one in NAMES:  # a second home
            fleet.queue(one, 0 if one == other else 20)
        assert await fleet.send("a") == other
        fleet.told(**{home: {"ready": True, "emptied": 1}})
        fleet.queue(home, 0)
        fleet.queue(other, 1)
        assert (await fleet.order(asking("a")))[0] == other  # waiting for one is shorter than loading again

    asyncio.run(main())


def test_what_another_gateway_has_sent_counts() -> None:
    async def main() -> None:
        fleet = Fleet()
        first, *_, last = await fleet.order(asking("a"))
        fleet.told(**{last: {"emptied": 0, "held": {"": ["a"]}}})
        assert (await fleet.order(asking("a")))[0] == last != first
        assert await fleet.send("a") == last

    asyncio.run(main())


def test_a_replica_that_left_is_forgotten() -> None:
    async def main() -> None:
        fleet = Fleet()
        request = asking("a")
        fleet.replicas = fleet.replicas[1:]
        fleet.router.update_replicas(fleet.replicas)
        fleet.router.on_request_routed(request, ReplicaID(unique_id=NAMES[0], deployment_id=DEPLOYMENT), None)
        assert set(await fleet.order(request)) == set(NAMES[1:])

    asyncio.run(main())


def test_calls_that_say_nothing_go_anywhere() -> None:
    async def main() -> None:
        fleet = Fleet()
        assert sorted(await fleet.order(None)) == sorted(NAMES)
        strange = PendingRequest(args=["x"], kwargs={}, metadata=asking().metadata)
        assert sorted(await fleet.order(strange)) == sorted(NAMES)

    asyncio.run(main())
