"""The adapter bank: one row of every site's A and B for each resident mix, written once and picked by index.

Rows are stored as the engine computes: float32, or bf16, which halves the memory that every pass reads.

Row 0 is all zeros and stays so: the plain backbone. A resident mix costs a request nothing but its row's number. Rows
in use are pinned; only an idle row is ever overwritten, so eviction can't change a running image.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.adapter import FIELD, Adapter, Factors
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Bundle, Manifest, Site
from impasto_server.engines.engine import compile_graph, stored
from impasto_server.errors import InvalidArgument, SetupError
from impasto_server.guidance import Mix
from impasto_server.settings import Precision, Settings
from impasto_server.stats import Stats

Array = NDArray[Any]
Kind = Literal["lora", "bottleneck"]
Ranks = Mapping[Kind, int]  # a bottleneck's is the number of its hidden units

MAX_SLOTS = 65
SLOT = "slot"  # a graph's input: of each row, its row of the bank
_RANKS = (4, 8, 16, 32, 64, 128, 256, 512)


class Bank:
    """Buffers of every adapted graph, as `stored` has them, named as `_ports` says.

    `buffers[graph]` is replaced, never resized: a reader that holds the old one goes on with valid rows until it looks
    again. `writes` counts the rows that were written, for readers with copies.
    """

    def __init__(
        self, manifest: Manifest, rank: int, capacity: int, stats: Stats, precision: Precision = "f32"
    ) -> None:
        self._stats = stats
        self.precision: Precision = precision
        self._dtype = stored(np.zeros(1, np.float32), precision).dtype
        self._sites = {graph: spec.sites for graph, spec in manifest.graphs.items() if spec.sites}
        self._capacity = capacity
        self._ranks: Ranks = {"lora": _bucket(rank), "bottleneck": _bucket(rank)}
        self.slots = min(MAX_SLOTS, capacity // max(1, self._row_bytes(self._ranks)))
        if self.slots < 2:
            need = 2 * self._row_bytes(self._ranks)
            raise SetupError(f"bank_bytes: {capacity} holds no adapter of rank {_bucket(rank)}; pass {need} or more")
        self.buffers = {graph: self._allocate(sites) for graph, sites in self._sites.items()}
        self._stats.set("bank_bytes", self.slots * self._row_bytes(self._ranks))
        self.writes = 0
        self._resident: OrderedDict[Mix, int] = OrderedDict()
        self._pins: Counter[int] = Counter()
        self._waiting: dict[Callable[[], None], bool] = {}  # in the order in which they came; whether they were woken
        self._lock = Lock()

    def pin(
        self, mixes: Iterable[Mix], adapters: Mapping[str, Adapter], again: Callable[[], None]
    ) -> dict[Mix, int] | None:
        """The rows that hold `mixes` of `adapters` (by digest), written first where they aren't resident.

        All or none: None while too few rows are idle, and then `again` is called once, when a row has been released.
        Who asks with the same `again` once more keeps its place among those who wait, until it has its rows, or
        `forget`. Raises InvalidArgument when the mixes can't fit the bank's memory at all.
        """
        wanted = {mix for mix in mixes if mix.parts}
        rows = {Mix(): 0}
        if not wanted:  # the lock is held while a mix is written, which is nothing to those who have none
            return rows
        with self._lock:
            missing = wanted - self._resident.keys()
            full = len(missing) > self._idle_rows(wanted)
            if not full or again not in self._waiting:
                self._check_room(wanted, missing, adapters)
            if full:
                self._waiting[again] = False
                return None
            self._waiting.pop(again, None)
            self._widen(self._ranks_for(missing, adapters))
            for mix in sorted(wanted, key=lambda mix: mix not in self._resident):
                rows[mix] = self._row(mix, adapters)
                self._pins[rows[mix]] += 1
        return rows

    def unpin(self, rows: Iterable[int]) -> None:
        """Release every one of `rows`; if one is idle then, call those who wait for some, the first to come first."""
        asleep: list[Callable[[], None]] = []
        held = [row for row in rows if row]
        if not held:
            return
        with self._lock:
            if self._release(held):
                asleep = [again for again, woken in self._waiting.items() if not woken]
                self._waiting.update(dict.fromkeys(asleep, True))
        for again in asleep:
            again()

    def forget(self, again: Callable[[], None]) -> None:
        """Whoever waited with it waits no more."""
        if again in self._waiting:
            with self._lock:
                self._waiting.pop(again, None)

    def _release(self, rows: Sequence[int]) -> bool:
        """Whether there are more idle rows now."""
        for row in rows:
            self._pins[row] -= 1
            assert self._pins[row] >= 0
        return any(not self._pins[row] for row in rows)

    def _idle_rows(self, wanted: Set[Mix]) -> int:
        """How many rows may be overwritten without touching one in use, or one that is wanted."""
        kept = {row for mix, row in self._resident.items() if self._pins[row] or mix in wanted}
        return self.slots - 1 - len(kept)

    def _row(self, mix: Mix, adapters: Mapping[str, Adapter]) -> int:
        if mix in self._resident:
            self._stats.add("mix_hits")
        else:
            self._write(mix, adapters)
            self._stats.add("mix_writes")
        self._resident.move_to_end(mix)
        return self._resident[mix]

    def _idle_row(self) -> int:
        """A row never written, else the one that has been idle longest."""
        if len(self._resident) < self.slots - 1:
            return len(self._resident) + 1
        return next(row for row in self._resident.values() if not self._pins[row])

    def _write(self, mix: Mix, adapters: Mapping[str, Adapter]) -> None:
        mixed = {graph: _mixed(sites, mix, adapters, graph) for graph, sites in self._sites.items()}
        row = self._idle_row()
        for idle in [other for other, held in self._resident.items() if held == row]:
            del self._resident[idle]
            self._stats.add("mix_evictions")
        for graph, sites in self._sites.items():
            for site in sites:
                self._write_site(graph, site, row, mixed[graph].get(site.name))
        self._resident[mix] = row
        self.writes += 1

    def _write_site(self, graph: str, site: Site, row: int, factors: Factors | None) -> None:
        for port in _ports(site):
            held = self.buffers[graph][port.name][row]
            held[:] = 0
            if factors is not None:
                values = port.values(factors)
                port.first(held, values.shape[port.rank_axis])[:] = stored(values, self.precision)

    def _check_room(self, wanted: Set[Mix], missing: Set[Mix], adapters: Mapping[str, Adapter]) -> None:
        """Raises InvalidArgument when the bank could not hold all of `wanted` at once, were nothing else in it."""
        ranks = self._ranks_for(missing, adapters)
        if len(wanted) > self.slots - 1:
            problem = f"{len(wanted)} different mixes, the server's adapter bank holds {self.slots - 1}"
        elif self.slots * self._row_bytes(ranks) > self._capacity:
            kind = next(kind for kind in ranks if ranks[kind] > self._ranks[kind])
            rank = max(_rank(self._sites, mix, adapters, kind) for mix in missing)
            problem = f"the mix has rank {rank}, the server's adapter bank holds rank {self._ranks[kind]}"
        else:
            return
        raise InvalidArgument(
            FIELD, problem, f"use fewer adapters, or {self._advice(max(ranks.values()), len(wanted))}"
        )

    def _advice(self, rank: int, mixes: int) -> str:
        """The options of a server whose bank holds so many mixes of that rank at once, or more."""
        row = self._row_bytes(dict.fromkeys(self._ranks, rank))
        capacity = max(self._capacity, (1 + mixes) * row)
        room = min(MAX_SLOTS, capacity // row) - 1
        return f"start the server with --bank-rank {rank} --bank-bytes {capacity}, room for {room} such mixes at once"

    def _ranks_for(self, mixes: Iterable[Mix], adapters: Mapping[str, Adapter]) -> Ranks:
        """As wide as the bank is, or must be to hold `mixes`, too."""
        found = dict(self._ranks)
        for mix in mixes:
            for kind in found:
                found[kind] = max(found[kind], _bucket(_rank(self._sites, mix, adapters, kind)))
        return found

    def _widen(self, ranks: Ranks) -> None:
        """Every row's sites, for `ranks` that aren't less; rows keep their values, padded with zeros."""
        if ranks == self._ranks:
            return
        narrower, self._ranks = self._ranks, ranks
        self._stats.set("bank_bytes", self.slots * self._row_bytes(ranks))
        for graph, sites in self._sites.items():
            buffers = self._allocate(sites)
            for site in sites:
                for port in _ports(site):
                    for row, old in zip(buffers[port.name], self.buffers[graph][port.name], strict=True):
                        port.first(row, narrower[site.kind])[:] = old
            self.buffers[graph] = buffers

    def _allocate(self, sites: Sequence[Site]) -> dict[str, Array]:
        return {
            port.name: np.zeros((self.slots, *port.shape(self._ranks[site.kind])), self._dtype)
            for site in sites
            for port in _ports(site)
        }

    def _row_bytes(self, ranks: Ranks) -> int:
        sizes = [
            prod(port.shape(ranks[site.kind]))
            for sites in self._sites.values()
            for site in sites
            for port in _ports(site)
        ]
        return self._dtype.itemsize * sum(sizes)


@dataclass(frozen=True)
class _Port:
    """A graph input that holds one part of a site's factors; a row of it is [features, R], or [R, features]."""

    name: str
    features: int
    rank_axis: Literal[0, 1]
    values: Callable[[Factors], Array]

    def shape(self, rank: int) -> tuple[int, int]:
        return (self.features, rank) if self.rank_axis else (rank, self.features)

    def first(self, row: Array, rank: int) -> Array:
        """The part of a row that factors of this rank fill."""
        return row[:, :rank] if self.rank_axis else row[:rank]


def _ports(site: Site) -> tuple[_Port, ...]:
    if site.kind == "lora":
        return (
            _Port(f"{site.name}.lora_A", site.in_features, 1, lambda factors: factors.a),
            _Port(f"{site.name}.lora_B", site.out_features, 0, lambda factors: factors.b),
        )
    return (
        _Port(f"{site.name}.down", site.in_features, 1, lambda factors: factors.a),
        _Port(f"{site.name}.up", site.out_features, 0, lambda factors: factors.b),
        _Port(f"{site.name}.tanh", 1, 1, lambda factors: factors.tanh[None]),
    )


def _mixed(sites: Sequence[Site], mix: Mix, adapters: Mapping[str, Adapter], graph: str) -> Mapping[str, Factors]:
    """Σ wᵢ·f(x·Aᵢ)·Bᵢ = f(x·[A₁|A₂|…]) @ [w₁·B₁; w₂·B₂; …], f the identity or gelu: exact, by concatenating ranks."""
    mixed = {}
    for site in sites:
        parts = [
            (weight, adapters[digest].factors[graph][site.name])
            for digest, weight in mix.parts
            if site.name in adapters[digest].factors.get(graph, {})
        ]
        if parts:
            a = np.concatenate([factors.a for _, factors in parts], axis=1)
            with np.errstate(over="ignore"):  # who asks for that is told so, see Running.advance
                b = np.concatenate([np.float32(weight) * factors.b for weight, factors in parts])
            tanh = np.concatenate([factors.tanh for _, factors in parts])
            mixed[site.name] = Factors(a, b, tanh)
    return mixed


def _rank(sites: Mapping[str, Sequence[Site]], mix: Mix, adapters: Mapping[str, Adapter], kind: Kind) -> int:
    """Of a mix at the site of a kind where it's largest: the ranks of its parts add up."""
    parts = [adapters[digest].factors for digest, _ in mix.parts]
    of_kind = [(graph, site.name) for graph, some in sites.items() for site in some if site.kind == kind]
    ranks = (sum(f[graph][name].rank for f in parts if name in f.get(graph, {})) for graph, name in of_kind)
    return max(ranks, default=0)


def _bucket(rank: int) -> int:
    """Ranks are padded up to a few sizes, so that engines meet few shapes."""
    return next((size for size in _RANKS if size >= rank), rank)


class AdaptedEngine:
    """An engine whose graph reads its adapters from the bank; looks before every run whether it was written to.

    A run is told the seats of its rows, where the graph has sites.

    `weights` are the bundle's own (0), or those of its i-th pinned mix.
    """

    def __init__(self, bundle: Bundle, graph: str, settings: Settings, bank: Bank, weights: int = 0) -> None:
        inputs = bank.buffers.get(graph, {})
        self._engine = compile_graph(bundle.graph_path(graph, weights), settings, inputs)
        self._bank = bank
        self._graph = graph
        self._adapted = bundle.manifest.port(graph, SLOT) is not None
        self._bound: Mapping[str, Array] = {}
        self._writes = 0

    def bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        self._engine.bind(buffers)

    def prepare(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> None:
        self._look()
        self._engine.prepare(self._seated(feeds, seats))

    def run(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> list[NDArray[Any]]:
        self._look()
        return self._engine.run(self._seated(feeds, seats))

    def _seated(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat]) -> Mapping[str, NDArray[Any]]:
        return {**feeds, SLOT: np.array([seat.slot for seat in seats], np.int64)} if seats and self._adapted else feeds

    def _look(self) -> None:
        buffers, writes = self._bank.buffers.get(self._graph, {}), self._bank.writes
        if buffers is not self._bound or writes != self._writes:
            self._engine.bind(buffers)
            self._bound, self._writes = buffers, writes
