"""The adapter bank: one row of every site's A and B for each resident mix, written once and picked by index.

Row 0 is all zeros and stays so: the plain backbone. A resident mix costs a request nothing but its row's number. Rows
in use are pinned; only an idle row is ever overwritten, so eviction can't change a running image.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters import FIELD, Adapter, Factors
from impasto_server.bundle import Manifest, Site
from impasto_server.engine import Engine
from impasto_server.errors import InvalidArgument, SetupError
from impasto_server.guidance import Mix
from impasto_server.stats import Stats

Array = NDArray[np.float32]

MAX_SLOTS = 65
_RANKS = (4, 8, 16, 32, 64, 128, 256, 512)


class Bank:
    """Buffers of every adapted graph: `<site>.lora_A` [S, in, R] and `<site>.lora_B` [S, R, out], float32.

    `buffers[graph]` is replaced, never resized: a reader that holds the old one goes on with valid rows until it looks
    again.
    """

    def __init__(self, manifest: Manifest, rank: int, capacity: int, stats: Stats) -> None:
        self._stats = stats
        self._sites = {graph: spec.sites for graph, spec in manifest.graphs.items() if spec.sites}
        self._capacity = capacity
        self._rank = _bucket(rank)
        self.slots = min(MAX_SLOTS, capacity // max(1, self._row_bytes(self._rank)))
        if self.slots < 2:
            need = 2 * self._row_bytes(self._rank)
            raise SetupError(f"bank_bytes: {capacity} holds no adapter of rank {self._rank}; pass {need} or more")
        self.buffers = {graph: self._allocate(sites) for graph, sites in self._sites.items()}
        self._stats.set("bank_bytes", self.slots * self._row_bytes(self._rank))
        self._resident: OrderedDict[Mix, int] = OrderedDict()
        self._pins: Counter[int] = Counter()
        self._changed = Condition()

    def pin(self, mix: Mix, adapters: Sequence[Adapter]) -> int:
        """The row that holds `mix` of `adapters` (in the mix's order), written first if it isn't resident.

        Blocks while every row is in use. Raises InvalidArgument when the mix's rank can't fit the bank's memory.
        """
        if not mix.parts:
            return 0
        with self._changed:
            self._changed.wait_for(lambda: mix in self._resident or self._idle_slot() is not None)
            if mix in self._resident:
                self._stats.add("mix_hits")
            else:
                self._write(mix, adapters)
                self._stats.add("mix_writes")
            self._resident.move_to_end(mix)
            slot = self._resident[mix]
            self._pins[slot] += 1
            return slot

    def unpin(self, slot: int) -> None:
        if slot == 0:
            return
        with self._changed:
            self._pins[slot] -= 1
            assert self._pins[slot] >= 0
            self._changed.notify_all()

    def _idle_slot(self) -> int | None:
        if len(self._resident) < self.slots - 1:
            return len(self._resident) + 1
        return next((slot for slot in self._resident.values() if not self._pins[slot]), None)

    def _write(self, mix: Mix, adapters: Sequence[Adapter]) -> None:
        mixed = {graph: _mixed(sites, mix, adapters, graph) for graph, sites in self._sites.items()}
        self._reserve(max((f.a.shape[1] for sites in mixed.values() for f in sites.values()), default=0))
        slot = self._idle_slot()
        assert slot is not None
        for idle in [other for other, row in self._resident.items() if row == slot]:
            del self._resident[idle]
            self._stats.add("mix_evictions")
        for graph, sites in self._sites.items():
            for site in sites:
                self._write_site(graph, site.name, slot, mixed[graph].get(site.name))
        self._resident[mix] = slot

    def _write_site(self, graph: str, site: str, slot: int, factors: Factors | None) -> None:
        a, b = (self.buffers[graph][f"{site}.lora_{part}"][slot] for part in "AB")
        a[:] = 0
        b[:] = 0
        if factors is not None:
            a[:, : factors.a.shape[1]] = factors.a
            b[: factors.b.shape[0]] = factors.b

    def _reserve(self, rank: int) -> None:
        """Widen every row to hold `rank`; rows keep their values, padded with zeros."""
        if rank <= self._rank:
            return
        wider = _bucket(rank)
        if self.slots * self._row_bytes(wider) > self._capacity:
            problem = f"the mix has rank {rank}, the server's adapter bank holds rank {self._rank}"
            fix = f"use fewer adapters, or start the server with --bank-rank {wider} or more --bank-bytes"
            raise InvalidArgument(FIELD, problem, fix)
        narrower, self._rank = self._rank, wider
        self._stats.set("bank_bytes", self.slots * self._row_bytes(wider))
        for graph, sites in self._sites.items():
            buffers = self._allocate(sites)
            for name, old in self.buffers[graph].items():
                if name.endswith(".lora_A"):
                    buffers[name][:, :, :narrower] = old
                else:
                    buffers[name][:, :narrower] = old
            self.buffers[graph] = buffers

    def _allocate(self, sites: Sequence[Site]) -> dict[str, Array]:
        buffers = {}
        for site in sites:
            buffers[f"{site.name}.lora_A"] = np.zeros((self.slots, site.in_features, self._rank), np.float32)
            buffers[f"{site.name}.lora_B"] = np.zeros((self.slots, self._rank, site.out_features), np.float32)
        return buffers

    def _row_bytes(self, rank: int) -> int:
        return 4 * rank * sum(s.in_features + s.out_features for sites in self._sites.values() for s in sites)


def _mixed(sites: Sequence[Site], mix: Mix, adapters: Sequence[Adapter], graph: str) -> Mapping[str, Factors]:
    """Σ wᵢ·Aᵢ·Bᵢ = [A₁|A₂|…] @ [w₁·B₁; w₂·B₂; …]: exact, by concatenating ranks."""
    mixed = {}
    for site in sites:
        parts = [
            (weight, adapter.factors[graph][site.name])
            for (_, weight), adapter in zip(mix.parts, adapters, strict=True)
            if site.name in adapter.factors.get(graph, {})
        ]
        if parts:
            a = np.concatenate([factors.a for _, factors in parts], axis=1)
            b = np.concatenate([np.float32(weight) * factors.b for weight, factors in parts])
            mixed[site.name] = Factors(a, b)
    return mixed


def _bucket(rank: int) -> int:
    """Ranks are padded up to a few sizes, so that engines meet few shapes."""
    return next((size for size in _RANKS if size >= rank), rank)


class AdaptedEngine:
    """An engine whose graph reads its adapters from the bank; looks for a widened bank before every run."""

    def __init__(self, engine: Engine, bank: Bank, graph: str) -> None:
        self._engine = engine
        self._bank = bank
        self._graph = graph
        self._bound: Mapping[str, Array] = {}

    def bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        self._engine.bind(buffers)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        buffers = self._bank.buffers.get(self._graph, {})
        if buffers is not self._bound:
            self._engine.bind(buffers)
            self._bound = buffers
        return self._engine.run(feeds)
