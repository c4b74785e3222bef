"""How many adapters are ready to run at once? Of each architecture that ships: what a page of its bank takes, and how
many adapters the server's own choice of memory holds on machines of several sizes.

python -m benchmarks.bank [--precision bf16] [--page-rank 16]

Nothing is measured: it's worked out from the sites in the shipped graphs, as the server does it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

import impasto_export
from impasto_server.adapters.budget import SHARE, USEFUL, adapters_that_fit
from impasto_server.adapters.layout import Layout
from impasto_server.bundle import Site
from impasto_server.engines.footprint import GIB
from impasto_server.settings import Precision, Settings

SKELETONS = Path(impasto_export.__file__).parent / "graphs"
NAMES = ("sd1", "sd2", "sdxl", "amused-256", "mini-diffusion", "mini-muse")
RANKS = (16, 64, 128)
FREE = (16, 32, 64)  # GiB
MIB = 1 << 20


def layout_of(name: str, page_rank: int, precision: Precision) -> Layout:
    """Of a shipped architecture."""
    graphs = json.loads((SKELETONS / name / "architecture.json").read_text())["graphs"]
    sites = {graph: tuple(Site(**site) for site in facts.get("sites", ())) for graph, facts in graphs.items()}
    return Layout({graph: some for graph, some in sites.items() if some}, page_rank, precision)


def rows(page_rank: int, precision: Precision) -> Iterator[list[str]]:
    for name in NAMES:
        layout = layout_of(name, page_rank, precision)
        for kind in layout.kinds:
            page = layout.page_bytes(kind)
            sizes = [f"{layout.pages(kind, rank) * page / MIB:.1f}" for rank in RANKS]
            room = [" / ".join(_fit(layout, free, kind)) for free in FREE]
            yield [name, kind, f"{page / MIB:.1f}", *sizes, *room]


def _fit(layout: Layout, free: int, kind: str) -> list[str]:
    capacity = min(free * GIB // SHARE, layout.bytes_for(dict.fromkeys(layout.kinds, USEFUL)))
    return [str(adapters_that_fit(layout, capacity, kind, rank)) for rank in RANKS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=[one for one in get_args(Precision) if one != "auto"], default="bf16")
    parser.add_argument("--page-rank", type=int, default=Settings.page_rank)
    asked = parser.parse_args()
    names = [f"rank {rank}, MiB" for rank in RANKS]
    room = [f"{free} GiB free: of rank {' / '.join(map(str, RANKS))}" for free in FREE]
    table = Table("architecture", "form", "page, MiB", *names, *room)
    for row in rows(asked.page_rank, asked.precision):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
