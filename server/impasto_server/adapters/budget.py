"""The default size of the adapter banks.

For engines on the CPU it is a quarter of the memory that is free in the machine or container when the server starts.
For engines on a GPU, where weights take less, it is a third of the GPU's free memory. `impasto doctor` prints both. It
never exceeds USEFUL pages of each form. Memory is measured before the weights are loaded; they and the passes have the
rest.
"""

from __future__ import annotations

from impasto_server.adapters.layout import Layout
from impasto_server.engines.footprint import free_memory, whole_memory
from impasto_server.engines.gpu import Gpu
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.settings import Settings

SHARE, SHARE_ON_GPU = 4, 3
USEFUL = 256  # pages; of rank 16 they hold 64 adapters of rank 64


def capacity(layout: Layout, settings: Settings, runtime: Runtime) -> int:
    """The bytes of a bank under these settings. Raises SetupError for less than a page or more than all memory."""
    said = settings.bank_bytes or bank_bytes(layout, runtime.gpu, len(settings.folders))
    check(layout, said)
    if runtime.gpu is None and said > (most := whole_memory()):
        raise SetupError(f"bank_bytes: {said} is more than all memory ({most}); pass less, or auto")
    return said


def check(layout: Layout, capacity: int) -> None:
    """Raises SetupError where `capacity` bytes have no room for a page of each form."""
    if min(layout.pages_in(capacity).values(), default=2) < 2:
        least = layout.bytes_for(dict.fromkeys(layout.kinds, 1))
        raise SetupError(f"bank_bytes: {capacity} is too small for a page of rank {layout.rank}; pass {least} or more")


def bank_bytes(layout: Layout, gpu: Gpu | None, bundles: int = 1) -> int:
    """The default bytes of each bank of so many `bundles`, on a GPU or on the CPU."""
    share = free_memory() // SHARE if gpu is None else gpu.free // SHARE_ON_GPU
    return min(share // bundles, layout.bytes_for(dict.fromkeys(layout.kinds, USEFUL)))


def adapters_that_fit(layout: Layout, capacity: int, kind: str, rank: int) -> int:
    """How many adapters of a form and rank a bank of `capacity` bytes holds at once."""
    return max(0, layout.pages_in(capacity)[kind] - 1) // layout.pages(kind, rank)
