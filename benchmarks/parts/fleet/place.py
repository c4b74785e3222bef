"""Where a fleet's run takes place: a bundle, a registry of many adapters, and replicas with small banks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common.bench import ROOT, random_adapter
from benchmarks.parts.fleet.replicas import Replica
from benchmarks.parts.fleet.store import Store
from benchmarks.parts.fleet.traffic import adapter_name
from rich.progress import Progress

from impasto_export.adapters.registry import Registry
from impasto_export.link import link
from impasto_server.adapters.layout import Layout
from impasto_server.engines.runtime import Runtime
from impasto_server.families import open_bundle
from impasto_server.settings import Settings

ITEM = 4  # bytes of a number in host memory


@dataclass(frozen=True)
class Place:
    """Folders of the run, and the memory for adapters that each replica gets: room for `seats` of them."""

    folder: Path
    bundle: Path
    registry: Path
    rank: int
    seats: int
    adapter_bytes: int
    file_bytes: int
    bank_bytes: int

    def replicas(
        self, name: str, count: int, cores: Sequence[int], store: Store, *options: str, apart: bool = False
    ) -> list[Replica]:
        """So many, one for each core; round the cores again where there are more. None of them runs yet.

        Of the store's adapters this machine keeps copies; if they are `apart`, each replica keeps as many for itself as
        fit into its bank, as if it had a machine of its own.
        """
        usual = {
            "bundle": self.bundle,
            "registry": store.address,
            "page-rank": self.rank,
            "bank-bytes": self.bank_bytes,
            "host-bytes": self.seats * self.adapter_bytes,
        }
        said = [word for option, value in usual.items() for word in (f"--{option}", str(value))]
        room = ["--registry-cache-bytes", str(self.seats * self.file_bytes)] if apart else []

        def replica(number: int) -> Replica:
            copies = self.folder / (f"copies-{name}-{number}" if apart else "copies")
            core, log = cores[number % len(cores)], self.folder / f"{name}-{number}"
            words = [*said, "--registry-cache", str(copies), *room, *options]
            return Replica(f"{name} {number}", core, words, log, store.environment)

        return [replica(number) for number in range(count)]


@contextmanager
def placed(adapters: int, rank: int, seats: int, bar: Progress) -> Iterator[Place]:
    """A Place in a folder of its own, gone afterwards."""
    with TemporaryDirectory(prefix="impasto-fleet-") as name:
        folder = Path(name)
        bundle = link(ROOT / "studio/mini-diffusion", folder / "bundle").folder
        manifest, registry = open_bundle(bundle).manifest, Registry(folder / "registry")
        for number in bar.track(range(adapters), description="adapters"):
            registry.put(adapter_name(number), random_adapter(manifest, rank, seed=number))
        precision = Runtime.of(Settings(bundle, registry.folder, threads=1)).table_precision
        layout = Layout.of(manifest, rank, precision)
        units = sum(site.in_features + site.out_features for site in manifest.graphs["unet"].sites)
        bank_bytes = layout.bytes_for({"lora": seats})
        file_bytes = max(path.stat().st_size for path in (registry.folder / "objects").iterdir())
        yield Place(folder, bundle, registry.folder, rank, seats, ITEM * rank * units, file_bytes, bank_bytes)
