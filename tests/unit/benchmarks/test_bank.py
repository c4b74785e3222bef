from __future__ import annotations

from pathlib import Path

from benchmarks import bank

from impasto_server.adapters.budget import SHARE, adapters_that_fit
from impasto_server.engines.footprint import GIB

NOTES = Path(__file__).parents[3] / "docs" / "operating.md"


def test_the_operators_notes_have_the_table_that_the_command_prints() -> None:
    assert bank.markdown(16, "bf16") in NOTES.read_text()


def test_eight_sdxl_loras_of_rank_64_are_ready_by_default_wherever_sdxl_fits() -> None:
    """In bf16 its weights want 20 GiB on the CPU."""
    layout = bank.layout_of("sdxl", 16, "bf16")
    capacity = 20 * GIB // SHARE
    assert adapters_that_fit(layout, capacity, "lora", 64) >= 8
