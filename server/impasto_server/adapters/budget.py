"""How much memory a bank may take where nobody says so.

A quarter of what is free when the server starts, and no more than USEFUL pages of each form take. Free is what
`impasto doctor` prints: of the machine, or of the container, for engines on the CPU; of the GPU for engines on one. The
weights are not there yet when it is looked at: they and what a pass needs have the rest.
"""

from __future__ import annotations

from impasto_server.adapters.layout import Layout
from impasto_server.engines.footprint import free_memory
from impasto_server.engines.runtime import Runtime

SHARE = 4
USEFUL = 256  # of rank 16: 64 adapters of rank 64


def free_bytes(runtime: Runtime) -> int:
    """Where the runtime computes."""
    return free_memory() if runtime.gpu is None else runtime.gpu.free


def bank_bytes(layout: Layout, free: int) -> int:
    """What of so much free memory a bank takes."""
    return min(free // SHARE, layout.bytes_for(dict.fromkeys(layout.kinds, USEFUL)))


def adapters_that_fit(layout: Layout, capacity: int, kind: str, rank: int) -> int:
    """How many adapters of a form and rank a bank of `capacity` bytes holds at once."""
    return max(0, layout.pages_in(capacity)[kind] - 1) // layout.pages(kind, rank)
