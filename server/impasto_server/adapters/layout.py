"""How a bundle's adapters are cut into pages: how many pages each takes, and how large a page is."""

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
    """A bundle's sites of paged forms, by graph; the `rank` of a page, and the `precision` that it is stored in.

    A page of a form has `rank` rows of each of its inputs, in all graphs. An adapter of rank r takes ⌈r / rank⌉ pages.
    """

    sites: Mapping[str, tuple[Site, ...]]
    rank: int
    precision: Precision

    @classmethod
    def of(cls, manifest: Manifest, rank: int, precision: Precision) -> Layout:
        """The layout of a bundle. Raises SetupError for a site of an unknown kind."""
        strange = [site for spec in manifest.graphs.values() for site in spec.sites if site.kind not in FORMS]
        if strange:
            problem = f"bundle: {strange[0].name} is a site for adapters of the kind {strange[0].kind!r}, which is none"
            raise SetupError(f"{problem} of {', '.join(FORMS)}; serve it with a newer impasto")
        paged = {graph: tuple(filter(_paged, spec.sites)) for graph, spec in manifest.graphs.items()}
        return cls({graph: sites for graph, sites in paged.items() if sites}, rank, precision)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The forms that have sites in this bundle, in the order of FORMS."""
        here = {site.kind for some in self.sites.values() for site in some}
        return tuple(kind for kind in FORMS if kind in here)

    def kinds_in(self, graph: str) -> tuple[str, ...]:
        """The forms that have sites in a graph."""
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
        """How many pages of each form fit in `capacity` bytes, page 0 included; each form has an equal share."""
        return {kind: capacity // len(self.kinds) // self.page_bytes(kind) for kind in self.kinds}

    def bytes_for(self, pages: Mapping[str, int]) -> int:
        """How many bytes hold so many pages of each form, and page 0."""
        return len(self.kinds) * max(((1 + count) * self.page_bytes(kind) for kind, count in pages.items()), default=0)

    def need(self, adapter: Adapter) -> Need:
        """The pages that an adapter takes."""
        return Need(adapter.kind, self.pages(adapter.kind, adapter.rank))

    def pages(self, kind: str, rank: int) -> int:
        """How many pages an adapter of this rank takes."""
        return ceil(rank / self.page_rank(kind))


def _paged(site: Site) -> bool:
    return FORMS[site.kind].paged
