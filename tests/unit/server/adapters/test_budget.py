from __future__ import annotations

from pathlib import Path

import pytest

from impasto_server.adapters.bank import Bank
from impasto_server.adapters.budget import SHARE, USEFUL, adapters_that_fit, bank_bytes, free_bytes
from impasto_server.adapters.layout import Layout
from impasto_server.bundle import Manifest
from impasto_server.engines.gpu import Gpu
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.settings import Settings
from impasto_server.stats import Stats

GIB = 1 << 30
CPU, ON_GPU = Runtime("onnxruntime", "f32", 1), Runtime("tensorrt", "f32", 1, gpu=Gpu(0, "G", "9.0", 1, 5 * GIB, "1"))


@pytest.fixture
def layout(manifest: Manifest) -> Layout:
    return Layout.of(manifest, 16, "f32")


def test_a_bank_takes_a_quarter_of_what_is_free_where_it_is_short(layout: Layout) -> None:
    free = 40 * layout.page_bytes("lora")
    assert bank_bytes(layout, free) == free // SHARE
    assert [adapters_that_fit(layout, free // SHARE, "lora", rank) for rank in (1, 16, 17, 64, 256)] == [9, 9, 4, 2, 0]


def test_it_takes_no_more_than_is_of_use(layout: Layout, masked_manifest: Manifest) -> None:
    for each in (layout, Layout.of(masked_manifest, 16, "bf16")):
        found = bank_bytes(each, 1 << 50)
        assert min(each.pages_in(found).values()) == USEFUL + 1
        assert min(each.pages_in(found - len(each.kinds)).values()) == USEFUL


def test_bf16_has_room_for_twice_as_many(manifest: Manifest, layout: Layout) -> None:
    assert 2 * Layout.of(manifest, 16, "bf16").page_bytes("lora") == layout.page_bytes("lora")


def test_each_form_has_an_equal_share(masked_manifest: Manifest) -> None:
    layout = Layout.of(masked_manifest, 16, "f32")
    assert layout.pages_in(1 << 20) == {kind: (1 << 19) // layout.page_bytes(kind) for kind in ("lora", "bottleneck")}


def test_what_is_free_is_looked_at_where_the_engine_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto_server.adapters.budget.free_memory", lambda: 3 * GIB)
    assert (free_bytes(CPU), free_bytes(ON_GPU)) == (3 * GIB, 5 * GIB)


def test_a_bank_is_as_large_as_is_said_or_else_as_memory_allows(
    manifest: Manifest, layout: Layout, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = layout.page_bytes("lora")
    settings, said = Settings(bundle, bundle), Settings(bundle, bundle, bank_bytes=7 * page)
    monkeypatch.setattr("impasto_server.adapters.budget.free_memory", lambda: 40 * page)
    assert Bank.of(manifest, settings, CPU, Stats()).pages == {"lora": 10}
    assert Bank.of(manifest, said, CPU, Stats()).pages == {"lora": 7}
    monkeypatch.setattr("impasto_server.adapters.budget.free_memory", lambda: 4 * page)
    with pytest.raises(SetupError, match=f"^bank_bytes: {page} holds no page of rank 16; pass {2 * page} or more"):
        Bank.of(manifest, settings, CPU, Stats())
