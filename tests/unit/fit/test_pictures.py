"""What is no picture to learn from is refused by its place; the rest is read as people see it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from impasto_fit import pictures
from impasto_fit.errors import PictureError, WordsError
from impasto_fit.pictures import Picture
from impasto_fit.recipe import Words
from impasto_fit.views import shifted, squared, views
from tests.helpers.fits import striped


def encoded(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def test_upright_and_on_white(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    wide = Image.fromarray(striped(0, 32, 64))
    assert pictures.read(encoded(wide, "JPEG", exif=exif)).shape == (64, 32, 3)
    glass = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert (pictures.read(encoded(glass, "PNG")) == 255).all()
    wide.save(tmp_path / "wide.png")
    np.testing.assert_array_equal(pictures.read(tmp_path / "wide.png"), striped(0, 32, 64))


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(PictureError, match=r"words.png: can't be read as a picture .*; save it as PNG or JPEG"):
        pictures.read(tmp_path / "words.png")
    with pytest.raises(PictureError, match=r"none.png: there is no such file"):
        pictures.read(tmp_path / "none.png")
    with pytest.raises(PictureError, match="the picture: can't be read"):
        pictures.read(encoded(Image.fromarray(striped()), "PNG")[:200])
    with pytest.raises(PictureError, match=r"has 9000x9000 pixels, of at most 64 million; make it smaller"):
        pictures.read(encoded(Image.new("1", (9000, 9000)), "PNG"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "pictures: got none; give at least one"),
        ([striped()] * 1000, "pictures: got 1000, of at most 200; choose the best of them"),
        ([striped(), np.full((32, 32, 3), 90, np.uint8)], "picture 2: has one colour, which is no style"),
        ([striped(0, 8, 40)], "picture 1: is 40x8; give one of at least 16 pixels a side"),
        ([np.zeros((32, 32), np.uint8)], r"picture 1: is uint8 \[32, 32\]; uint8 \[H, W, 3\] is needed"),
    ],
)
def test_what_nothing_can_be_learnt_from(given: list[Picture], problem: str) -> None:
    with pytest.raises(PictureError, match=problem):
        pictures.check(given)


def test_contexts_are_one_for_each_picture_or_none() -> None:
    Words().check(3)
    Words(("a", "b")).check(2)
    with pytest.raises(WordsError, match="contexts: got 1 for 2 pictures; give one for each, in their order, or none"):
        Words(("a",)).check(2)


def test_a_digest_is_of_size_and_pixels() -> None:
    picture = striped()
    assert pictures.digest(picture) == pictures.digest(picture.copy())
    others = [picture[::-1], picture.reshape(64, 48, 3)]
    assert len({pictures.digest(one) for one in [picture, *others]}) == 3


def test_views_are_square_and_every_other_is_mirrored() -> None:
    square = squared(striped(0, 48, 80), 32)
    assert square.shape == (32, 32, 3)
    np.testing.assert_array_equal(squared(square, 32), square)
    still = views(square, np.random.default_rng(0), 4, (1.0, 1.0), 0)
    np.testing.assert_array_equal(still[0], square)
    np.testing.assert_array_equal(still[1], square[:, ::-1])
    moved = views(square, np.random.default_rng(0), 6, (1.0, 1.3), 4, mirrored=False)
    assert len({view.tobytes() for view in moved}) == 6


def test_shifts_are_whole_tokens() -> None:
    picture = striped(0, 32, 32)
    found = shifted(picture, 8, 1)
    assert found.shape == (18, 32, 32, 3)
    np.testing.assert_array_equal(found[4], picture)
    np.testing.assert_array_equal(found[0][8:, 8:], picture[:-8, :-8])
