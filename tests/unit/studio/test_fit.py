"""A style from one picture: the vector learns, the network does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from studio import fit
from studio.gallery.crops import Crops
from studio.gallery.packages import PackageError
from impasto_fit.pixels.lesson import Teacher
from impasto_fit.nets.perceptual import Perceptual
from studio.nets.stylizer import Stylizer
from studio.nets.stylizer_files import digest, load_stylizer, load_vector, save_stylizer
from studio.training.loop import Budget

from tests.unit.studio.nets.test_stylizer_files import ToyPredictor
from tests.unit.studio.recipes.test_stylizer import picture


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy stylizer, photographs, a painting, and random perceptual weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("home")
    save_stylizer(home / "toy", Stylizer((2, 3, 4), 1, 5), ToyPredictor(), "CC0-1.0")
    (home / "photos").mkdir()
    for seed in range(3):
        Image.fromarray(picture(seed)).save(home / "photos" / f"{seed}.png")
    Image.fromarray(picture(9)).save(home / "dots.png")
    arrays = {
        f"{layer.replace('.', '/')}/{kind[0]}": weight.numpy()
        for (layer, kind), weight in ((name.rsplit(".", 1), w) for name, w in Perceptual().named_parameters())
    }
    np.savez(home / "eyes.npz", **arrays)
    return home


def test_only_the_vector_learns(home: Path) -> None:
    network = load_stylizer(home / "toy")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    photos = fit.photographs_of(home / "photos")
    teacher = Teacher.of(Perceptual.load(home / "eyes.npz"), photos)
    task = fit.Fit(network, teacher, Crops(photos, np.random.default_rng(0)), 2)
    start = network.neutral.clone()
    vector, losses = task.vector(teacher.lesson(picture(9)), start, Budget(25))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert not torch.equal(vector, start)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_the_command_writes_a_style_of_this_network(home: Path, tmp_path: Path) -> None:
    words = f"vector {home}/dots.png --name dots --out {tmp_path}/dots.safetensors --network {home}/toy --steps 2"
    words += f" --photos {home}/photos --perceptual {home}/eyes.npz --batch 1 --licence CC0-1.0"
    fit.fit(fit.arguments().parse_args(words.split()))
    vector, facts = load_vector(tmp_path / "dots.safetensors", digest(home / "toy"))
    assert vector.isfinite().all()
    assert (facts.name, facts.title, facts.licence) == ("dots", "dots", "CC0-1.0")


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="--photos: no .jpg.* give a folder of photographs"):
        fit.photographs_of(tmp_path)


def test_the_predictor_sees_the_middle_of_a_picture(home: Path) -> None:
    wide = np.concatenate([picture(1) * 0, picture(2), picture(1) * 0], 1)
    torch.testing.assert_close(fit.embedded(home / "toy", wide), fit.embedded(home / "toy", picture(2)))
