"""The adapter bank: pages of every site's factors, written once for each adapter and picked by number.

A page has one rank (see layout.py). An adapter of rank r takes ⌈r / rank⌉ of them, whatever mixes it stands in: a row
of a batch names pages and what each of them weighs, so a mix of adapters that are here writes nothing. Pages of all
graphs have the same numbers. They are stored as the engine computes: float32, or bf16, which halves the memory that is
read.

Page 0 is no adapter's and stays neutral. Pages in use are pinned; only idle ones are ever overwritten (see pool.py), so
eviction can't change a running image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from math import prod
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters import budget
from impasto_server.adapters.adapter import FIELD, Adapter
from impasto_server.adapters.form import FORMS
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.pool import Need, Places, Pool
from impasto_server.adapters.seat import Pages
from impasto_server.bundle import Manifest
from impasto_server.engines.engine import stored
from impasto_server.engines.profiles import MOST_RANK
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import InvalidArgument
from impasto_server.guidance import Mix
from impasto_server.settings import Settings
from impasto_server.stats import Stats

Array = NDArray[Any]


class Bank:
    """Buffers of every adapted graph, by input: tables of `pages` one behind the other, of as many rows each as the
    rank of a page. Page 0 is no adapter's.

    `versions[kind][page]` counts the writes of all pages up to this page's last: for readers with copies. The memory of
    pages that were never written is only promised.
    """

    @classmethod
    def of(cls, manifest: Manifest, settings: Settings, runtime: Runtime, stats: Stats) -> Bank:
        """As large as the settings say, or this bundle's share of the free memory allows. Raises SetupError."""
        layout = Layout.of(manifest, settings.page_rank, runtime.table_precision)
        return cls(layout, budget.capacity(layout, settings, runtime), stats)

    def __init__(self, layout: Layout, capacity: int, stats: Stats) -> None:
        """Of `capacity` bytes, of which each form that the bundle has sites for has the same. Raises SetupError."""
        self.layout = layout
        self._dtype = stored(np.zeros(1, np.float32), layout.precision).dtype
        self._stats = stats
        budget.check(layout, capacity)
        self.pages = layout.pages_in(capacity)
        self.buffers = {graph: self._allocated(graph) for graph in layout.sites}
        self.versions = {kind: np.zeros(pages, np.int64) for kind, pages in self.pages.items()}
        self.writes = 0
        sizes = {kind: pages - 1 for kind, pages in self.pages.items()}
        self._pool: Pool[str] = Pool(sizes, lambda: stats.add("bank_evictions"))
        self._written: dict[tuple[str, int], tuple[str, int]] = {}  # by kind and page: whose, and the how manyth of it
        self._writing = Lock()
        self._stats.set("bank_bytes", sum(pages * layout.page_bytes(kind) for kind, pages in self.pages.items()))

    @property
    def waiting(self) -> int:
        """How many wait for pages."""
        return self._pool.waiting

    @property
    def pinned(self) -> int:
        """How often adapters are held."""
        return self._pool.holders

    def take(
        self, mixes: Collection[Mix], adapters: Mapping[str, Adapter], again: Callable[[], None]
    ) -> dict[Mix, Pages] | None:
        """The pages of `mixes` of `adapters` (by digest), written where they aren't here yet; give back with `leave`.

        All or none: None while too few pages are idle; `again` is then called as Pool.take says. Raises InvalidArgument
        for what the bank can't hold at all.
        """
        wanted = {digest: self.layout.need(adapters[digest]) for digest in _digests(mixes)}
        self._check(mixes, wanted)
        if not wanted:
            return {mix: {} for mix in mixes}
        places = self._pool.take(wanted, again)
        if places is None:
            return None
        try:
            self._write([(adapters[digest], found) for digest, found in places.items()])
        except BaseException:
            self._pool.leave(wanted)
            raise
        return {mix: _pages(mix, wanted, places) for mix in mixes}

    def leave(self, mixes: Collection[Mix]) -> None:
        """Give back what `take` gave for them."""
        if held := _digests(mixes):
            self._pool.leave(held)

    def forget(self, again: Callable[[], None]) -> None:
        """Whoever waited with it waits no more."""
        self._pool.forget(again)

    def _check(self, mixes: Iterable[Mix], wanted: Mapping[str, Need]) -> None:
        """Raises InvalidArgument for a mix of a higher rank than a lane has, and for more pages than there are."""
        for mix in mixes:
            for kind, count in _sums(wanted[digest] for digest, _ in mix.parts).items():
                rank = count * self.layout.page_rank(kind)
                if rank > MOST_RANK:
                    problem = f"a mix has rank {rank} in all, and {MOST_RANK} is the most"
                    raise InvalidArgument(FIELD, problem, "use fewer adapters, or merge them: `impasto export merge`")
        for kind, count in _sums(wanted.values()).items():
            rank, room = self.layout.page_rank(kind), self.pages[kind] - 1
            if count > room:
                problem = f"the adapters take {count} pages of rank {rank}, and the server's bank has {room}"
                fix = f"start the server with --bank-bytes {self.layout.bytes_for(_sums(wanted.values()))}"
                raise InvalidArgument(FIELD, problem, f"use fewer adapters, or {fix}")

    def _write(self, found: Sequence[tuple[Adapter, Places]]) -> None:
        """Those whose pages don't hold them yet. Until then nobody reads these, or has them for anything else."""
        missing = [one for one in found if not self._holds(*one)]
        self._stats.add("bank_hits", len(found) - len(missing))
        if not missing:  # and nobody waits for what others write
            return
        with self._writing:
            for one in missing:
                if not self._holds(*one):
                    self._write_adapter(*one)

    def _holds(self, adapter: Adapter, places: Places) -> bool:
        own = ((adapter.digest, number) for number in range(len(places)))
        return all(self._written.get((adapter.kind, page)) == one for page, one in zip(places, own, strict=True))

    def _write_adapter(self, adapter: Adapter, places: Places) -> None:
        for number, page in enumerate(places):
            self._written.pop((adapter.kind, page), None)
            for graph in self.layout.sites:
                self._write_page(graph, adapter, number, page)
            self.versions[adapter.kind][page] = self.writes + 1
            self.writes += 1
            # Last: who finds it here asks for no lock, and its row may be in the next pass of an engine with copies.
            self._written[adapter.kind, page] = adapter.digest, number
        self._stats.add("bank_writes")
        self._stats.add("bank_written_bytes", len(places) * self.layout.page_bytes(adapter.kind))

    def _write_page(self, graph: str, adapter: Adapter, number: int, page: int) -> None:
        factors = adapter.factors.get(graph, {})
        first = number * self.layout.page_rank(adapter.kind)
        for site, inputs in self.layout.inputs(graph, adapter.kind):
            found = factors.get(site.name)
            for part, name in inputs.items():
                held = self.rows(graph, name, adapter.kind, page)
                held[:] = self.buffers[graph][name][0]
                if found is not None:
                    values = found[part][first : first + len(held)]
                    held[: len(values)] = stored(values, self.layout.precision)

    def rows(self, graph: str, name: str, kind: str, page: int) -> Array:
        """What an input holds of a page: a part of its buffer."""
        rank = self.layout.page_rank(kind)
        return self.buffers[graph][name][page * rank : (page + 1) * rank]

    def _allocated(self, graph: str) -> dict[str, Array]:
        """Buffers in which page 0 is neutral and nothing else was ever written."""
        found: dict[str, Array] = {}
        for kind in self.layout.kinds_in(graph):
            rank, neutral = self.layout.page_rank(kind), FORMS[kind].neutral
            for site, inputs in self.layout.inputs(graph, kind):
                for part, name in inputs.items():
                    shape = self.pages[kind] * rank, *FORMS[kind].units(site)[part]
                    found[name] = _promised(shape, self._dtype)
                    if neutral:
                        found[name][:rank] = stored(np.full(1, neutral, np.float32), self.layout.precision)
        return found


def _promised(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros that take memory where they are first written to.

    The kernel's own: NumPy's take all of it at once where malloc, which libraries may tune, has some to use again.
    """
    memory = mmap(-1, prod(shape) * dtype.itemsize, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def _digests(mixes: Iterable[Mix]) -> list[str]:
    """Of all adapters of these mixes, each once."""
    return list(dict.fromkeys(digest for mix in mixes for digest, _ in mix.parts))


def _pages(mix: Mix, wanted: Mapping[str, Need], places: Mapping[str, Places]) -> Pages:
    """Where a mix is: by form, pages with their weights."""
    found: dict[str, tuple[tuple[int, float], ...]] = {}
    for digest, weight in mix.parts:
        kind = wanted[digest].kind
        found[kind] = found.get(kind, ()) + tuple((page, weight) for page in places[digest])
    return {kind: pages for kind, pages in found.items() if pages}


def _sums(needs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """By kind."""
    found: dict[str, int] = {}
    for kind, count in needs:
        found[kind] = found.get(kind, 0) + count
    return found
