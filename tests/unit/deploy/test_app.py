"""What the application is made of, before Ray runs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from ray.serve import Application

from impasto_client import AsyncClient, AsyncFakeTransport
from impasto_deploy.ray import gateway as module
from impasto_deploy.ray.app import build, gateway_settings, replica_limits, replica_settings
from impasto_deploy.ray.options import BadOption, Options
from impasto_deploy.ray.router import AdapterRouter
from impasto_deploy.ray.scaling import QueueDelay
from impasto_gateway.keyring import BadKey

LEAST = {"bundle": "/bundle", "registry": "/registry"}


def test_it_is_an_application() -> None:
    assert isinstance(build({**LEAST, "replicas": "2"}), Application)


def test_bad_options_and_missing_keys_are_refused_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(BadOption):
        build({})
    with pytest.raises((BadKey, OSError)):
        build({**LEAST, "keys": str(tmp_path / "none")})


def test_a_fixed_number_of_replicas() -> None:
    limits = replica_limits(Options.of({**LEAST, "replicas": 3, "threads": 2, "requests": 8, "write_s": 0.5}))
    assert limits["num_replicas"] == 3
    assert limits["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0}
    assert limits["max_ongoing_requests"] == 8
    routing = limits["request_router_config"]
    assert routing.get_request_router_class() is AdapterRouter
    assert routing.request_router_kwargs == {"request_s": 1.0, "write_s": 0.5, "fetch_s": 1.0}


def test_a_number_that_follows_the_load() -> None:
    limits = replica_limits(Options.of({**LEAST, "replicas": 2, "max_replicas": 6, "queue_delay_s": 3}))
    scaling = limits["autoscaling_config"]
    assert "num_replicas" not in limits
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 6)
    assert scaling.policy.policy_kwargs == {"target_s": 3.0}
    assert scaling.policy.get_policy() is QueueDelay


def test_another_version_is_another_replica() -> None:
    one, other = (replica_settings(Options.of({**LEAST, "version": version})) for version in "12")
    assert one != other


def test_a_request_may_outlast_the_grace_before_ray_kills() -> None:
    options = Options.of({**LEAST, "grace_s": 60})
    assert replica_limits(options)["graceful_shutdown_timeout_s"] > 60
    assert replica_settings(options).grace_s == 60


def test_the_gateway_is_the_gateways_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HandleTransport", lambda handle: AsyncFakeTransport())
    app = module.app_over(None, gateway_settings(Options.of(LEAST)))

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as caller:
            answer = await caller.post("/v1/images/generations", json={"prompt": "a boat"})
            assert answer.status_code == 200, answer.text

    asyncio.run(main())


def test_one_replica_that_is_lost_does_not_make_the_others_unready() -> None:
    async def main() -> None:
        client = AsyncClient(transport=AsyncFakeTransport())
        fleet = module.Fleet("ray", lambda: client)
        assert await fleet.is_ready()
        fleet.lost()
        assert await fleet.is_ready()

    asyncio.run(main())
