from __future__ import annotations

from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray

import toy
from impasto_server.adapters import Adapter, parse
from impasto_server.bank import Bank
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument, SetupError
from impasto_server.guidance import Mix
from impasto_server.stats import Stats

ROW = 4 * 4 * 2 * (toy.CHANNELS + toy.WIDTH)  # bytes of one row at rank 4: float32, A and B of both sites


def adapter(manifest: Manifest, seed: int, rank: int = 2) -> Adapter:
    return parse(toy.adapter_bytes(seed, rank), f"digest{seed}", f"style{seed}", manifest)


def delta(bank: Bank, slot: int) -> NDArray[np.float32]:
    product: NDArray[np.float32] = bank.buffers["unet"]["mix.lora_A"][slot] @ bank.buffers["unet"]["mix.lora_B"][slot]
    return product


def test_a_mix_is_the_weighted_sum_of_its_adapters(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=8, capacity=1 << 20, stats=Stats())
    one, two = adapter(manifest, 1), adapter(manifest, 2, rank=3)
    slot = bank.pin(Mix.of([("digest1", 0.5), ("digest2", -2.0)]), [one, two])
    parts = [a.factors["unet"]["mix"] for a in (one, two)]
    expected = 0.5 * parts[0].a @ parts[0].b - 2 * parts[1].a @ parts[1].b
    np.testing.assert_allclose(delta(bank, slot), expected, atol=1e-5)


def test_no_adapter_is_row_zero_and_stays_zero(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=3 * ROW, stats=Stats())
    assert bank.pin(Mix(), []) == 0
    bank.pin(Mix.of([("digest1", 1.0)]), [adapter(manifest, 1)])
    assert not delta(bank, 0).any()


def test_a_resident_mix_is_not_written_again(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=1 << 20, stats=Stats())
    mix = Mix.of([("digest1", 1.0)])
    slot = bank.pin(mix, [adapter(manifest, 1)])
    bank.unpin(slot)
    assert bank.pin(mix, [adapter(manifest, 2)]) == slot
    assert delta(bank, slot).any()
    np.testing.assert_array_equal(
        bank.buffers["unet"]["mix.lora_A"][slot][:, :2], adapter(manifest, 1).factors["unet"]["mix"].a
    )


def test_the_longest_idle_row_is_reused_and_cleared(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=3 * ROW, stats=Stats())
    assert bank.slots == 3
    first, second = (bank.pin(Mix.of([(f"digest{i}", 1.0)]), [adapter(manifest, i)]) for i in (1, 2))
    bank.unpin(second)
    third = adapter(manifest, 3, rank=1)
    assert bank.pin(Mix.of([("digest3", 1.0)]), [third]) == second
    factors = third.factors["unet"]["mix"]
    np.testing.assert_allclose(delta(bank, second), factors.a @ factors.b, atol=1e-6)
    assert first != second


def test_a_pin_waits_for_a_row_instead_of_taking_one_in_use(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=2 * ROW, stats=Stats())
    held = bank.pin(Mix.of([("digest1", 1.0)]), [adapter(manifest, 1)])
    before = delta(bank, held).copy()
    waiter = Thread(target=bank.pin, args=(Mix.of([("digest2", 1.0)]), [adapter(manifest, 2)]))
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    np.testing.assert_array_equal(delta(bank, held), before)
    bank.unpin(held)
    waiter.join(5)
    assert not waiter.is_alive()


def test_a_higher_rank_widens_the_bank_and_keeps_its_rows(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=1 << 20, stats=Stats())
    slot = bank.pin(Mix.of([("digest1", 1.0)]), [adapter(manifest, 1)])
    before, old = delta(bank, slot).copy(), bank.buffers["unet"]
    bank.pin(Mix.of([("digest2", 1.0)]), [adapter(manifest, 2, rank=9)])
    assert bank.buffers["unet"] is not old
    assert bank.buffers["unet"]["mix.lora_A"].shape[-1] == 16
    np.testing.assert_array_equal(delta(bank, slot), before)


def test_a_rank_beyond_the_banks_memory_is_refused(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=2 * ROW, stats=Stats())
    with pytest.raises(InvalidArgument, match="rank 9.*--bank-rank 16"):
        bank.pin(Mix.of([("digest1", 1.0)]), [adapter(manifest, 1, rank=9)])


def test_a_bank_without_room_for_one_adapter_is_an_error(manifest: Manifest) -> None:
    with pytest.raises(SetupError, match=f"pass {2 * ROW} or more"):
        Bank(manifest, rank=4, capacity=ROW, stats=Stats())
