"""VGG by its names, Gram matrices in three conventions against float64, and a picture that comes out of its pixels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from impasto_fit.budget import Budget
from impasto_fit.errors import CheckpointError, PictureError
from impasto_fit.nets.vgg import BLOCKS, Vgg
from impasto_fit.pictures import Picture
from impasto_fit.pixels.gatys import Gatys
from impasto_fit.pixels.gram import Convention, Style, apart, content, gram, variation
from impasto_fit.recipe import Words
from tests.helpers.fits import Killed, Watcher, striped


def state(kind: int, width: int = 6) -> dict[str, Tensor]:
    """As torchvision's, but narrow, with a bit of its classifier."""
    draws, place, inputs = torch.Generator().manual_seed(kind), 0, 3
    found: dict[str, Tensor] = {"classifier.0.weight": torch.zeros(2, 2)}
    for count in BLOCKS[kind]:
        for _ in range(count):
            weight = torch.randn(width, inputs, 3, 3, generator=draws) * (2 / (9 * inputs)) ** 0.5
            found |= {f"features.{place}.weight": weight, f"features.{place}.bias": torch.zeros(width)}
            place, inputs = place + 2, width
        place += 1
    return found


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eyes") / "vgg19.safetensors"
    save_file(state(19), path)
    return path


@pytest.mark.parametrize("kind", BLOCKS)
def test_vgg_as_torchvision_runs_it(kind: int, tmp_path: Path) -> None:
    """Layer by layer as its features are listed: convolution, ReLU, …, pooling."""
    weights, x = state(kind), torch.rand(1, 3, 40, 32)
    torch.save(weights, tmp_path / "vgg.pth")
    found = Vgg.load(tmp_path / "vgg.pth")(x)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    y, place = ((x - mean.view(3, 1, 1)) / spread.view(3, 1, 1)).double(), 0
    for block, count in enumerate(BLOCKS[kind], 1):
        for i in range(1, count + 1):
            weight, bias = (weights[f"features.{place}.{end}"].double() for end in ("weight", "bias"))
            y, place = F.relu(F.conv2d(y, weight, bias, padding=1)), place + 2
            if (block, i) <= (5, 1):
                torch.testing.assert_close(found[f"relu{block}_{i}"].double(), y, rtol=1e-4, atol=1e-5)
        y, place = F.max_pool2d(y, 2), place + 1
    assert list(found)[-1] == "relu5_1"


def test_what_caffes_weights_read(eyes: Path) -> None:
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1
    bare = Vgg.load(eyes, reading="caffe")
    weight, bias = bare.convs["conv1_1"]
    seen = torch.tensor([-103.939, -116.779, 255 - 123.68]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    torch.testing.assert_close(bare(red)["relu1_1"], F.relu(F.conv2d(seen, weight, bias, padding=1)))


def test_vgg_at_its_true_size(tmp_path: Path) -> None:
    """Names and shapes of VGG19 as published, as a file that holds nothing else."""
    found: dict[str, Tensor] = {}
    widths, inputs, place = (64, 128, 256, 512, 512), 3, 0
    for width, count in zip(widths, BLOCKS[19], strict=True):
        for _ in range(count):
            found |= {
                f"features.{place}.weight": torch.zeros(width, inputs, 3, 3, dtype=torch.float16),
                f"features.{place}.bias": torch.zeros(width, dtype=torch.float16),
            }
            place, inputs = place + 2, width
        place += 1
    save_file(found, tmp_path / "vgg19.safetensors")
    read = Vgg.load(tmp_path / "vgg19.safetensors").convs
    assert [name for name, (weight, _) in read.items() if weight.shape[:2] == (512, 256)] == ["conv4_1"]
    assert len(read) == 13


def test_files_that_are_no_vgg(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file; give VGG16's or VGG19's weights"):
        Vgg.load(tmp_path / "none.pth")
    (tmp_path / "words.pth").write_text("words")
    with pytest.raises(CheckpointError, match="can't be read as a state dict"):
        Vgg.load(tmp_path / "words.pth")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"is neither VGG16 nor VGG19 as torchvision names them"):
        Vgg.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("convention", ["paper", "elements", "places"])
def test_gram_matrices_by_hand(convention: Convention) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 1, 3, 4, 5))
    n, m = 3, 20

    def naive(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        rows = x.reshape(3, 20)
        found = np.array([[(rows[i] * rows[j]).sum() for j in range(3)] for i in range(3)])
        return found / {"paper": 1, "elements": n * m, "places": m}[convention]

    squares = (naive(one) - naive(other)) ** 2
    wanted = squares.sum() / (4 * n**2 * m**2) if convention == "paper" else squares.mean()
    found = apart(gram(torch.from_numpy(one), convention), gram(torch.from_numpy(other), convention), convention)
    np.testing.assert_allclose(found.numpy(), [wanted], rtol=1e-12)
    kept = (one - other) ** 2
    half = kept.sum() / 2 if convention == "paper" else kept.mean()
    np.testing.assert_allclose(content(torch.from_numpy(one), torch.from_numpy(other), convention).numpy(), [half])


def test_variation_by_hand() -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 4))
    wanted = sum((x[0, c, i + 1, j] - x[0, c, i, j]) ** 2 for c in range(2) for i in range(2) for j in range(4))
    wanted += sum((x[0, c, i, j + 1] - x[0, c, i, j]) ** 2 for c in range(2) for i in range(3) for j in range(3))
    np.testing.assert_allclose(variation(torch.from_numpy(x)).numpy(), [wanted])


def test_several_pictures_are_one_style() -> None:
    one, other = ({"relu1_1": torch.rand(1, 3, 4, 4)} for _ in range(2))
    style = Style.of([one, other], {"relu1_1": 2.0}, "places")
    mean = (gram(one["relu1_1"], "places") + gram(other["relu1_1"], "places")) / 2
    torch.testing.assert_close(style.grams["relu1_1"], mean)
    wanted = 2 * (gram(one["relu1_1"], "places") - mean).square().mean()
    torch.testing.assert_close(style.loss(one), wanted.view(1))


def opened(data: bytes) -> Picture:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("paper", [False, True])
def test_a_picture_comes_out(paper: bool, eyes: Path) -> None:
    painted, watcher = striped(1, 40, 32), Watcher()
    recipe = Gatys.of_paper(eyes, painted) if paper else Gatys(eyes, painted)
    data = recipe.fit([striped(2)], Words(), Budget(25), watcher)
    assert opened(data).shape == painted.shape
    assert watcher.losses[-1] < 0.6 * watcher.losses[0]
    told = json.loads(Image.open(io.BytesIO(data)).text["impasto_fit"])  # type: ignore[attr-defined]
    assert told["constants"]["gram"] == ("paper" if paper else "elements")


def test_equal_seeds_give_equal_pictures_and_a_killed_fit_the_same(eyes: Path) -> None:
    recipe = Gatys(eyes, striped(1, 32, 32), start="noise")
    whole = recipe.fit([striped(2)], Words(), Budget(9), Watcher())
    watcher = Watcher(keep=5, die=6)
    with pytest.raises(Killed):
        recipe.fit([striped(2)], Words(), Budget(9), watcher)
    assert recipe.fit([striped(2)], Words(), Budget(9), Watcher(state=watcher.state)) == whole
    other = Gatys(eyes, striped(1, 32, 32), start="noise", seed=1).fit([striped(2)], Words(), Budget(9), Watcher())
    assert (opened(other) != opened(whole)).any()


def test_nothing_to_paint(eyes: Path) -> None:
    with pytest.raises(PictureError, match="painted: picture 1: has one colour"):
        Gatys(eyes, np.zeros((32, 32, 3), np.uint8)).fit([striped()], Words(), Budget(1), Watcher())
