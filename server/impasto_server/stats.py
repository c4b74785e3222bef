"""A pipeline's counters, gauges and histograms; triton/metrics.py reports them."""

from __future__ import annotations

from collections import deque
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
    "adapter_fetches": "Adapters that had to be fetched from the registry's store first",
    "adapter_stale_names": "Names used as they were last known, since the registry's store did not answer",
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
# Of requests that were answered with a picture.
HISTOGRAMS: Mapping[str, str] = {
    "request_queue_seconds": "Seconds in which nothing was done for a request until its first step",
    "time_to_first_step_seconds": "Seconds from a request's arrival to the end of its first step",
    "e2e_seconds": "Seconds from a request's arrival to its encoded pictures",
}
INFO = "lora_requests_info"  # a gauge, as vLLM shapes it: its labels inform, its value is the time
INFO_HELP = "Adapters of requests under way, in labels; the value is the Unix time"

# Upper bounds in seconds: from a photo on a GPU to a large picture on a CPU.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
UNREAD = 1 << 16  # observations that wait for their reader; nobody reads them where a pipeline runs without Triton


class Stats:
    """Counters that only grow, gauges, and observations for histograms; thread-safe."""

    def __init__(self) -> None:
        self._values = dict.fromkeys([*COUNTERS, *GAUGES], 0.0)
        self._seen: deque[tuple[str, float]] = deque(maxlen=UNREAD)
        self._lock = Lock()

    def add(self, name: str, amount: float = 1) -> None:
        with self._lock:
            self._values[name] += amount

    def set(self, name: str, value: float) -> None:
        with self._lock:
            self._values[name] = value

    def observe(self, name: str, value: float) -> None:
        self._seen.append((name, value))

    def observed(self) -> list[tuple[str, float]]:
        """Each observation since the last call, oldest first, by the histogram's name; for one reader."""
        return [self._seen.popleft() for _ in range(len(self._seen))]

    def read(self) -> dict[str, float]:
        """All counters and gauges, read at one moment."""
        with self._lock:
            return dict(self._values)
