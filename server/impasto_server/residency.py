"""From the adapters a request names to one row of the bank: registry → host memory → slot."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

from impasto_server.adapters import Adapter, Registry
from impasto_server.bank import Bank
from impasto_server.bundle import Manifest
from impasto_server.cache import BytesLru
from impasto_server.guidance import Mix
from impasto_server.stats import Stats


@dataclass(frozen=True)
class Style:
    """One adapter of a request, its name resolved at admission: re-pointing the name later changes nothing here."""

    name: str
    digest: str
    weight: float


@dataclass(frozen=True)
class Pinned:
    """A mix that stays in row `slot` of the bank until it's unpinned; `graphs` are those it changes."""

    mix: Mix
    slot: int
    graphs: frozenset[str]


class Residency:
    """Loads each adapter once however many requests wait for it, and pins mixes into the bank."""

    def __init__(self, registry: Registry, manifest: Manifest, bank: Bank, host_bytes: int, stats: Stats) -> None:
        self._stats = stats
        self._registry = registry
        self._manifest = manifest
        self._bank = bank
        self._host: BytesLru[str, Adapter] = BytesLru(host_bytes)
        self._loading: dict[str, Future[Adapter]] = {}
        self._lock = Lock()

    def resolve(self, adapters: Sequence[tuple[str, float]]) -> tuple[Style, ...]:
        """Names → digests as they stand now. Raises NotFound."""
        return tuple(Style(name, self._registry.resolve(name), weight) for name, weight in adapters)

    def pin(self, styles: Sequence[Style]) -> Pinned:
        """Load what isn't loaded, mix, and hold the row. Raises what Registry.load and Bank.pin raise."""
        mix = Mix.of([(style.digest, style.weight) for style in styles])
        names = {style.digest: style.name for style in styles}
        adapters = [self._load(digest, names[digest]) for digest, _ in mix.parts]
        graphs = frozenset(graph for adapter in adapters for graph in adapter.factors)
        return Pinned(mix, self._bank.pin(mix, adapters), graphs)

    def unpin(self, pinned: Pinned) -> None:
        self._bank.unpin(pinned.slot)

    def _load(self, digest: str, name: str) -> Adapter:
        with self._lock:
            adapter = self._host.get(digest)
            if adapter is not None:
                self._stats.add("adapter_hits")
                return adapter
            loading = self._loading.get(digest)
            mine = loading is None
            if loading is None:
                loading = self._loading[digest] = Future()
        if mine:
            self._fetch(digest, name, loading)
        return loading.result()

    def _fetch(self, digest: str, name: str, loading: Future[Adapter]) -> None:
        """Resolve `loading` for everyone who waits on it; a failure isn't remembered beyond them."""
        try:
            adapter = self._registry.load(digest, name, self._manifest)
        except Exception as error:
            with self._lock:
                del self._loading[digest]
            loading.set_exception(error)
            return
        self._stats.add("adapter_loads")
        with self._lock:
            self._host.put(digest, adapter, adapter.nbytes)
            self._stats.set("adapter_bytes", self._host.nbytes)
            del self._loading[digest]
        loading.set_result(adapter)
