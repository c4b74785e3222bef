from __future__ import annotations

from pathlib import Path

import pytest
import torch
from studio.training import kept, workers
from studio.training.curve import draw_curve
from studio.training.kept import Average, Kept
from studio.training.loop import Budget, Loop, one_cycle
from studio.training.optimisers import Optimisers
from torch import Tensor, nn

BUDGET = Budget(steps=6, minutes=5)


class PowerCut(Exception):
    pass


class Descent:
    """A recipe that draws two weights towards zero. It may be cut off before a step."""

    def __init__(self, path: Path, cut_before: int | None = None) -> None:
        self.module = nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.module.weight)
        optimisers = Optimisers(torch.optim.Adam(self.module.parameters(), lr=0.1))
        self.kept = Kept.of(path, self.module, optimisers, BUDGET, decay=0.5, warmup=2)
        self.cut_before = cut_before
        self.taken: list[int] = []

    def loss(self) -> Tensor:
        if self.kept.loop.step == self.cut_before:
            raise PowerCut
        self.taken.append(self.kept.loop.step)
        return self.module.weight.square().sum()

    def run(self) -> None:
        self.kept.resume()
        self.kept.run(self.loss)


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SAVE_SECONDS", 0.0)
    whole, first = Descent(tmp_path / "whole.pt"), Descent(tmp_path / "runs" / "halves.pt", cut_before=4)
    whole.run()
    with pytest.raises(PowerCut):
        first.run()

    second = Descent(tmp_path / "runs" / "halves.pt")
    second.run()
    assert second.taken == [4, 5]
    assert second.kept.loop.losses == whole.kept.loop.losses
    assert torch.equal(second.module.weight, whole.module.weight)
    assert torch.equal(second.kept.average.state["weight"], whole.kept.average.state["weight"])
    assert second.kept.loop.seconds > first.kept.loop.seconds


def test_what_came_after_the_last_save_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "descent.pt"
    with pytest.raises(PowerCut):
        Descent(path, cut_before=4).run()
    again = Descent(path)
    again.run()
    assert again.taken == [0, 1, 2, 3, 4, 5]


def test_a_spent_budget_trains_no_further(tmp_path: Path) -> None:
    path = tmp_path / "descent.pt"
    Descent(path).run()
    again = Descent(path)
    again.run()
    assert again.kept.loop.step == 6
    assert again.taken == []


def test_averaged_weights_are_there_for_a_while(tmp_path: Path) -> None:
    descent = Descent(tmp_path / "descent.pt")
    descent.run()
    trained = descent.module.weight.clone()
    with descent.kept.averaged():
        assert torch.equal(descent.module.weight, descent.kept.average.state["weight"])
        assert not torch.equal(descent.module.weight, trained)
    assert torch.equal(descent.module.weight, trained)


def test_the_budget_ends_by_steps_or_by_minutes() -> None:
    assert BUDGET.spent(3, seconds=0) == 0.5
    assert BUDGET.spent(0, seconds=75) == 0.25
    assert BUDGET.spent(7, seconds=75) == 1
    assert BUDGET.spent(1, seconds=1e6) == 1
    assert Budget(steps=4).spent(1, seconds=1e6) == 0.25


def test_jobs_are_called_as_often_as_their_period_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "slowest", lambda seconds: 10.0)
    weight = nn.Parameter(torch.ones(()))
    loop, called = Loop("jobs", BUDGET, Optimisers(torch.optim.SGD([weight], lr=0.1)), warmup=1), []
    loop.run(lambda: weight * 2, {20.0: lambda: called.append(loop.step)})
    assert called == [2, 4, 6]


def test_a_step_is_as_long_as_the_rate_says() -> None:
    weight = nn.Parameter(torch.ones(()))
    loop = Loop("rate", Budget(steps=3), Optimisers(torch.optim.SGD([weight], lr=0.1)), warmup=2)
    places: list[float] = []

    def loss() -> Tensor:
        places.append(float(weight.detach()))
        return 2 * weight

    loop.run(loss)
    taken = [(a - b) / 0.2 for a, b in zip(places, [*places[1:], float(weight.detach())], strict=True)]
    assert taken == pytest.approx([one_cycle(step / 3, step, warmup=2) for step in range(3)], abs=1e-5)


def test_gradients_are_clipped_together() -> None:
    one, other = (nn.Parameter(torch.zeros(())) for _ in range(2))
    parts = (torch.optim.SGD([weight], lr=1.0) for weight in (one, other))
    Optimisers(*parts, clip=1.0).step(30 * one + 40 * other, factor=1.0)
    assert (one.item(), other.item()) == pytest.approx((-0.6, -0.8), abs=1e-5)


def test_the_learning_rate_warms_up_then_falls_to_its_floor() -> None:
    assert one_cycle(0, step=0, warmup=10) == pytest.approx(0.1)
    assert one_cycle(0, step=9, warmup=10) == pytest.approx(1)
    assert one_cycle(0.5, step=50, warmup=10) == pytest.approx(0.51)
    assert one_cycle(1, step=100, warmup=10, floor=0.02) == pytest.approx(0.02)


def test_an_average_follows_the_weights_and_forgets_the_start() -> None:
    module = nn.Linear(2, 2)
    average = Average(module, decay=0.5)
    nn.init.constant_(module.weight, 3.0)
    for step in range(40):
        average.update(module, step)
    torch.testing.assert_close(average.state["weight"], module.weight.data)


def test_a_curve_is_drawn(tmp_path: Path) -> None:
    draw_curve([1.0, 0.5, 0.25], "halving", tmp_path / "docs" / "curve.png")
    assert (tmp_path / "docs" / "curve.png").read_bytes().startswith(b"\x89PNG")
