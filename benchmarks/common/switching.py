"""What it costs a request to use an adapter: one that is resident among many registered ones, and one that is not.

Name → digest → weights in host memory → pages of the bank, and their release: all that the pipeline does for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.common.backbones import KEPT, LORA_FILE, NAMES, Backbone, register, write_lora

from impasto_server.adapters.adapter import Adapter
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.registry import Registry
from impasto_server.adapters.residency import Named, Residency
from impasto_server.adapters.seat import Pages, Seat
from impasto_server.engines.runtime import Runtime
from impasto_server.front import opened
from impasto_server.guidance import Mix
from impasto_server.settings import Settings
from impasto_server.stats import Stats

REGISTERED = (4, 64, 1000)
SMALL_RANK = 1  # a thousand adapters of it are a few dozen megabytes
SWITCHES = 400  # of each round
ROUNDS = 5
COLD_ROUNDS = 3


@dataclass(frozen=True)
class Styles:
    """A registry behind an empty host cache and an empty bank."""

    residency: Residency
    bank: Bank

    @classmethod
    def of(cls, settings: Settings) -> Styles:
        manifest, stats = opened(settings)[0].manifest, Stats()
        bank = Bank.of(manifest, settings, Runtime.of(settings), stats)
        return cls(Residency(Registry(settings.registry), manifest, settings.host_bytes, stats), bank)

    def take(self, weights: Mapping[str, float]) -> Seat:
        """Where a mix of adapters is, pinned."""
        return Seat(self._take(self._mix(weights)))

    def use_ms(self, name: str, weight: float = 1.0) -> float:
        started = perf_counter()
        mix = self._mix({name: weight})
        self._take(mix)
        self.bank.leave([mix[0]])
        return 1000 * (perf_counter() - started)

    def _mix(self, weights: Mapping[str, float]) -> tuple[Mix, Mapping[str, Adapter]]:
        styles = [Named(name, self.residency.resolve(name).result().digest, weight) for name, weight in weights.items()]
        loaded = {digest: loading.result() for digest, loading in self.residency.load(styles).items()}
        adapters = {digest: one for digest, one in loaded.items() if isinstance(one, Adapter)}
        return Mix.of([(style.digest, style.weight) for style in styles]), adapters

    def _take(self, mixed: tuple[Mix, Mapping[str, Adapter]]) -> Pages:
        mix, adapters = mixed
        pages = self.bank.take([mix], adapters, lambda: None)
        assert pages is not None, "nothing else holds pages"
        return pages[mix]


def cold_load_ms(backbone: Backbone) -> list[float]:
    """Each adapter's first use: read, checked, written into its pages. The files are in the page cache."""
    spent = []
    for _ in range(COLD_ROUNDS):
        styles = Styles.of(Settings(backbone.bundle, backbone.registry))
        spent += [styles.use_ms(name) for name in NAMES]
        styles.residency.close()
    return spent


def resident_switch_ms(backbone: Backbone, done: Callable[[], object]) -> dict[int, list[float]]:
    """By number of registered adapters: switches among as many of them as are resident at once, in random order.

    Each time with a weight of its own: no mix was ever seen before.
    """
    draw = random.Random(0)
    samples: dict[int, list[float]] = {registered: [] for registered in REGISTERED}
    with _crowded(backbone) as crowded:
        for _ in range(ROUNDS):
            for registered, (styles, resident) in crowded.items():
                samples[registered] += [
                    styles.use_ms(draw.choice(resident), draw.uniform(0.1, 1)) for _ in range(SWITCHES)
                ]
                done()
        for styles, _ in crowded.values():
            styles.residency.close()
    return samples


@contextmanager
def _crowded(backbone: Backbone) -> Iterator[dict[int, tuple[Styles, Sequence[str]]]]:
    """For each of REGISTERED a registry of so many, and the names of those that have been made resident."""
    with TemporaryDirectory(dir=KEPT) as folder:
        record = backbone.manifest()
        source = Path(folder) / "lora"
        write_lora(source, record, SMALL_RANK, seed=0)
        found: dict[int, tuple[Styles, Sequence[str]]] = {}
        for registered in REGISTERED:
            names = [f"style-{number:04d}" for number in range(registered)]
            registry = Path(folder) / str(registered)
            for name in names:
                register(registry, name, source / LORA_FILE, record, trigger=name)
            styles = Styles.of(Settings(backbone.bundle, registry))
            resident = names[: styles.bank.pages["lora"] - 1]
            for name in resident:
                styles.use_ms(name)
            found[registered] = (styles, resident)
        yield found
