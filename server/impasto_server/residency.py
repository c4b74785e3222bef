"""From the adapters a request names to weights in host memory: registry → loader thread → least-recently-used cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from impasto_server.adapters import FIELD, Embedding, Patch, Registry
from impasto_server.bundle import Manifest
from impasto_server.cache import BytesLru
from impasto_server.stats import Stats

LOADING_THREADS = 2

Kind = Patch | Embedding
Loading = Mapping[str, Future[Kind]]


@dataclass(frozen=True)
class Style:
    """One adapter of a request, its name resolved at admission: re-pointing the name later changes nothing here.

    `field` is the request's where it is named; an embedding has the weight 1.
    """

    name: str
    digest: str
    weight: float = 1.0
    field: str = FIELD


class Residency:
    """Loads each adapter once however many requests wait for it, on threads of its own."""

    def __init__(self, registry: Registry, manifest: Manifest, host_bytes: int, stats: Stats) -> None:
        self._stats = stats
        self._registry = registry
        self._manifest = manifest
        self._host: BytesLru[str, Kind] = BytesLru(host_bytes)
        self._loading: dict[str, Future[Kind]] = {}
        self._lock = Lock()
        self._loaders = ThreadPoolExecutor(LOADING_THREADS, "load")

    def resolve(self, name: str, weight: float = 1.0, field: str = FIELD) -> Style:
        """Name → digest as it stands now. Raises NotFound."""
        return Style(name, self._registry.resolve(name, field), weight, field)

    def load(self, styles: Sequence[Style]) -> Loading:
        """What becomes of every adapter, by digest; at once for those in host memory.

        A Future fails with what Registry.load raises. It holds its adapter also when the cache lets go of it.
        """
        return {style.digest: self._one(style) for style in styles if style.weight}

    def close(self) -> None:
        self._loaders.shutdown()

    def _one(self, style: Style) -> Future[Kind]:
        with self._lock:
            adapter = self._host.get(style.digest)
            if adapter is not None:
                self._stats.add("adapter_hits")
                here: Future[Kind] = Future()
                here.set_result(adapter)
                return here
            if style.digest not in self._loading:
                self._loading[style.digest] = self._loaders.submit(self._fetch, style)
            return self._loading[style.digest]

    def _fetch(self, style: Style) -> Kind:
        """A failure isn't remembered beyond those who wait for this very attempt."""
        try:
            adapter = self._registry.load(style.digest, style.name, self._manifest)
        except Exception:
            with self._lock:
                del self._loading[style.digest]
            raise
        self._stats.add("adapter_loads")
        with self._lock:
            self._host.put(style.digest, adapter, adapter.nbytes)
            self._stats.set("adapter_bytes", self._host.nbytes)
            del self._loading[style.digest]
        return adapter
