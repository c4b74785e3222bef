"""A bundle's graphs, compiled on request."""

from __future__ import annotations

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.adapters.bank import Bank
from impasto_server.bundle import Bundle
from impasto_server.engines.engine import Engine, compile_graph
from impasto_server.engines.runtime import Runtime
from impasto_server.settings import Precision


class Graphs:
    """The graphs of a bundle; all read their adapters from one bank."""

    def __init__(self, bundle: Bundle, runtime: Runtime, bank: Bank) -> None:
        self._bundle = bundle
        self._runtime = runtime
        self._bank = bank

    def compiled(self, graph: str) -> AdaptedEngine:
        """The graph on the bundle's own weights."""
        return AdaptedEngine(self._bundle, graph, self._runtime, self._bank)

    def every(self, graph: str) -> tuple[AdaptedEngine, ...]:
        """The graph on the bundle's own weights, then on those of each pinned mix, which may leave it unchanged."""
        own = self.compiled(graph)
        mixes = enumerate(self._bundle.manifest.pinned, 1)
        return own, *(self._pinned(graph, number) if graph in mix.graphs else own for number, mix in mixes)

    def opened(self, file: str) -> Engine:
        """A graph file that isn't among the manifest's graphs and reads no adapters. Raises SetupError."""
        return compile_graph(self._bundle.folder / file, self._runtime)

    @property
    def precision(self) -> Precision:
        """The precision that the graphs compute in."""
        return self._runtime.precision

    def _pinned(self, graph: str, number: int) -> AdaptedEngine:
        return AdaptedEngine(self._bundle, graph, self._runtime, self._bank, number)
