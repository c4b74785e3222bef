from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import erf
from threading import Event
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.adapters.adapter import Adapter, parse
from impasto_server.adapters.bank import Bank
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument, SetupError
from impasto_server.guidance import Mix
from impasto_server.stats import Stats
from tests.helpers import toy, toy_masked

Array = NDArray[Any]

ROW = 4 * 4 * 2 * (toy.CHANNELS + toy.WIDTH)  # bytes of one row at rank 4: float32, A and B of both sites


def adapter(manifest: Manifest, seed: int, rank: int = 2) -> Adapter:
    found = parse(toy.adapter_bytes(seed, rank), f"digest{seed}", f"style{seed}", manifest)
    assert isinstance(found, Adapter)
    return found


def hold(bank: Bank, one: Adapter) -> int:
    """The row of `one` alone, pinned."""
    mix = Mix.of([(one.digest, 1.0)])
    rows = bank.pin([mix], {one.digest: one}, pytest.fail)
    assert rows is not None
    return rows[mix]


def delta(bank: Bank, slot: int) -> NDArray[np.float32]:
    product: NDArray[np.float32] = bank.buffers["unet"]["mix.lora_A"][slot] @ bank.buffers["unet"]["mix.lora_B"][slot]
    return product


def test_a_mix_is_the_weighted_sum_of_its_adapters(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=8, capacity=1 << 20, stats=Stats())
    one, two = adapter(manifest, 1), adapter(manifest, 2, rank=3)
    mix = Mix.of([("digest1", 0.5), ("digest2", -2.0)])
    rows = bank.pin([mix], {"digest1": one, "digest2": two}, pytest.fail)
    assert rows is not None
    parts = [a.factors["unet"]["mix"] for a in (one, two)]
    expected = 0.5 * parts[0].a @ parts[0].b - 2 * parts[1].a @ parts[1].b
    np.testing.assert_allclose(delta(bank, rows[mix]), expected, atol=1e-5)


def test_no_adapter_is_row_zero_and_stays_zero(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=3 * ROW, stats=Stats())
    assert bank.pin([Mix()], {}, pytest.fail) == {Mix(): 0}
    hold(bank, adapter(manifest, 1))
    assert not delta(bank, 0).any()


def test_a_resident_mix_is_not_written_again(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=1 << 20, stats=Stats())
    row = hold(bank, adapter(manifest, 1))
    bank.unpin([row])
    other = replace(adapter(manifest, 2), digest="digest1")
    assert hold(bank, other) == row
    np.testing.assert_array_equal(
        bank.buffers["unet"]["mix.lora_A"][row][:, :2], adapter(manifest, 1).factors["unet"]["mix"].a
    )


def test_the_longest_idle_row_is_reused_and_cleared(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=3 * ROW, stats=Stats())
    assert bank.slots == 3
    first, second = (hold(bank, adapter(manifest, i)) for i in (1, 2))
    bank.unpin([second])
    third = adapter(manifest, 3, rank=1)
    assert hold(bank, third) == second
    factors = third.factors["unet"]["mix"]
    np.testing.assert_allclose(delta(bank, second), factors.a @ factors.b, atol=1e-6)
    assert first != second


def test_who_finds_no_idle_row_is_called_back_when_one_is_released(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=2 * ROW, stats=Stats())
    held = hold(bank, adapter(manifest, 1))
    before = delta(bank, held).copy()
    called: list[str] = []
    wanted = Mix.of([("digest2", 1.0)])
    assert bank.pin([wanted], {"digest2": adapter(manifest, 2)}, lambda: called.append("again")) is None
    np.testing.assert_array_equal(delta(bank, held), before)
    assert called == []
    bank.unpin([held])
    assert called == ["again"]
    assert hold(bank, adapter(manifest, 2)) == held


def test_those_who_wait_are_called_in_the_order_in_which_they_came(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=2 * ROW, stats=Stats())
    held, adapters = hold(bank, adapter(manifest, 1)), {f"digest{i}": adapter(manifest, i) for i in (2, 3, 4)}
    called: list[str] = []
    again = {digest: partial(called.append, digest) for digest in adapters}

    def ask(digest: str) -> dict[Mix, int] | None:
        return bank.pin([Mix.of([(digest, 1.0)])], adapters, again[digest])

    assert [ask(digest) for digest in adapters] == [None, None, None]
    bank.unpin([held])
    assert called == ["digest2", "digest3", "digest4"]
    rows = ask("digest2")
    assert rows is not None
    assert [ask("digest4"), ask("digest3")] == [None, None]  # the third asks before the second, and is behind it still
    bank.unpin(rows.values())
    assert called[3:] == ["digest3", "digest4"]


def test_nobody_is_called_while_no_row_is_idle(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=2 * ROW, stats=Stats())
    held, _ = (hold(bank, adapter(manifest, 1)) for _ in range(2))
    called: list[str] = []
    again = partial(called.append, "again")
    assert bank.pin([Mix.of([("digest2", 1.0)])], {"digest2": adapter(manifest, 2)}, again) is None
    bank.unpin([0])  # somebody without adapters leaves
    bank.unpin([held])  # one of two
    assert not called
    bank.unpin([held])
    assert called == ["again"]


def test_who_is_forgotten_is_not_called(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=2 * ROW, stats=Stats())
    held, again = hold(bank, adapter(manifest, 1)), partial(pytest.fail, "it was called")
    assert bank.pin([Mix.of([("digest2", 1.0)])], {"digest2": adapter(manifest, 2)}, again) is None
    bank.forget(again)
    bank.forget(again)
    bank.unpin([held])
    assert hold(bank, adapter(manifest, 2)) == held


def test_who_has_no_adapter_does_not_wait_for_somebodys_mix_to_be_written(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank(manifest, rank=4, capacity=1 << 20, stats=Stats())
    writing, may = Event(), Event()

    def write(*_: object) -> None:
        writing.set()
        assert may.wait(60)
        raise MemoryError

    monkeypatch.setattr(bank, "_write", write)
    with ThreadPoolExecutor(2) as pool:
        wide = pool.submit(hold, bank, adapter(manifest, 1))
        assert writing.wait(60)
        plain = pool.submit(bank.pin, [Mix()], {}, pytest.fail)
        assert plain.result(60) == {Mix(): 0}
        pool.submit(bank.unpin, [0]).result(60)
        pool.submit(bank.forget, pytest.fail).result(60)
        assert not wide.done()
        may.set()
        assert isinstance(wide.exception(60), MemoryError)


def test_rows_for_several_mixes_are_had_together_or_not_at_all(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=3 * ROW, stats=Stats())
    adapters = {f"digest{i}": adapter(manifest, i) for i in (1, 2, 3)}
    one, two, three = (Mix.of([(digest, 1.0)]) for digest in adapters)
    held = hold(bank, adapters["digest3"])
    assert bank.pin([one, two], adapters, lambda: None) is None
    assert bank.pin([one], adapters, pytest.fail) is not None  # nothing was held back for the two
    bank.unpin([held])
    rows = bank.pin([one, two, Mix()], adapters, pytest.fail)
    assert rows is not None
    assert len({rows[one], rows[two], rows[Mix()]}) == 3
    with pytest.raises(InvalidArgument, match="3 different mixes, the server's adapter bank holds 2"):
        bank.pin([one, two, three], adapters, pytest.fail)


def test_a_refused_mix_leaves_the_others_rows_released(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=3 * ROW, stats=Stats())
    good, wide = adapter(manifest, 1), adapter(manifest, 2, rank=9)
    for _ in range(3):
        with pytest.raises(InvalidArgument, match="rank 9"):
            bank.pin(
                [Mix.of([("digest1", 1.0)]), Mix.of([("digest2", 1.0)])],
                {"digest1": good, "digest2": wide},
                lambda: None,
            )
    assert {hold(bank, adapter(manifest, 3)), hold(bank, adapter(manifest, 4))} == {1, 2}


def test_a_higher_rank_widens_the_bank_and_keeps_its_rows(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=1 << 20, stats=Stats())
    row = hold(bank, adapter(manifest, 1))
    before, old = delta(bank, row).copy(), bank.buffers["unet"]
    hold(bank, adapter(manifest, 2, rank=9))
    assert bank.buffers["unet"] is not old
    assert bank.buffers["unet"]["mix.lora_A"].shape[-1] == 16
    np.testing.assert_array_equal(delta(bank, row), before)


def test_a_rank_beyond_the_banks_memory_is_refused(manifest: Manifest) -> None:
    bank = Bank(manifest, rank=4, capacity=2 * ROW, stats=Stats())
    with pytest.raises(InvalidArgument, match="rank 9.*--bank-rank 16"):
        hold(bank, adapter(manifest, 1, rank=9))


@pytest.mark.parametrize("ranks", [(9,), (100,), (3, 9), (20, 30, 40), (600,)])
def test_a_bank_of_the_options_that_a_refusal_names_holds_what_was_refused(
    ranks: tuple[int, ...], manifest: Manifest
) -> None:
    """Each rank is another mix of one request."""
    adapters = {f"digest{i}": adapter(manifest, i, rank) for i, rank in enumerate(ranks)}
    mixes = [Mix.of([(digest, 1.0)]) for digest in adapters]
    with pytest.raises(InvalidArgument) as refusal:
        Bank(manifest, rank=4, capacity=2 * ROW, stats=Stats()).pin(mixes, adapters, pytest.fail)
    advised = re.search(r"--bank-rank (\d+) --bank-bytes (\d+), room for (\d+) such mixes", str(refusal.value))
    assert advised, refusal.value
    rank, capacity, room = map(int, advised.groups())
    assert room >= len(mixes)
    bank = Bank(manifest, rank, capacity, Stats())
    assert bank.slots - 1 == room
    rows = bank.pin(mixes, adapters, pytest.fail)
    assert rows is not None
    assert bank.buffers["unet"]["mix.lora_A"].shape[-1] == rank  # it need not widen


def test_no_more_memory_is_advised_than_is_needed(manifest: Manifest) -> None:
    """Fewer rows of a higher rank often fit what the operator gave."""
    capacity = 60 * ROW  # as it stands, 59 mixes of rank 4; or 6 of rank 32
    with pytest.raises(InvalidArgument, match=f"--bank-rank 32 --bank-bytes {capacity}, room for 6 such mixes"):
        hold(Bank(manifest, rank=4, capacity=capacity, stats=Stats()), adapter(manifest, 1, rank=20))


def test_a_bank_without_room_for_one_adapter_is_an_error(manifest: Manifest) -> None:
    with pytest.raises(SetupError, match=f"pass {2 * ROW} or more"):
        Bank(manifest, rank=4, capacity=ROW, stats=Stats())


# bottlenecks


def bottleneck(
    manifest: Manifest, seed: int, rank: int = 2, gelu: Literal["exact", "tanh"] = "exact", digest: str | None = None
) -> Adapter:
    data = toy_masked.bottleneck_bytes(seed, rank, gelu=gelu)
    found = parse(data, digest or f"digest{seed}", f"style{seed}", manifest)
    assert isinstance(found, Adapter)
    return found


def gelu(x: NDArray[np.float64], tanh: NDArray[np.float64]) -> NDArray[np.float64]:
    """The approximation where `tanh` is 1, the exact function where it is 0."""
    exact = 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))
    near = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    mixed: NDArray[np.float64] = exact + tanh * (near - exact)
    return mixed


def added(down: Array, up: Array, tanh: Array, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a bottleneck adds to x [n, D]."""
    hidden = x @ down.astype(np.float64)
    return gelu(hidden, tanh.astype(np.float64)) @ up.astype(np.float64)


def held(bank: Bank, slot: int, x: NDArray[np.float64]) -> NDArray[np.float64]:
    buffers = bank.buffers["transformer"]
    down, up, tanh = (buffers[f"block.{part}"][slot] for part in ("down", "up", "tanh"))
    return added(down, up, tanh, x)


def test_a_bottleneck_has_ports_of_its_own(masked_manifest: Manifest) -> None:
    bank = Bank(masked_manifest, rank=4, capacity=1 << 20, stats=Stats())
    shapes = {name: buffer.shape[1:] for name, buffer in bank.buffers["transformer"].items()}
    assert shapes == {
        "mix.lora_A": (toy.WIDTH, 4),
        "mix.lora_B": (4, toy.WIDTH),
        "block.down": (toy.WIDTH, 4),
        "block.up": (4, toy.WIDTH),
        "block.tanh": (1, 4),
    }


def test_a_bottlenecks_row_leaves_loras_alone_and_the_other_way_round(masked_manifest: Manifest) -> None:
    bank = Bank(masked_manifest, rank=4, capacity=1 << 20, stats=Stats())
    lora = parse(toy_masked.lora_bytes(2), "digest2", "x", masked_manifest)
    assert isinstance(lora, Adapter)
    rows = hold(bank, bottleneck(masked_manifest, 1, gelu="tanh")), hold(bank, lora)
    written = {
        name: tuple(bool(buffer[row].any()) for row in (0, *rows))
        for name, buffer in bank.buffers["transformer"].items()
    }
    assert written == {
        **dict.fromkeys(["block.down", "block.up", "block.tanh"], (False, True, False)),
        **dict.fromkeys(["mix.lora_A", "mix.lora_B"], (False, False, True)),
    }


def test_hidden_units_beyond_the_adapters_add_nothing_whatever_their_gelu(masked_manifest: Manifest) -> None:
    bank = Bank(masked_manifest, rank=8, capacity=1 << 20, stats=Stats())
    row = hold(bank, bottleneck(masked_manifest, 1, rank=3, gelu="tanh"))
    np.testing.assert_array_equal(bank.buffers["transformer"]["block.tanh"][row], [[1, 1, 1, 0, 0, 0, 0, 0]])
    assert not bank.buffers["transformer"]["block.down"][row][:, 3:].any()
    assert not bank.buffers["transformer"]["block.up"][row][3:].any()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, -2.0), (-0.25, 4.0)])
def test_a_mix_of_either_gelu_is_the_weighted_sum_of_what_they_add(
    weights: tuple[float, float], masked_manifest: Manifest
) -> None:
    bank = Bank(masked_manifest, rank=8, capacity=1 << 20, stats=Stats())
    one, two = bottleneck(masked_manifest, 1, rank=3), bottleneck(masked_manifest, 2, rank=4, gelu="tanh")
    mix = Mix.of([("digest1", weights[0]), ("digest2", weights[1])])
    rows = bank.pin([mix], {"digest1": one, "digest2": two}, pytest.fail)
    assert rows is not None
    x = np.random.default_rng(0).standard_normal((20, toy.WIDTH))
    expected = np.zeros_like(x)
    for weight, adapter in zip(weights, (one, two), strict=True):
        factors = adapter.factors["transformer"]["block"]
        expected = expected + weight * added(factors.a, factors.b, factors.tanh, x)
    np.testing.assert_allclose(held(bank, rows[mix], x), expected, atol=1e-5)


def test_widening_keeps_what_every_bottleneck_adds(masked_manifest: Manifest) -> None:
    bank = Bank(masked_manifest, rank=4, capacity=1 << 20, stats=Stats())
    row = hold(bank, bottleneck(masked_manifest, 1, rank=4, gelu="tanh"))
    x = np.random.default_rng(0).standard_normal((5, toy.WIDTH))
    before = held(bank, row, x)
    wider = hold(bank, bottleneck(masked_manifest, 2, rank=11))
    assert bank.buffers["transformer"]["block.tanh"].shape[1:] == (1, 16)
    np.testing.assert_allclose(held(bank, row, x), before, rtol=1e-14)
    assert held(bank, wider, x).any()


def test_a_wide_bottleneck_leaves_loras_narrow(masked_manifest: Manifest) -> None:
    bank = Bank(masked_manifest, rank=4, capacity=1 << 20, stats=Stats())
    hold(bank, bottleneck(masked_manifest, 1, rank=64))
    assert bank.buffers["transformer"]["block.down"].shape[2] == 64
    assert bank.buffers["transformer"]["mix.lora_A"].shape[2] == 4


def test_a_row_that_is_reused_forgets_the_gelu_it_had(masked_manifest: Manifest) -> None:
    row = 4 * 4 * (2 * 3 * toy.WIDTH + 1)
    bank = Bank(masked_manifest, rank=4, capacity=2 * row, stats=Stats())
    assert bank.slots == 2
    bank.unpin([hold(bank, bottleneck(masked_manifest, 1, rank=4, gelu="tanh"))])
    reused = hold(bank, bottleneck(masked_manifest, 2, rank=4))
    assert not bank.buffers["transformer"]["block.tanh"][reused].any()


def test_bf16_holds_the_mask_exactly(masked_manifest: Manifest) -> None:
    bank = Bank(masked_manifest, 4, 1 << 20, Stats(), "bf16")
    row = hold(bank, bottleneck(masked_manifest, 1, gelu="tanh"))
    assert bank.buffers["transformer"]["block.tanh"][row].tolist() == [[0x3F80, 0x3F80, 0, 0]]
