"""The application: gateways that speak HTTP, and behind them replicas, each with a server of its own.

    serve run impasto_deploy.ray.app:build bundle=DIR registry=DIR replicas=2

HTTP ──► Gateway (impasto_gateway's app) ──► AdapterRouter ──► Replica ──gRPC──► impasto serve
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from impasto_deploy.ray.gateway import Gateway
from impasto_deploy.ray.options import Options
from impasto_deploy.ray.replica import ENDING_S, Replica, ReplicaSettings
from impasto_deploy.ray.router import AdapterRouter
from impasto_deploy.ray.scaling import QueueDelay
from impasto_gateway.commands import check_settings
from impasto_gateway.settings import GatewaySettings, Limits

TOLD_S = 1.0  # how often a replica says whether it is ready, and Ray looks whether it lives
SLACK_S = 15.0  # for Ray itself, when a replica stops
QUIET = {"enable_access_log": False}  # the gateway has a line for each request, with more in it


def build(said: Mapping[str, Any]) -> Application:
    """The application, by `said`, options by name. Raises BadOption, and BadSettings or BadKey for keys."""
    options = Options.of(said)
    settings = gateway_settings(options)
    check_settings(settings)
    gateway = serve.deployment(name="gateway", **gateway_limits(options))(Gateway)
    replica = serve.deployment(name="replica", **replica_limits(options))(Replica)
    return gateway.bind(replica.bind(replica_settings(options)), settings)


def replica_settings(options: Options) -> ReplicaSettings:
    """What each replica is started with; another value replaces the replicas."""
    return ReplicaSettings(
        options.serving, options.threads, options.pin, options.start_s, options.grace_s, options.version
    )


def gateway_settings(options: Options) -> GatewaySettings:
    """The gateways' settings; Ray's proxy has the port."""
    keys = Path(options.keys).resolve() if options.keys else None
    return GatewaySettings(
        urls=("ray",), keys=keys, metadata=options.metadata, grace_s=options.grace_s,
        limits=Limits(timeout_s=options.timeout_s),
    )  # fmt: skip


def replica_limits(options: Options) -> dict[str, Any]:
    """How Ray runs the replicas, and routes to them."""
    scaled = options.max_replicas > 0
    return {
        **({"autoscaling_config": scaling(options)} if scaled else {"num_replicas": options.replicas}),
        "ray_actor_options": {"num_cpus": options.threads, "num_gpus": options.gpus},
        "max_ongoing_requests": options.requests,
        "max_queued_requests": options.queued,
        "graceful_shutdown_timeout_s": options.grace_s + ENDING_S + SLACK_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": TOLD_S,
        "max_surge_percent": options.surge,
        "logging_config": QUIET,
        "max_constructor_retry_count": 2,
        "request_router_config": routing(options),
    }


def routing(options: Options) -> RequestRouterConfig:
    """By adapters, with these costs."""
    costs = {"request_s": options.request_s, "write_s": options.write_s, "fetch_s": options.fetch_s}
    told: dict[str, Any] = {"request_router_class": AdapterRouter, "request_routing_stats_period_s": TOLD_S}
    return RequestRouterConfig(**told, request_router_kwargs=costs)


def gateway_limits(options: Options) -> dict[str, Any]:
    """How Ray runs the gateways: they wait, so they need no core of their own, and admit what the replicas do."""
    return {
        "num_replicas": options.gateways,
        "ray_actor_options": {"num_cpus": 0},
        "max_ongoing_requests": 10_000,
        "graceful_shutdown_timeout_s": options.grace_s + SLACK_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "max_surge_percent": 100,
        "logging_config": QUIET,
    }


def scaling(options: Options) -> AutoscalingConfig:
    """Between replicas and max_replicas, by how long requests wait."""
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]
        policy_function=QueueDelay, policy_kwargs={"target_s": options.queue_delay_s}
    )
    return AutoscalingConfig(
        min_replicas=options.replicas,
        initial_replicas=options.replicas,
        max_replicas=options.max_replicas,
        upscale_delay_s=options.upscale_s,
        downscale_delay_s=options.downscale_s,
        policy=policy,
    )
