"""The pipelines' metrics on Triton's metrics endpoint, as impasto_<name>{bundle="<bundle>"}."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from threading import Event, Thread
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.ops.guardian import RESTARTED
from impasto_server.stats import (
    BUCKETS,
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    INFO,
    INFO_HELP,
    REASONS,
    RESTARTS,
    RESTARTS_HELP,
    Stats,
)
from impasto_server.wearers import Wearers

PERIOD_S = 0.5


class Metrics:
    """Copies `stats` and `wearers`, by bundle, to Triton twice a second, and once more when closed."""

    def __init__(self, stats: Mapping[str, Stats], wearers: Mapping[str, Wearers]) -> None:
        self._stats = stats
        kinds = pb_utils.MetricFamily
        # A metric works only while its family is referenced.
        self._families = {
            **{name: _family(name, text, kinds.COUNTER) for name, text in COUNTERS.items()},
            **{name: _family(name, text, kinds.GAUGE) for name, text in GAUGES.items()},
            **{name: _family(name, text, kinds.HISTOGRAM) for name, text in HISTOGRAMS.items()},
        }
        self._metrics = {(bundle, name): self._metric(bundle, name) for bundle in stats for name in self._families}
        self._told = {(bundle, name): 0.0 for bundle in stats for name in COUNTERS}
        self._worn = Worn(wearers)
        self._restarts = _restarts(json.loads(os.environ.get(RESTARTED, "{}")))
        self._closing = Event()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._tell()

    def _metric(self, bundle: str, name: str) -> Any:
        buckets = {"buckets": list(BUCKETS)} if name in HISTOGRAMS else {}
        return self._families[name].Metric(labels={"bundle": bundle}, **buckets)

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_S):
            self._tell()

    def _tell(self) -> None:
        for bundle, stats in self._stats.items():
            for name, value in stats.read().items():
                if name in GAUGES:
                    self._metrics[bundle, name].set(value)
                elif value > self._told[bundle, name]:
                    self._metrics[bundle, name].increment(value - self._told[bundle, name])
                    self._told[bundle, name] = value
            for name, value in stats.observed():
                self._metrics[bundle, name].observe(value)
        self._worn.tell()


class Worn:
    """The adapters of requests under way, as labels of metrics that are replaced when they change.

    A family keeps its metrics for as long as it lives itself, so it is replaced along with them.
    """

    def __init__(self, wearers: Mapping[str, Wearers]) -> None:
        self._wearers = wearers
        self._labels: list[dict[str, str]] = []
        self._family: Any = None
        self._metrics: list[Any] = []

    def tell(self) -> None:
        labels = [_labels(bundle, wearers) for bundle, wearers in self._wearers.items()]
        if labels != self._labels:
            self._labels, self._metrics, self._family = labels, [], None
            self._family = _family(INFO, INFO_HELP, pb_utils.MetricFamily.GAUGE)
            self._metrics = [self._family.Metric(labels=one) for one in labels]
        for metric in self._metrics:
            metric.set(time.time())


def _labels(bundle: str, wearers: Wearers) -> dict[str, str]:
    now = wearers.read()
    return {
        "bundle": bundle,
        "running_lora_adapters": ",".join(now.running),
        "waiting_lora_adapters": ",".join(now.waiting),
        "max_lora": str(wearers.most),
    }


def _restarts(counts: Mapping[str, int]) -> list[Any]:
    """How often the server was restarted before this process was started; it stays so."""
    family = _family(RESTARTS, RESTARTS_HELP, pb_utils.MetricFamily.COUNTER)
    metrics = {reason: family.Metric(labels={"reason": reason}) for reason in REASONS}
    for reason, metric in metrics.items():
        metric.increment(counts.get(reason, 0))
    return [family, *metrics.values()]


def _family(name: str, text: str, kind: Any) -> Any:
    return pb_utils.MetricFamily(name=f"impasto_{name}", description=text, kind=kind)
