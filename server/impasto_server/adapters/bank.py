"""The adapter bank: pages of every site's factors, written once for each adapter and picked by number.

All pages have the same rank (layout.py). An adapter of rank r takes ⌈r / rank⌉ pages, whichever mixes it is in. A row
of a batch names pages with their weights, so a new mix of adapters that are in the bank writes nothing. A page has the
same number in all graphs. Pages are stored as the engine computes: float32, or bf16, which halves the memory traffic.

Page 0 belongs to no adapter and stays neutral. Pages in use are pinned; only idle ones are overwritten (pool.py), so
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
    """Tables for every adapted graph, by input: `pages` after one another, each with as many rows as a page's rank.
    Page 0 belongs to no adapter.

    `versions[kind][page]` is the value of `writes` after the page's last write; engines with copies compare it. Pages
    take memory only once they are written.
    """

    @classmethod
    def of(cls, manifest: Manifest, settings: Settings, runtime: Runtime, stats: Stats) -> Bank:
        """A bank as large as the settings say, by default this bundle's share of the free memory. Raises SetupError."""
        layout = Layout.of(manifest, settings.page_rank, runtime.table_precision)
        return cls(layout, budget.capacity(layout, settings, runtime), stats)

    def __init__(self, layout: Layout, capacity: int, stats: Stats) -> None:
        """A bank of `capacity` bytes, shared equally by the forms that the bundle has sites for. Raises SetupError."""
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
        self._written: dict[tuple[str, int], tuple[str, int]] = {}  # (kind, page) → (digest, number of the page in it)
        self._writing = Lock()
        self._stats.set("bank_bytes", sum(pages * layout.page_bytes(kind) for kind, pages in self.pages.items()))

    @property
    def waiting(self) -> int:
        """How many wait for pages."""
        return self._pool.waiting

    @property
    def pinned(self) -> int:
        """How many holds there are on adapters."""
        return self._pool.holders

    def take(
        self, mixes: Collection[Mix], adapters: Mapping[str, Adapter], again: Callable[[], None]
    ) -> dict[Mix, Pages] | None:
        """The pages of `mixes` of `adapters` (by digest), written if they aren't here yet; give back with `leave`.

        All or none: None while too few pages are idle; then `again` is called as Pool.take says. Raises InvalidArgument
        for more than the bank can ever hold.
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
        """Give back what `take` gave for `mixes`."""
        if held := _digests(mixes):
            self._pool.leave(held)

    def forget(self, again: Callable[[], None]) -> None:
        """End the wait of whoever asked with `again`."""
        self._pool.forget(again)

    def _check(self, mixes: Iterable[Mix], wanted: Mapping[str, Need]) -> None:
        """Raises InvalidArgument for a mix of too high a rank for a lane, and for more pages than there are."""
        for mix in mixes:
            for kind, count in _sums(wanted[digest] for digest, _ in mix.parts).items():
                rank = count * self.layout.page_rank(kind)
                if rank > MOST_RANK:
                    problem = f"a mix has rank {rank} in all, more than {MOST_RANK}"
                    raise InvalidArgument(FIELD, problem, "use fewer adapters, or merge them: `impasto export merge`")
        for kind, count in _sums(wanted.values()).items():
            rank, room = self.layout.page_rank(kind), self.pages[kind] - 1
            if count > room:
                problem = f"the adapters take {count} pages of rank {rank}, but the server's bank has {room}"
                fix = f"start the server with --bank-bytes {self.layout.bytes_for(_sums(wanted.values()))}"
                raise InvalidArgument(FIELD, problem, f"use fewer adapters, or {fix}")

    def _write(self, found: Sequence[tuple[Adapter, Places]]) -> None:
        """Write the adapters that their pages don't hold yet. Nobody else reads or writes those pages meanwhile."""
        missing = [one for one in found if not self._holds(*one)]
        self._stats.add("bank_hits", len(found) - len(missing))
        if not missing:  # don't wait for others' writes
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
            # Last: whoever finds it here takes no lock, and may run in the next pass of an engine with copies.
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
        """A page's rows in the table of an input: a view of its buffer."""
        rank = self.layout.page_rank(kind)
        return self.buffers[graph][name][page * rank : (page + 1) * rank]

    def _allocated(self, graph: str) -> dict[str, Array]:
        """New buffers: page 0 neutral, all else zero and not yet in memory."""
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
    """Zeros that take memory only when first written.

    They come from the kernel. NumPy's zeros take all their memory at once where malloc reuses some, and libraries may
    tune malloc.
    """
    memory = mmap(-1, prod(shape) * dtype.itemsize, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def _digests(mixes: Iterable[Mix]) -> list[str]:
    """The digests of all adapters of these mixes, each once."""
    return list(dict.fromkeys(digest for mix in mixes for digest, _ in mix.parts))


def _pages(mix: Mix, wanted: Mapping[str, Need], places: Mapping[str, Places]) -> Pages:
    """The pages of a mix with their weights, by form."""
    found: dict[str, tuple[tuple[int, float], ...]] = {}
    for digest, weight in mix.parts:
        kind = wanted[digest].kind
        found[kind] = found.get(kind, ()) + tuple((page, weight) for page in places[digest])
    return {kind: pages for kind, pages in found.items() if pages}


def _sums(needs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The sum of the counts, by kind."""
    found: dict[str, int] = {}
    for kind, count in needs:
        found[kind] = found.get(kind, 0) + count
    return found
