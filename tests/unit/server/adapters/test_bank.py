from __future__ import annotations

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import erf
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.adapters.adapter import Adapter, parse
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.seat import Pages
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument, SetupError
from impasto_server.guidance import Mix
from impasto_server.settings import Precision
from impasto_server.stats import Stats
from tests.helpers import toy, toy_masked

Array = NDArray[Any]

RANK = 4
PAGE = 4 * RANK * 2 * (toy.CHANNELS + toy.WIDTH)  # bytes at rank 4: float32, A and B of both sites


def bank_of(manifest: Manifest, pages: int, rank: int = RANK, precision: Precision = "f32") -> Bank:
    """With so many pages of each form, beside page 0."""
    layout = Layout.of(manifest, rank, precision)
    return Bank(layout, layout.bytes_for(dict.fromkeys(layout.kinds, pages)), Stats())


def adapter(manifest: Manifest, seed: int, rank: int = 2) -> Adapter:
    found = parse(toy.adapter_bytes(seed, rank), f"digest{seed}", f"style{seed}", manifest)
    assert isinstance(found, Adapter)
    return found


def alone(one: Adapter) -> Mix:
    return Mix.of([(one.digest, 1.0)])


def hold(bank: Bank, *adapters: Adapter, weights: tuple[float, ...] = ()) -> Pages:
    """The pages of a mix of them, pinned."""
    parts = zip(adapters, weights or [1.0] * len(adapters), strict=True)
    mix = Mix.of([(one.digest, weight) for one, weight in parts])
    pages = bank.take([mix], {one.digest: one for one in adapters}, pytest.fail)
    assert pages is not None
    return pages[mix]


def delta(bank: Bank, pages: Pages) -> NDArray[np.float32]:
    """What these pages add to a Linear's weights, [in, out]."""
    parts = [
        weight * bank.rows("unet", "mix.lora_A", "lora", page).T @ bank.rows("unet", "mix.lora_B", "lora", page)
        for page, weight in pages["lora"]
    ]
    found: NDArray[np.float32] = np.sum(parts, axis=0, dtype=np.float32)
    return found


def update(one: Adapter) -> NDArray[np.float32]:
    factors = one.factors["unet"]["mix"]
    product: NDArray[np.float32] = factors["lora_A"].T @ factors["lora_B"]
    return product


# What pages hold


@pytest.mark.parametrize(("rank", "pages"), [(1, 1), (4, 1), (5, 2), (16, 4), (23, 6)])
def test_an_adapter_takes_as_many_pages_as_its_rank_needs(rank: int, pages: int, manifest: Manifest) -> None:
    bank, one = bank_of(manifest, 8), adapter(manifest, 1, rank)
    found = hold(bank, one)
    assert len(found["lora"]) == pages
    np.testing.assert_allclose(delta(bank, found), update(one), atol=1e-5)


def test_a_mix_is_the_weighted_sum_of_its_adapters_whatever_their_ranks(manifest: Manifest) -> None:
    bank, one, two = bank_of(manifest, 8), adapter(manifest, 1), adapter(manifest, 2, rank=9)
    found = delta(bank, hold(bank, one, two, weights=(0.5, -2.0)))
    np.testing.assert_allclose(found, 0.5 * update(one) - 2 * update(two), atol=1e-5)


def test_no_adapter_has_no_page_and_page_zero_stays_zero(manifest: Manifest) -> None:
    bank = bank_of(manifest, 2)
    assert bank.take([Mix()], {}, pytest.fail) == {Mix(): {}}
    hold(bank, adapter(manifest, 1, 8))
    assert not any(table[:RANK].any() for tables in bank.buffers.values() for table in tables.values())


def test_a_site_that_an_adapter_leaves_alone_is_neutral_in_its_pages(manifest: Manifest) -> None:
    bank = bank_of(manifest, 1)
    deep = parse(toy.adapter_bytes(3, 4, text_encoder=True), "deep", "deep", manifest)
    assert isinstance(deep, Adapter)
    assert hold(bank, deep) == {"lora": ((1, 1.0),)}
    assert bank.rows("text_encoder", "proj.lora_A", "lora", 1).any()
    bank.leave([alone(deep)])
    assert hold(bank, adapter(manifest, 1)) == {"lora": ((1, 1.0),)}
    assert not bank.rows("text_encoder", "proj.lora_A", "lora", 1).any()


def test_a_page_that_is_reused_forgets_what_it_held(manifest: Manifest) -> None:
    bank, wide, narrow = bank_of(manifest, 1), adapter(manifest, 1, 4), adapter(manifest, 2, 1)
    hold(bank, wide)
    bank.leave([alone(wide)])
    np.testing.assert_allclose(delta(bank, hold(bank, narrow)), update(narrow), atol=1e-6)


# Written once


def test_an_adapter_is_written_once_whatever_mixes_it_stands_in(manifest: Manifest) -> None:
    """Sixty-four different mixes of one to five of ten adapters, all held at once."""
    draw = np.random.default_rng(0)
    bank = bank_of(manifest, 40)
    adapters = {one.digest: one for one in (adapter(manifest, seed, rank=1 + 2 * seed) for seed in range(10))}
    mixes: dict[Mix, None] = {}
    while len(mixes) < 64:
        chosen = draw.choice(10, size=int(draw.integers(1, 6)), replace=False)
        mixes[Mix.of([(f"digest{number}", float(draw.uniform(0.1, 1))) for number in chosen])] = None
    for mix in mixes:
        found = bank.take([mix], adapters, pytest.fail)
        assert found is not None
        expected = sum(np.float32(weight) * update(adapters[digest]) for digest, weight in mix.parts)
        np.testing.assert_allclose(delta(bank, found[mix]), expected, atol=1e-4)
    stats = bank._stats.read()
    assert {digest for mix in mixes for digest, _ in mix.parts} == adapters.keys()
    assert (stats["bank_writes"], stats["bank_evictions"]) == (10, 0)
    assert stats["bank_written_bytes"] == PAGE * sum((one.rank + 3) // 4 for one in adapters.values())


def test_a_resident_adapter_is_not_written_again(manifest: Manifest) -> None:
    bank, one = bank_of(manifest, 4), adapter(manifest, 1)
    before = delta(bank, hold(bank, one))
    bank.leave([alone(one)])
    other = replace(adapter(manifest, 2), digest=one.digest)
    np.testing.assert_array_equal(delta(bank, hold(bank, other)), before)
    assert bank.writes == 1


def test_one_that_was_evicted_and_comes_back_is_written_again(manifest: Manifest) -> None:
    """To the same page, in which another has been meanwhile."""
    bank, one, two = bank_of(manifest, 1), adapter(manifest, 1), adapter(manifest, 2)
    for each in (one, two, one, two):
        np.testing.assert_allclose(delta(bank, hold(bank, each)), update(each), atol=1e-6)
        bank.leave([alone(each)])
    assert bank.writes == 4


def test_nothing_that_is_held_is_overwritten(manifest: Manifest) -> None:
    bank, held = bank_of(manifest, 2), adapter(manifest, 1)
    pages = hold(bank, held)
    for seed in (2, 3, 4):
        hold(bank, adapter(manifest, seed))
        bank.leave([alone(adapter(manifest, seed))])
    np.testing.assert_allclose(delta(bank, pages), update(held), atol=1e-6)


def test_pages_that_could_not_be_written_are_idle_again_and_hold_nobody(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, one = bank_of(manifest, 1), adapter(manifest, 1)
    with monkeypatch.context() as patch:
        patch.setattr(bank, "_write_page", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hold(bank, one)
    np.testing.assert_allclose(delta(bank, hold(bank, one)), update(one), atol=1e-6)


def test_nobody_waits_for_what_others_write(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """But those who want just that: a resident mix, no mix at all, and who leaves, go on."""
    bank, here, coming = bank_of(manifest, 4), adapter(manifest, 1), adapter(manifest, 2)
    hold(bank, here)
    writing, may, write = Event(), Event(), bank._write_page

    def write_slowly(*given: Any) -> None:
        writing.set()
        assert may.wait(60)
        write(*given)

    monkeypatch.setattr(bank, "_write_page", write_slowly)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(hold, bank, coming)
        assert writing.wait(60)
        second = pool.submit(hold, bank, coming)
        assert pool.submit(hold, bank, here).result(60)
        pool.submit(bank.leave, [alone(here)]).result(60)
        assert pool.submit(bank.take, [Mix()], {}, pytest.fail).result(60) == {Mix(): {}}
        assert not first.done()
        assert not second.done()
        may.set()
        assert first.result(60) == second.result(60)
    np.testing.assert_allclose(delta(bank, first.result()), update(coming), atol=1e-6)
    assert bank._stats.read()["bank_writes"] == 2


# Who waits


def test_who_finds_no_idle_page_is_called_when_there_is_one_for_it(manifest: Manifest) -> None:
    bank, one, two = bank_of(manifest, 1), adapter(manifest, 1), adapter(manifest, 2)
    hold(bank, one)
    called: list[str] = []

    def again() -> None:
        called.append("again")

    assert bank.take([alone(two)], {two.digest: two}, again) is None
    assert (called, bank.waiting) == ([], 1)
    bank.leave([alone(one)])
    assert called == ["again"]
    found = bank.take([alone(two)], {two.digest: two}, again)
    assert found is not None
    np.testing.assert_allclose(delta(bank, found[alone(two)]), update(two), atol=1e-6)
    bank.leave([alone(two)])
    assert (bank.waiting, bank.pinned) == (0, 0)


def test_mixes_of_a_request_are_had_together_or_not_at_all(manifest: Manifest) -> None:
    bank = bank_of(manifest, 2)
    adapters = {f"digest{i}": adapter(manifest, i) for i in (1, 2, 3)}
    one, two, three = (alone(one) for one in adapters.values())
    hold(bank, adapters["digest3"])
    again = list[None]().clear
    assert bank.take([one, two], adapters, again) is None
    bank.forget(again)
    assert bank.take([one], adapters, pytest.fail) is not None  # nothing was held back for the two
    with pytest.raises(InvalidArgument, match="take 3 pages of rank 4, but the server's bank has 2"):
        bank.take([one, two, three], adapters, pytest.fail)


# What it can't hold


@pytest.mark.parametrize("ranks", [(9,), (100,), (3, 9), (20, 30, 40), (600,)])
def test_a_bank_of_the_size_that_a_refusal_names_holds_what_was_refused(
    ranks: tuple[int, ...], manifest: Manifest
) -> None:
    adapters = {f"digest{i}": adapter(manifest, i, rank) for i, rank in enumerate(ranks)}
    mix = Mix.of([(digest, 1.0) for digest in adapters])
    with pytest.raises(InvalidArgument) as refusal:
        bank_of(manifest, 1).take([mix], adapters, pytest.fail)
    advised = re.search(r"use fewer adapters, or start the server with --bank-bytes (\d+)$", str(refusal.value))
    assert advised, refusal.value
    layout = Layout.of(manifest, RANK, "f32")
    assert Bank(layout, int(advised[1]), Stats()).take([mix], adapters, pytest.fail) is not None
    with pytest.raises(InvalidArgument):
        Bank(layout, int(advised[1]) - 1, Stats()).take([mix], adapters, pytest.fail)


def test_a_refusal_leaves_nothing_pinned(manifest: Manifest) -> None:
    bank, good, wide = bank_of(manifest, 2), adapter(manifest, 1), adapter(manifest, 2, rank=9)
    with pytest.raises(InvalidArgument, match="take 4 pages"):
        bank.take([alone(good), alone(wide)], {"digest1": good, "digest2": wide}, pytest.fail)
    assert (bank.pinned, bank.waiting) == (0, 0)


def test_a_mix_of_more_rank_than_engines_are_made_for_is_refused(manifest: Manifest) -> None:
    bank, wide = bank_of(manifest, 400), adapter(manifest, 1, rank=1025)
    with pytest.raises(InvalidArgument, match="a mix has rank 1028 in all, more than 1024; use fewer"):
        hold(bank, wide)


def test_a_bank_without_room_for_one_page_is_an_error(manifest: Manifest) -> None:
    with pytest.raises(
        SetupError, match=f"bank_bytes: {PAGE} is too small for a page of rank 4; pass {2 * PAGE} or more"
    ):
        Bank(Layout.of(manifest, RANK, "f32"), PAGE, Stats())


def test_a_site_for_adapters_that_nobody_knows_is_an_error(manifest: Manifest) -> None:
    site = manifest.graphs["unet"].sites[0].model_copy(update={"kind": "warp"})
    graph = manifest.graphs["unet"].model_copy(update={"sites": (site,)})
    strange = manifest.model_copy(update={"graphs": {"unet": graph}})
    with pytest.raises(SetupError, match="^bundle: mix is a site for adapters of the kind 'warp', which is none of"):
        Layout.of(strange, RANK, "f32")


def test_memory_that_nobody_wrote_costs_nothing(manifest: Manifest) -> None:
    """Of two GB that are promised no more is taken than a page has."""
    before = _resident_bytes()
    bank = Bank(Layout.of(manifest, 512, "f32"), 2 << 30, Stats())
    hold(bank, adapter(manifest, 1, 512))
    assert sum(table.nbytes for tables in bank.buffers.values() for table in tables.values()) > 1 << 30
    assert _resident_bytes() - before < 64 << 20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Bottlenecks


def bottleneck(manifest: Manifest, seed: int, rank: int = 2, gelu: Literal["exact", "tanh"] = "exact") -> Adapter:
    data = toy_masked.bottleneck_bytes(seed, rank, gelu=gelu)
    found = parse(data, f"digest{seed}", f"style{seed}", manifest)
    assert isinstance(found, Adapter)
    return found


def gelu(x: NDArray[np.float64], tanh: NDArray[np.float64]) -> NDArray[np.float64]:
    """The approximation where `tanh` is 1, the exact function where it is 0."""
    exact = 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))
    near = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    mixed: NDArray[np.float64] = exact + tanh * (near - exact)
    return mixed


def added(parts: Mapping[str, Array], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a bottleneck adds to x [n, D]."""
    hidden = gelu(x @ parts["down"].T.astype(np.float64), parts["tanh"].T.astype(np.float64))
    return hidden @ parts["up"].astype(np.float64)


def held(bank: Bank, pages: Pages, x: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.zeros_like(x)
    for page, weight in pages["bottleneck"]:
        names = ("down", "up", "tanh")
        parts = {part: bank.rows("transformer", f"block.{part}", "bottleneck", page) for part in names}
        found += weight * added(parts, x)
    return found


def test_each_form_has_tables_and_pages_of_its_own(masked_manifest: Manifest) -> None:
    bank = bank_of(masked_manifest, 4)
    assert {name: table.shape[1:] for name, table in bank.buffers["transformer"].items()} == {
        "mix.lora_A": (toy.WIDTH,),
        "mix.lora_B": (toy.WIDTH,),
        "block.down": (toy.WIDTH,),
        "block.up": (toy.WIDTH,),
        "block.tanh": (1,),
    }
    lora = parse(toy_masked.lora_bytes(2), "digest2", "x", masked_manifest)
    assert isinstance(lora, Adapter)
    pages = hold(bank, bottleneck(masked_manifest, 1), lora, weights=(1.0, 0.5))
    assert pages == {"bottleneck": ((1, 1.0),), "lora": ((1, 0.5),)}


def test_hidden_units_beyond_the_adapters_add_nothing_whatever_their_gelu(masked_manifest: Manifest) -> None:
    bank = bank_of(masked_manifest, 1, rank=8)
    hold(bank, bottleneck(masked_manifest, 1, rank=3, gelu="tanh"))
    rows = {part: bank.rows("transformer", f"block.{part}", "bottleneck", 1) for part in ("down", "up", "tanh")}
    np.testing.assert_array_equal(rows["tanh"][:, 0], [1, 1, 1, 0, 0, 0, 0, 0])
    assert not rows["down"][3:].any()
    assert not rows["up"][3:].any()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, -2.0), (-0.25, 4.0)])
def test_a_mix_of_either_gelu_is_the_weighted_sum_of_what_they_add(
    weights: tuple[float, float], masked_manifest: Manifest
) -> None:
    bank = bank_of(masked_manifest, 8)
    parts = bottleneck(masked_manifest, 1, rank=3), bottleneck(masked_manifest, 2, rank=6, gelu="tanh")
    x = np.random.default_rng(0).standard_normal((20, toy.WIDTH))
    each = [added(part.factors["transformer"]["block"], x) for part in parts]
    expected = weights[0] * each[0] + weights[1] * each[1]
    np.testing.assert_allclose(held(bank, hold(bank, *parts, weights=weights), x), expected, atol=1e-5)


def test_bf16_holds_the_gelu_exactly(masked_manifest: Manifest) -> None:
    bank = bank_of(masked_manifest, 1, precision="bf16")
    hold(bank, bottleneck(masked_manifest, 1, gelu="tanh"))
    assert bank.rows("transformer", "block.tanh", "bottleneck", 1).tolist() == [[0x3F80], [0x3F80], [0], [0]]
