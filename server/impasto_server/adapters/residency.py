"""Adapters in host memory: read from the registry on threads of their own, kept in a least-recently-used cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Lock

from impasto_server.adapters.access import Access, Attempt
from impasto_server.adapters.adapter import FIELD, Embedding, Patch
from impasto_server.adapters.registry import Pointed, Registry
from impasto_server.bundle import Manifest
from impasto_server.cache import BytesLru
from impasto_server.errors import NoAnswer, shown
from impasto_server.stats import Stats

Kind = Patch | Embedding
Loading = Mapping[str, Future[Kind]]


@dataclass(frozen=True)
class Named:
    """One adapter of a request. Its name is resolved at admission, so re-pointing the name later changes nothing here.

    `field` is the request's field that names it; an embedding has the weight 1. `stale_s`: see Pointed.
    """

    name: str
    digest: str
    weight: float = 1.0
    field: str = FIELD
    stale_s: float = 0.0


class Residency:
    """Loads each adapter once, however many requests wait for it. Names and files are read on different threads, and
    those that another machine must be asked for on others still: whoever waits for it is in nobody's way.
    """

    def __init__(self, registry: Registry, manifest: Manifest, host_bytes: int, stats: Stats) -> None:
        self._stats = stats
        self._registry = registry
        self._manifest = manifest
        self._host: BytesLru[str, Kind] = BytesLru(host_bytes)
        self._loading: dict[str, Future[Kind]] = {}
        self._lock = Lock()
        self._names, self._new_names = Access("names"), Access("new-names")
        self._files, self._far_files = Access("load"), Access("fetch")

    def resolve(self, name: str) -> Future[Pointed]:
        """What `name` points to now. The Future fails as Registry.look_up, or with NoAnswer."""
        access = self._names if self._registry.knows(name) else self._new_names
        return access.start(name, partial(self._look_up, name), partial(_unanswered, name))

    def load(self, styles: Sequence[Named]) -> Loading:
        """A Future for each adapter, by digest; already done for those in host memory.

        It fails as Registry.load, or with NoAnswer. It keeps its adapter even when the cache drops it.
        """
        return {style.digest: self._one(style) for style in styles if style.weight}

    def close(self) -> None:
        for access in (self._names, self._new_names, self._files, self._far_files):
            access.close()

    def _look_up(self, name: str, attempt: Attempt) -> Pointed:
        pointed = self._registry.look_up(name, attempt)
        if pointed.stale_s:
            self._stats.add("adapter_stale_names")
        return pointed

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
            is_here = self._registry.has(style.digest)
            self._stats.add("adapter_fetches", not is_here)
            access = self._files if is_here else self._far_files
            loading = access.start(style.digest, partial(self._fetch, style), partial(_unanswered, style.name))
            self._loading[style.digest] = loading
        loading.add_done_callback(partial(self._forget, style.digest))
        return loading

    def _fetch(self, style: Named, attempt: Attempt) -> Kind:
        """Read an adapter and cache it, even if it came too late for those who waited."""
        adapter = self._registry.load(style.digest, style.name, self._manifest, attempt)
        self._stats.add("adapter_loads")
        with self._lock:
            self._host.put(style.digest, adapter, adapter.nbytes)
            self._stats.set("adapter_bytes", self._host.nbytes)
        return adapter

    def _forget(self, digest: str, loading: Future[Kind]) -> None:
        """Drop a finished load: the cache keeps the adapter, and a failure isn't remembered."""
        with self._lock:
            if self._loading.get(digest) is loading:
                del self._loading[digest]


def _unanswered(name: str, why: str) -> NoAnswer:
    return NoAnswer(FIELD, f"adapter {shown(name)}: {why}", "try again later, or name no adapter")
