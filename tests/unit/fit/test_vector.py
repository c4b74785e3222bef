"""Vectors of feed-forward nets: the net stays, its style learns, and the importer takes it for that net alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file

from impasto_export.feedforward import link
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import CheckpointError, PictureError
from impasto_fit.nets.perceptual import Perceptual
from impasto_fit.pixels import eyes as seen_by
from impasto_fit.pixels.eyes import CIN_STYLE, GramEyes
from impasto_fit.pixels.gram import gram
from impasto_fit.pixels.photos import squares
from impasto_fit.pixels.vector import Lesson, Vector
from impasto_fit.recipe import Words
from impasto_fit.served import Served, imported
from tests.helpers import trunks
from tests.helpers.fits import Killed, Watcher, striped
from tests.unit.fit.test_gatys import state

PHOTOS = tuple(striped(seed, 60, 70) for seed in (5, 6, 7))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net with an embedding, another of other widths, VGG16's weights, SqueezeNet's, and a bundle."""
    home = tmp_path_factory.mktemp("vectors")
    for name, width in (("net", 8), ("other", 10)):
        trunks.studio(home / name, trunks.Trunk((4, 6, width), 1), name)
    save_file(state(16), home / "vgg16.safetensors")
    torch.manual_seed(0)
    arrays = {
        f"{layer.replace('.', '/')}/{kind[0]}": weight.numpy()
        for (layer, kind), weight in ((name.rsplit(".", 1), w) for name, w in Perceptual().named_parameters())
    }
    np.savez(home / "squeezenet.npz", **arrays)
    link.link(home / "net", home / "bundle")
    link.link(home / "other", home / "other-bundle")
    return home


def recipe(home: Path, **constants: Any) -> Vector:
    eyes = home / constants.pop("eyes", "vgg16.safetensors")
    return Vector(home / "net", eyes, PHOTOS, **{"batch": 2, "crop": 32, "rate": 0.1, **constants})


def held_out(one: Vector, vector: torch.Tensor) -> float:
    """On squares that no fit has drawn."""
    found = link.read(one.checkpoint)
    lesson = Lesson.of(replace(one, through="vector"), found, seen_by.opened(one.eyes, [striped()], PHOTOS))
    lesson.learnt.data.copy_(vector)
    with torch.no_grad():
        return sum(float(lesson.loss(Draws.of(77, "held out", i))) for i in range(6)) / 6


@pytest.mark.parametrize("through", ["vector", "embedding"])
@pytest.mark.parametrize("eyes", ["vgg16.safetensors", "squeezenet.npz"])
def test_the_loss_on_held_out_squares_falls(through: str, eyes: str, home: Path) -> None:
    one = recipe(home, through=through, eyes=eyes)
    data = load(one.fit([striped()], Words(), Budget(25), Watcher()))
    neutral = torch.from_numpy(link.read(home / "net").neutral)
    assert held_out(one, data["vector"]) < 0.95 * held_out(one, neutral)


def test_an_embedding_stays_what_the_net_makes_of_one(home: Path) -> None:
    data = load(recipe(home, through="embedding").fit([striped()], Words(), Budget(3), Watcher()))["vector"].double()
    expand = link.read(home / "net").expand
    assert expand is not None
    weight, bias = torch.from_numpy(expand.weight).double(), torch.from_numpy(expand.bias).double()
    e = torch.linalg.lstsq(weight, data - bias).solution
    torch.testing.assert_close(weight @ e + bias, data, rtol=0, atol=1e-5)
    assert e.abs().max() > 1e-3


def test_cins_loss_by_hand(home: Path) -> None:
    """VGG16, average pools: 1e-4 of the Gram matrices over places, and relu3_3 of the photograph."""
    one = recipe(home)
    eyes = seen_by.opened(one.eyes, [striped()], PHOTOS)
    assert isinstance(eyes, GramEyes)
    painted, photo = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    found, wanted = eyes.vgg(painted), eyes.vgg(photo)
    style = eyes.vgg(torch.from_numpy(striped()).permute(2, 0, 1)[None] / 255)
    total = (found["relu3_3"] - wanted["relu3_3"]).double().square().mean((1, 2, 3))
    for layer in CIN_STYLE:
        apart = (gram(found[layer].double(), "places") - gram(style[layer].double(), "places")).square()
        total = total + 1e-4 * apart.mean((1, 2))
    loss = eyes.loss(painted, photo, np.random.default_rng(0))
    torch.testing.assert_close(loss.double(), total, rtol=1e-4, atol=1e-6)


def test_equal_seeds_give_equal_bytes_and_a_killed_fit_the_same(home: Path) -> None:
    one = recipe(home)
    whole = one.fit([striped()], Words(), Budget(5), Watcher())
    watcher = Watcher(keep=3, die=4)
    with pytest.raises(Killed):
        one.fit([striped()], Words(), Budget(5), watcher)
    assert one.fit([striped()], Words(), Budget(5), Watcher(state=watcher.state)) == whole
    assert replace(one, seed=1).fit([striped()], Words(), Budget(5), Watcher()) != whole
    assert replace(one, photos=PHOTOS[:2]).fit([striped()], Words(), Budget(5), Watcher()) != whole


def test_it_is_imported_for_its_own_net_alone(home: Path) -> None:
    served = Served(recipe(home), home / "bundle")
    data = served.fit([striped()], Words(style="stripes"), Budget(2), Watcher())
    (name,) = load(data)
    assert name == "transform.style.vector"
    assert b'\\"recipe\\": \\"Vector\\"' in data
    assert b'\\"title\\": \\"stripes\\"' in data
    plain = served.recipe.fit([striped()], Words(), Budget(2), Watcher())
    with pytest.raises(CheckpointError, match="doesn't take what was fitted: .* a style of another network"):
        imported(plain, home / "other-bundle")
    with pytest.raises(CheckpointError, match="bundle: "):
        Served(recipe(home), home / "nowhere").fit([striped()], Words(), Budget(2), Watcher())


def test_where_it_begins(home: Path) -> None:
    found = link.read(home / "net")

    def begins(**constants: Any) -> torch.Tensor:
        eyes = seen_by.opened(home / "vgg16.safetensors", [striped()], PHOTOS)
        return Lesson.of(recipe(home, **constants), found, eyes).learnt.detach()

    torch.testing.assert_close(begins(), torch.from_numpy(found.neutral))
    assert not begins(through="embedding").any()
    assert begins(through="embedding", start=(1.0,) * trunks.EMBEDDING).eq(1).all()
    with pytest.raises(CheckpointError, match="start: got 2 numbers; vector has"):
        begins(start=(1.0, 2.0))
    bare = replace(found, neutral=None, expand=None)
    eyes = seen_by.opened(home / "vgg16.safetensors", [striped()], PHOTOS)
    plain = Lesson.of(recipe(home), bare, eyes).learnt.detach()
    assert plain[:8].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    rows = {"a": np.full(len(plain), 2, np.float32), "b": np.full(len(plain), 4, np.float32)}
    assert Lesson.of(recipe(home), replace(bare, vectors=rows), eyes).learnt.detach().eq(3).all()
    with pytest.raises(CheckpointError, match="makes nothing of an embedding; fit through its vector"):
        Lesson.of(recipe(home, through="embedding"), bare, eyes)


def test_what_a_vector_refuses(home: Path) -> None:
    with pytest.raises(PictureError, match="photos: pictures: got none"):
        replace(recipe(home), photos=()).fit([striped()], Words(), Budget(1), Watcher())
    with pytest.raises(CheckpointError, match="there is no such file"):
        recipe(home, eyes="none.pth").fit([striped()], Words(), Budget(1), Watcher())
    (home / "words.npz").write_text("words")
    with pytest.raises(CheckpointError, match=r"can't be read as SqueezeNet's arrays"):
        recipe(home, eyes="words.npz").fit([striped()], Words(), Budget(1), Watcher())
    with pytest.raises(CheckpointError, match="not a feed-forward net"):
        replace(recipe(home), checkpoint=home / "vgg16.safetensors").fit([striped()], Words(), Budget(1), Watcher())


def test_squares_of_photographs() -> None:
    drawn = squares(PHOTOS, 5, 32, np.random.default_rng(0))
    assert drawn.shape == (5, 3, 32, 32)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    small = squares([striped(0, 20, 24)], 1, 32, np.random.default_rng(0))
    assert small.shape == (1, 3, 32, 32)
