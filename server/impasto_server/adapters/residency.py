"""From the adapters a request names to weights in host memory: registry → its threads → least-recently-used cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Lock

from impasto_server.adapters.access import Access, Attempt
from impasto_server.adapters.adapter import FIELD, Embedding, Patch
from impasto_server.adapters.registry import Registry
from impasto_server.bundle import Manifest
from impasto_server.cache import BytesLru
from impasto_server.errors import NoAnswer, shown
from impasto_server.stats import Stats

Kind = Patch | Embedding
Loading = Mapping[str, Future[Kind]]


@dataclass(frozen=True)
class Named:
    """One adapter of a request, its name resolved at admission: re-pointing the name later changes nothing here.

    `field` is the request's where it is named; an embedding has the weight 1.
    """

    name: str
    digest: str
    weight: float = 1.0
    field: str = FIELD


class Residency:
    """Loads each adapter once however many requests wait for it. Names are looked up on other threads than files."""

    def __init__(self, registry: Registry, manifest: Manifest, host_bytes: int, stats: Stats) -> None:
        self._stats = stats
        self._registry = registry
        self._manifest = manifest
        self._host: BytesLru[str, Kind] = BytesLru(host_bytes)
        self._loading: dict[str, Future[Kind]] = {}
        self._lock = Lock()
        self._names = Access("names")
        self._files = Access("load")

    def resolve(self, name: str) -> Future[str]:
        """The digest that `name` stands for now. Fails as Registry.resolve, or with NoAnswer."""
        return self._names.start(name, partial(self._registry.resolve, name), partial(_unanswered, name))

    def load(self, styles: Sequence[Named]) -> Loading:
        """What becomes of every adapter, by digest; at once for those in host memory.

        A Future fails with what Registry.load raises, or with NoAnswer. It holds its adapter also when the cache lets
        go of it.
        """
        return {style.digest: self._one(style) for style in styles if style.weight}

    def close(self) -> None:
        self._names.close()
        self._files.close()

    def _one(self, style: Named) -> Future[Kind]:
        with self._lock:
            adapter = self._host.get(style.digest)
            if adapter is not None:
                self._stats.add("adapter_hits")
                here: Future[Kind] = Future()
                here.set_result(adapter)
                return here
            known = self._loading.get(style.digest)
            if known is not None and not known.done():
                return known
            loading = self._files.start(style.digest, partial(self._fetch, style), partial(_unanswered, style.name))
            self._loading[style.digest] = loading
        loading.add_done_callback(partial(self._forget, style.digest))
        return loading

    def _fetch(self, style: Named, attempt: Attempt) -> Kind:
        """It's kept also when it came too late for those who waited for it."""
        adapter = self._registry.load(style.digest, style.name, self._manifest, attempt)
        self._stats.add("adapter_loads")
        with self._lock:
            self._host.put(style.digest, adapter, adapter.nbytes)
            self._stats.set("adapter_bytes", self._host.nbytes)
        return adapter

    def _forget(self, digest: str, loading: Future[Kind]) -> None:
        """Neither what it came to nor a failure is remembered here beyond those who wait for this very attempt."""
        with self._lock:
            if self._loading.get(digest) is loading:
                del self._loading[digest]


def _unanswered(name: str, why: str) -> NoAnswer:
    return NoAnswer(FIELD, f"adapter {shown(name)}: {why}", "try again later, or name no adapter")
