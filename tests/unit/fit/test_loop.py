"""The loop against arithmetic by hand, and a fit that is killed: it goes on as if nothing had been."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import Cancelled, Diverged, StateError
from impasto_fit.loop import OneCycle, Session, Task
from impasto_fit.pictures import Picture
from impasto_fit.progress import Kept, Report, Silent, Wish
from impasto_fit.state import State
from tests.helpers.fits import Killed, Watcher

ROOT = Path(__file__).parents[3]


def no_preview() -> Picture:
    return np.zeros((1, 1, 3), np.uint8)


def task(kind: str, weight: nn.Parameter, rate: float = 0.1, clip: float = math.inf) -> Task:
    """Bring a weight to where random targets are on average."""
    optimiser: torch.optim.Optimizer = (
        torch.optim.LBFGS([weight], rate, max_iter=1) if kind == "lbfgs" else torch.optim.Adam([weight], rate)
    )

    def loss(draws: Draws) -> Tensor:
        target = torch.randn(weight.shape, generator=draws.torch, dtype=weight.dtype)
        return (weight - 1 - 0.1 * target).square().sum() + float(draws.numpy.random())

    return Task({"weight": weight}, optimiser, loss, no_preview, OneCycle(warmup=3), clip)


def fitted(kind: str, watcher: Watcher, steps: int = 8) -> tuple[Mapping[str, Tensor], list[float]]:
    """A session of two parts."""
    session = Session("this", 5, watcher)
    made = session.once("made", lambda: {"tensor": torch.arange(3.0)})["tensor"]
    first, second = (nn.Parameter(made.clone()) for _ in range(2))
    session.run("one", task(kind, first), Budget(steps))
    session.run("two", task(kind, second), Budget(steps))
    return {"one": first.detach(), "two": second.detach()}, session.losses


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
@pytest.mark.parametrize("die", [3, 8, 9, 13])
def test_a_killed_fit_goes_on_bit_for_bit(kind: str, die: int) -> None:
    whole, losses = fitted(kind, Watcher())
    watcher = Watcher(keep=die, die=die)
    with pytest.raises(Killed):
        fitted(kind, watcher)
    found, resumed = fitted(kind, Watcher(state=watcher.state))
    assert all(torch.equal(found[part], whole[part]) for part in whole)
    assert resumed == losses


def test_what_was_done_is_not_done_again() -> None:
    watcher = Watcher(keep=11, die=11)
    with pytest.raises(Killed):
        fitted("adam", watcher)
    again = Watcher(state=watcher.state)
    fitted("adam", again)
    assert again.parts == ["two"] * 5


def test_adam_by_hand() -> None:
    """Steps of Adam in float64, with the schedule and the clipping written out."""
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    Session("this", 5, Silent()).run("one", task("adam", weight, 0.2, clip=0.5), Budget(4))
    w, m, v = np.zeros(2), np.zeros(2), np.zeros(2)
    for step in range(4):
        target = torch.randn(2, generator=Draws.of(5, "one", step).torch, dtype=torch.float64).numpy()
        gradient = 2 * (w - 1 - 0.1 * target)
        gradient = gradient * min(1.0, 0.5 / (float(np.linalg.norm(gradient)) + 1e-6))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.2 * min(1, (step + 1) / 3) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / 4)))
        w = w - rate * (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
    np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-9)


def test_a_preview_and_a_state_change_nothing() -> None:
    class Curious(Watcher):
        def __call__(self, report: Report) -> Wish:
            report.preview(), report.state()
            torch.rand(3)
            return super().__call__(report)

    assert fitted("adam", Curious())[1] == fitted("adam", Watcher())[1]


def test_seeds_differ_and_parts_too() -> None:
    drawn = {
        float(torch.rand(1, generator=Draws.of(*at).torch))
        for at in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a", -1))
    }
    assert len(drawn) == 5


def test_who_watches_may_finish_or_cancel() -> None:
    weight = nn.Parameter(torch.zeros(2))
    Session("this", 0, watcher := Watcher(wish=Wish.FINISH)).run("one", task("adam", weight), Budget(5))
    assert len(watcher.losses) == 1
    assert weight.any()
    with pytest.raises(Cancelled, match="one: cancelled after 1 steps"):
        Session("this", 0, Watcher(wish=Wish.CANCEL)).run("one", task("adam", weight), Budget(5))


def test_minutes_end_a_fit() -> None:
    budget = Budget(10, minutes=2)
    assert [budget.spent(5, 0), budget.spent(0, 90), budget.spent(5, 240)] == [0.5, 0.75, 1]
    with pytest.raises(ValueError, match="got 0 steps"):
        Budget(0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number(value: float) -> None:
    weight = nn.Parameter(torch.zeros(1))
    bad = Task({"w": weight}, torch.optim.Adam([weight]), lambda draws: weight.sum() * 0 + value, no_preview)
    with pytest.raises(Diverged, match=f"loss: is {value} at step 1 of one; use a smaller learning rate"):
        Session("this", 0, Silent()).run("one", bad, Budget(5))
    assert not weight.any()


def test_a_state_of_another_fit_or_a_damaged_one_is_refused() -> None:
    state = State("that").dump()
    with pytest.raises(StateError, match="of another recipe, checkpoint, seed or other pictures"):
        Session("this", 0, Watcher(state=state))
    for damaged in (b"", b"nothing", state[:-100], state.replace(b"format", b"tamrof")):
        with pytest.raises(StateError, match="can't be read; begin anew"):
            Session("that", 0, Watcher(state=damaged))


KILLED = """
import os, signal, sys
from pathlib import Path
from impasto_fit.progress import Kept, Silent, Wish
from tests.unit.fit.test_loop import fitted

class Dying(Kept):
    steps = 0
    def __call__(self, report):
        super().__call__(report)
        self.steps += 1
        if self.steps == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        return Wish.GO_ON

fitted("adam", Dying(Path(sys.argv[1]), seconds=0.0))
"""


def test_after_a_real_kill_the_kept_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"
    command = [sys.executable, "-c", KILLED, str(path)]
    died = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert died.returncode == -9, died.stderr
    assert [file.name for file in path.parent.iterdir()] == ["state"]
    watcher = Kept(path, told=(seen := Watcher()))
    found, losses = fitted_by(watcher)
    assert len(seen.losses) == 5
    whole, expected = fitted("adam", Watcher())
    assert losses == expected
    assert torch.equal(found["two"], whole["two"])


def fitted_by(watcher: Kept) -> tuple[Mapping[str, Tensor], list[float]]:
    session = Session("this", 5, watcher)
    made = session.once("made", dict)["tensor"]
    first, second = (nn.Parameter(made.clone()) for _ in range(2))
    session.run("one", task("adam", first), Budget(8))
    session.run("two", task("adam", second), Budget(8))
    return {"one": first.detach(), "two": second.detach()}, session.losses
