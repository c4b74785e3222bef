from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from impasto_server.adapters.bank import Bank
from impasto_server.adapters.budget import USEFUL, adapters_that_fit, bank_bytes
from impasto_server.adapters.layout import Layout
from impasto_server.bundle import Manifest
from impasto_server.engines.footprint import free_memory, whole_memory
from impasto_server.engines.gpu import Gpu
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.settings import Settings
from impasto_server.stats import Stats

GPU = Gpu(0, "G", "9.0", 1, 1, "1")


@pytest.fixture
def layout(manifest: Manifest) -> Layout:
    return Layout.of(manifest, 16, "f32")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has so much memory free."""
    return lambda nbytes: monkeypatch.setattr("impasto_server.adapters.budget.free_memory", lambda: nbytes)


def test_a_bank_takes_a_quarter_of_what_is_free_where_it_is_short(layout: Layout, free: Callable[[int], None]) -> None:
    free(40 * layout.page_bytes("lora"))
    found = bank_bytes(layout, None)
    assert found == 10 * layout.page_bytes("lora")
    assert [adapters_that_fit(layout, found, "lora", rank) for rank in (1, 16, 17, 64, 256)] == [9, 9, 4, 2, 0]


def test_on_a_gpu_it_takes_a_third_of_what_is_free_there(layout: Layout, free: Callable[[int], None]) -> None:
    free(0)
    gpu = replace(GPU, free=30 * layout.page_bytes("lora"))
    assert bank_bytes(layout, gpu) == 10 * layout.page_bytes("lora")


def test_it_takes_no_more_than_is_of_use(
    layout: Layout, masked_manifest: Manifest, free: Callable[[int], None]
) -> None:
    free(1 << 50)
    for each in (layout, Layout.of(masked_manifest, 16, "bf16")):
        found = bank_bytes(each, None)
        assert min(each.pages_in(found).values()) == USEFUL + 1
        assert min(each.pages_in(found - len(each.kinds)).values()) == USEFUL


def test_bf16_has_room_for_twice_as_many(manifest: Manifest, layout: Layout) -> None:
    assert 2 * Layout.of(manifest, 16, "bf16").page_bytes("lora") == layout.page_bytes("lora")


def test_tables_on_a_gpu_are_f32(manifest: Manifest, bundle: Path) -> None:
    on_gpu = Runtime("tensorrt", "bf16", 1, gpu=replace(GPU, free=1 << 30))
    for runtime, dtype in ((on_gpu, np.float32), (Runtime("openvino", "bf16", 1), np.uint16)):
        bank = Bank.of(manifest, Settings(bundle, bundle), runtime, Stats())
        assert {table.dtype for table in bank.buffers["unet"].values()} == {np.dtype(dtype)}


def test_each_form_has_an_equal_share(masked_manifest: Manifest) -> None:
    layout = Layout.of(masked_manifest, 16, "f32")
    assert layout.pages_in(1 << 20) == {kind: (1 << 19) // layout.page_bytes(kind) for kind in ("lora", "bottleneck")}


def test_a_bank_is_as_large_as_is_said_or_else_as_memory_allows(
    manifest: Manifest, layout: Layout, bundle: Path, free: Callable[[int], None]
) -> None:
    page, runtime = layout.page_bytes("lora"), Runtime("onnxruntime", "f32", 1)
    settings, said = Settings(bundle, bundle), Settings(bundle, bundle, bank_bytes=7 * page)
    free(40 * page)
    assert Bank.of(manifest, settings, runtime, Stats()).pages == {"lora": 10}
    assert Bank.of(manifest, said, runtime, Stats()).pages == {"lora": 7}
    free(4 * page)
    with pytest.raises(SetupError, match=f"^bank_bytes: {page} is too small for a page of rank 16; pass {2 * page}"):
        Bank.of(manifest, settings, runtime, Stats())


def test_no_bank_is_larger_than_all_of_the_memory(
    manifest: Manifest, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impasto_server.adapters.budget.whole_memory", lambda: 1 << 20)
    most = Settings(bundle, bundle, bank_bytes=1 << 20)
    on_cpu = Runtime("onnxruntime", "f32", 1)
    Bank.of(manifest, most, on_cpu, Stats())
    message = r"^bank_bytes: 1048577 is more than all memory \(1048576\); pass less, or auto"
    with pytest.raises(SetupError, match=message):
        Bank.of(manifest, replace(most, bank_bytes=(1 << 20) + 1), on_cpu, Stats())


def test_all_of_the_memory_is_no_less_than_what_is_free() -> None:
    assert free_memory() < whole_memory() < 1 << 50
