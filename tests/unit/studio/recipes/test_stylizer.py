"""Teaching a stylizer: every kind of row moves what is its own, and the loss falls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from studio.gallery.crops import Crops
from impasto_fit.pixels.lesson import Lesson, Teacher, levelled
from impasto_fit.nets.perceptual import Perceptual
from studio.painter import Bytes
from studio.recipes.stylizer import Learner, Lessons

TOY = (2, 3, 4)
SIDE = 32


def picture(seed: int) -> Bytes:
    """Blurred noise of a tint of its own."""
    rng = np.random.default_rng(seed)
    noise = rng.random((12, 12, 3)) * 0.8 + 0.2 * rng.random(3)
    return np.asarray((noise.repeat(4, 0).repeat(4, 1) * 255), np.uint8)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Teacher.of(Perceptual(), [picture(seed) for seed in range(3)])


@pytest.fixture
def lessons(teacher: Teacher) -> Lessons:
    torch.manual_seed(1)
    named, many = ([teacher.lesson(picture(seed)) for seed in seeds] for seeds in ((10, 11), (20, 21, 22)))
    statistics = torch.randn(3, 6)
    crops = Crops([picture(seed) for seed in range(3)], np.random.default_rng(0))
    return Lessons(Learner(2, statistics, TOY), teacher, named, many, statistics, crops)


def moved(lessons: Lessons, kind: float, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The parts that rows of one kind have gradients for."""
    monkeypatch.setattr("studio.recipes.stylizer.NEUTRAL", 1.0 if kind == 0 else 0.0)
    monkeypatch.setattr("studio.recipes.stylizer.NAMED_SHARE", 1.0 if kind == 1 else 0.0)
    learner = lessons.learner
    lessons.loss(4, SIDE).backward()
    parts = {
        "trunk": learner.network.convolutions()[0],
        "neutral": learner.network.neutral,
        "vectors": learner.vectors,
        "predictor": learner.head.linear.weight,
        "expansion": learner.network.expand_embedding.weight,
    }
    return {name for name, part in parts.items() if part.grad is not None and bool(part.grad.any())}


@pytest.mark.parametrize(
    ("kind", "parts"),
    [(0, {"trunk", "neutral"}), (1, {"trunk", "vectors"}), (2, {"trunk", "predictor"})],
    ids=["neutral", "named", "predicted"],
)
def test_a_row_teaches_the_trunk_and_its_own_part(
    lessons: Lessons, kind: int, parts: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        lessons.learner.head.linear.bias.zero_()
    found = moved(lessons, kind, monkeypatch)
    assert found - {"expansion"} == parts
    assert ("expansion" in found) == (kind == 2)


def test_lessons_are_learnt(lessons: Lessons) -> None:
    optimisers = lessons.learner.optimisers()
    losses = []
    for _ in range(40):
        loss = lessons.loss(6, SIDE)
        optimisers.step(loss, 0.5)
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:5])


def test_a_far_style_weighs_less_and_a_weak_one_may_be_strengthened(teacher: Teacher) -> None:
    near = teacher.lesson(picture(1))
    far = Lesson(near.target, near.distance * 4)
    assert far.weight == pytest.approx(near.weight / 2)
    assert Lesson(near.target, near.distance, strength=3).weight == pytest.approx(3 * near.weight)


def test_a_row_without_a_style_is_judged_by_the_photograph(teacher: Teacher) -> None:
    photo = torch.rand(2, 3, SIDE, SIDE)
    rng = np.random.default_rng(0)
    lesson = teacher.lesson(picture(10))
    losses = teacher.loss(levelled(photo), photo, [None, lesson], rng)
    assert float(losses[0]) < 1e-5 < float(losses[1])


def test_a_levelled_photograph_has_the_same_exposure_whatever_the_camera_did() -> None:
    photo = torch.rand(1, 3, 40, 40) * 0.5 + 0.2
    logits = torch.logit(levelled(photo))
    torch.testing.assert_close(logits.mean((2, 3)), torch.full((1, 3), -0.15), rtol=0, atol=1e-3)
    rising = photo[0, 0].flatten().diff() > 0
    assert bool((levelled(photo)[0, 0].flatten().diff()[rising] > 0).all())


def test_the_head_is_part_of_what_is_kept(lessons: Lessons) -> None:
    assert {name.split(".")[0] for name in lessons.learner.state_dict()} == {"network", "head", "vectors"}
