"""How many replicas there should be, by how long requests are held up by others at their server."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

from impasto_deploy.ray.replica import QUEUE_DELAY_S

MOST = 2.0  # times as many replicas at once: beyond, the measured delay says little
CALM = 0.25  # of the target; below it, a replica that isn't needed may go


class QueueDelay:
    """Ray's autoscaling policy. Ray itself keeps the bounds, and waits until a wish has lasted."""

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The replicas wanted, and no state."""
        running = context.current_num_replicas
        if not running:
            return context.target_num_replicas, {}
        told = (context.aggregated_metrics or {}).get(QUEUE_DELAY_S, {})
        delay_s = sum(told.values()) / len(told) if told else 0.0
        return wanted(running, delay_s, float(context.total_num_requests), self._target_s), {}


def wanted(running: int, delay_s: float, requests: float, target_s: float) -> float:
    """Replicas for this mean delay. `requests` are under way; with fewer than there would be replicas left, one may go.

    That some are under way says nothing, since a replica works on many at once; how long they hold up one another does.
    """
    if delay_s > target_s:
        return running * min(delay_s / target_s, MOST)
    if delay_s < CALM * target_s and requests < running - 1:
        return running - 1
    return running
