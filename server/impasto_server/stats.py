"""A pipeline's counters and gauges; triton/metrics.py reports them."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

COUNTERS: Mapping[str, str] = {
    "steps": "Forward passes of the backbone",
    "lanes": "Rows of those passes; lanes divided by steps is the mean batch",
    "done": "Requests answered with a picture",
    "refused": "Requests refused as invalid",
    "cancelled": "Requests whose caller cancelled or went away",
    "expired": "Requests whose timeout passed before their picture was done",
    "rejected": "Requests turned away because the server was full",
    "failed": "Requests on which the server itself failed",
    "queue_seconds": "Seconds that requests waited for preparation and for their first step",
    "join_seconds": "Seconds from being prepared to the first step",
    "adapter_hits": "Adapters found in host memory",
    "adapter_loads": "Adapters read from the registry",
    "bank_hits": "Adapters found in the adapter bank",
    "bank_writes": "Adapters written into the adapter bank",
    "bank_written_bytes": "Bytes of the pages written",
    "bank_evictions": "Idle adapters evicted from the adapter bank to make room for others",
    "mix_pinned": "Mixes that ran on weights of their own, which they are merged into",
}
GAUGES: Mapping[str, str] = {
    "requests": "Requests under way",
    "adapter_bytes": "Bytes of adapters in host memory",
    "bank_bytes": "Bytes that the adapter bank may grow to",
}


class Stats:
    """Counters that only grow, and gauges; thread-safe."""

    def __init__(self) -> None:
        self._values = dict.fromkeys([*COUNTERS, *GAUGES], 0.0)
        self._lock = Lock()

    def add(self, name: str, amount: float = 1) -> None:
        with self._lock:
            self._values[name] += amount

    def set(self, name: str, value: float) -> None:
        with self._lock:
            self._values[name] = value

    def read(self) -> dict[str, float]:
        """All values, read at one moment."""
        with self._lock:
            return dict(self._values)
