"""How much memory a bank may take where nobody says so.

For engines on the CPU a quarter of the memory that the machine has free, or the container, when the server starts; for
engines on a GPU, where weights take less, a third of the GPU's. `impasto doctor` prints both. And no more than USEFUL
pages of each form take. The weights are not there yet when it is looked at: they and what a pass needs have the rest.
"""

from __future__ import annotations

from impasto_server.adapters.layout import Layout
from impasto_server.engines.footprint import free_memory, whole_memory
from impasto_server.engines.gpu import Gpu
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.settings import Settings

SHARE, SHARE_ON_GPU = 4, 3
USEFUL = 256  # of rank 16: 64 adapters of rank 64


def capacity(layout: Layout, settings: Settings, runtime: Runtime) -> int:
    """What a bank takes as the settings have it. Raises SetupError for less than a page and for more than there is."""
    said = settings.bank_bytes or bank_bytes(layout, runtime.gpu, len(settings.folders))
    check(layout, said)
    if runtime.gpu is None and said > (most := whole_memory()):
        raise SetupError(f"bank_bytes: {said} is more than all of the memory, {most}; pass less, or auto")
    return said


def check(layout: Layout, capacity: int) -> None:
    """Raises SetupError where a form of adapters has no page in so many bytes."""
    if min(layout.pages_in(capacity).values(), default=2) < 2:
        least = layout.bytes_for(dict.fromkeys(layout.kinds, 1))
        raise SetupError(f"bank_bytes: {capacity} holds no page of rank {layout.rank}; pass {least} or more")


def bank_bytes(layout: Layout, gpu: Gpu | None, bundles: int = 1) -> int:
    """What the bank of each of so many `bundles` takes, on a GPU or on the CPU."""
    share = free_memory() // SHARE if gpu is None else gpu.free // SHARE_ON_GPU
    return min(share // bundles, layout.bytes_for(dict.fromkeys(layout.kinds, USEFUL)))


def adapters_that_fit(layout: Layout, capacity: int, kind: str, rank: int) -> int:
    """How many adapters of a form and rank a bank of `capacity` bytes holds at once."""
    return max(0, layout.pages_in(capacity)[kind] - 1) // layout.pages(kind, rank)
