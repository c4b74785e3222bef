from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import training
import workers
from training import Average, Budget, Loop, draw_curve, one_cycle

BUDGET = Budget(steps=6, minutes=5)


class PowerCut(Exception):
    pass


class Halving:
    """A recipe whose weight halves every step; the loss is the weight. It may be cut off before a step."""

    def __init__(self, path: Path, cut_before: int | None = None) -> None:
        self.loop = Loop(path, BUDGET)
        self.cut_before = cut_before
        self.weight = torch.ones(())
        self.spent: list[float] = []

    def train_step(self, spent: float) -> Tensor:
        if self.loop.step == self.cut_before:
            raise PowerCut
        assert spent == self.loop.spent
        self.spent.append(self.loop.step / BUDGET.steps)
        loss = self.weight.clone()
        self.weight /= 2
        return loss

    def run(self) -> None:
        if saved := self.loop.resume():
            self.weight = saved["weight"]
        self.loop.run(self.train_step, lambda: {"weight": self.weight})


def test_a_loop_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    path = tmp_path / "runs" / "halving.pt"
    first = Halving(path, cut_before=4)
    with pytest.raises(PowerCut):
        first.run()

    second = Halving(path)
    second.run()
    assert first.loop.step == 4
    assert second.spent == [4 / 6, 5 / 6]
    assert second.loop.losses == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert second.loop.seconds > first.loop.seconds


def test_what_came_after_the_last_save_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "halving.pt"
    with pytest.raises(PowerCut):
        Halving(path, cut_before=4).run()
    again = Halving(path)
    again.run()
    assert len(again.spent) == 6


def test_a_spent_budget_trains_no_further(tmp_path: Path) -> None:
    path = tmp_path / "halving.pt"
    Halving(path).run()
    again = Halving(path)
    again.run()
    assert again.loop.step == 6
    assert again.spent == []


def test_the_budget_ends_by_steps_or_by_minutes() -> None:
    assert BUDGET.spent(3, seconds=0) == 0.5
    assert BUDGET.spent(0, seconds=75) == 0.25
    assert BUDGET.spent(7, seconds=75) == 1
    assert BUDGET.spent(1, seconds=1e6) == 1


def test_jobs_are_called_as_often_as_their_period_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "slowest", lambda seconds: 10.0)
    loop, called = Loop(tmp_path / "loop.pt", BUDGET), []
    loop.run(lambda spent: torch.zeros(()), dict, {20.0: lambda: called.append(loop.step)})
    assert called == [2, 4, 6]


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
