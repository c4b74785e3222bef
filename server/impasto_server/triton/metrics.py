"""The pipelines' counters on Triton's metrics endpoint, as impasto_<name>{bundle="<bundle>"}."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Event, Thread
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.stats import COUNTERS, GAUGES, Stats

PERIOD_S = 0.5


class Metrics:
    """Copies `stats`, by bundle, to Triton twice a second, and once more when closed."""

    def __init__(self, stats: Mapping[str, Stats]) -> None:
        self._stats = stats
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        # A metric works only while its family is referenced.
        self._families = {
            **{name: _family(name, text, counter) for name, text in COUNTERS.items()},
            **{name: _family(name, text, gauge) for name, text in GAUGES.items()},
        }
        self._metrics = {
            (bundle, name): family.Metric(labels={"bundle": bundle})
            for bundle in stats
            for name, family in self._families.items()
        }
        self._told = {(bundle, name): 0.0 for bundle in stats for name in COUNTERS}
        self._closing = Event()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._tell()

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


def _family(name: str, text: str, kind: Any) -> Any:
    return pb_utils.MetricFamily(name=f"impasto_{name}", description=text, kind=kind)
