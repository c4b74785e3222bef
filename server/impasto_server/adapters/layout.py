"""How the adapters of a bundle are cut into pages: how many they take, and how large those are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from impasto_server.adapters.adapter import Adapter
from impasto_server.adapters.form import FORMS
from impasto_server.adapters.pool import Need
from impasto_server.bundle import Manifest, Site
from impasto_server.engines.engine import item_bytes
from impasto_server.errors import SetupError
from impasto_server.settings import Precision


@dataclass(frozen=True)
class Layout:
    """The sites of a bundle by graph whose forms are paged, and the `rank` of a page, stored in a precision.

    A page of a form is one row of each of its inputs, in all graphs. An adapter of rank r takes ⌈r / rank⌉ of them.
    """

    sites: Mapping[str, tuple[Site, ...]]
    rank: int
    precision: Precision

    @classmethod
    def of(cls, manifest: Manifest, rank: int, precision: Precision) -> Layout:
        """Raises SetupError for a site that this server knows no adapters for."""
        strange = [site for spec in manifest.graphs.values() for site in spec.sites if site.kind not in FORMS]
        if strange:
            problem = f"bundle: {strange[0].name} is a site for adapters of the kind {strange[0].kind!r}, which this"
            raise SetupError(
                f"{problem} server doesn't know; it knows {', '.join(FORMS)}; serve it with a newer impasto"
            )
        paged = {graph: tuple(filter(_paged, spec.sites)) for graph, spec in manifest.graphs.items()}
        return cls({graph: sites for graph, sites in paged.items() if sites}, rank, precision)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The forms that have sites here, in the order of FORMS."""
        here = {site.kind for some in self.sites.values() for site in some}
        return tuple(kind for kind in FORMS if kind in here)

    def kinds_in(self, graph: str) -> tuple[str, ...]:
        """Those that have sites in a graph."""
        here = {site.kind for site in self.sites.get(graph, ())}
        return tuple(kind for kind in self.kinds if kind in here)

    def inputs(self, graph: str, kind: str) -> Iterator[tuple[Site, Mapping[str, str]]]:
        """The sites of a form in a graph, with the graph's inputs by part."""
        for site in self.sites.get(graph, ()):
            if site.kind == kind:
                yield site, FORMS[kind].inputs(site)

    def page_rank(self, kind: str) -> int:
        return FORMS[kind].rank or self.rank

    def page_bytes(self, kind: str) -> int:
        units = sum(FORMS[kind].unit(site) for some in self.sites.values() for site in some if site.kind == kind)
        return item_bytes(self.precision) * self.page_rank(kind) * units

    def pages_in(self, capacity: int) -> dict[str, int]:
        """How many pages of each form `capacity` bytes have room for, page 0 counted; each form has an equal share."""
        return {kind: capacity // len(self.kinds) // self.page_bytes(kind) for kind in self.kinds}

    def bytes_for(self, pages: Mapping[str, int]) -> int:
        """How many bytes have room for so many pages of each form, beside page 0."""
        return len(self.kinds) * max(((1 + count) * self.page_bytes(kind) for kind, count in pages.items()), default=0)

    def need(self, adapter: Adapter) -> Need:
        """What an adapter takes."""
        return Need(adapter.kind, self.pages(adapter.kind, adapter.rank))

    def pages(self, kind: str, rank: int) -> int:
        """How many of them an adapter of that rank takes."""
        return ceil(rank / self.page_rank(kind))


def _paged(site: Site) -> bool:
    return FORMS[site.kind].paged
