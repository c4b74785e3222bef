"""Photos in the colours that their profiles say: whole ones are followed, and of the others it's told what is wrong."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server.pictures.content import read_image, read_mask, read_photo, size_of
from impasto_server.pictures.profile import MAX_BYTES, unpacked
from impasto_server.strangers import Unfit
from tests.helpers.profiles import SRGB, exchanged

Pixels = NDArray[np.uint8]

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def of_grey() -> bytes:
    """A profile for grey, of sRGB's curve."""
    return SRGB[:16] + b"GRAY" + SRGB[20:].replace(b"rTRC", b"kTRC", 1)


def file(picture: Image.Image, kind: str = "png", **options: Any) -> bytes:
    out = BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def read(data: bytes) -> tuple[Pixels, str]:
    return read_photo(data, "IMAGE", size_of(data, "IMAGE"))


@pytest.mark.parametrize(
    ("kind", "options", "differs"),
    [("png", {}, 2), ("webp", {"lossless": True}, 2), ("jpeg", {"quality": 100, "subsampling": 0}, 8)],
)
def test_a_profile_is_followed(kind: str, options: dict[str, Any], differs: int) -> None:
    found, problem = read(file(Image.fromarray(COLOURS), kind, icc_profile=exchanged(), **options))
    assert np.abs(found.astype(int) - COLOURS[..., ::-1]).max() <= differs
    assert problem == ""


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_strip_is_reduced_to_its_ends(kind: str) -> None:
    """A photo has all that the file has, also where a side's tenth is less than a pixel."""
    ramp = np.tile(np.linspace(0, 255, 640).astype(np.uint8)[None, :, None], (3, 1, 3))
    found, _ = read_photo(file(Image.fromarray(ramp), kind), "IMAGE", (32, 1))
    assert found.shape == (1, 32, 3)
    assert found[0, 0].max() < 12
    assert found[0, -1].min() > 243


def test_and_by_nobody_else() -> None:
    found = read_image(file(Image.fromarray(COLOURS), icc_profile=exchanged()), "IMAGE", 20, 12)
    np.testing.assert_array_equal(found, COLOURS)


def test_srgbs_own_changes_next_to_nothing() -> None:
    found, _ = read(file(Image.fromarray(COLOURS), icc_profile=SRGB))
    assert np.abs(found.astype(int) - COLOURS).max() <= 1


def test_what_is_transparent_stays_so() -> None:
    """Onto white, as ever, in the profile's colours."""
    alpha = np.where(np.arange(20) < 10, 255, 0).astype(np.uint8) * np.ones((12, 1), np.uint8)
    picture = Image.fromarray(np.dstack([COLOURS, alpha]))
    found, _ = read(file(picture, icc_profile=exchanged()))
    assert np.abs(found[:, :10].astype(int) - COLOURS[:, :10, ::-1]).max() <= 2
    assert (found[:, 10:] == 255).all()


def test_a_palettes_colours_are_the_profiles() -> None:
    picture = Image.fromarray(COLOURS).quantize(16)
    found, problem = read(file(picture, icc_profile=exchanged()))
    expected = np.asarray(picture.convert("RGB"), int)[..., ::-1]
    assert np.abs(found - expected).max() <= 2
    assert problem == ""


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_grey_has_profiles_of_its_own(depth: Callable[[int], Any]) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = file(Image.fromarray(grey if depth is np.uint8 else grey.astype(np.uint16) * 257), icc_profile=of_grey())
    found, problem = read(data)
    assert problem == ""
    assert np.abs(found.astype(int) - grey[..., None]).max() <= 2


def with_profile(body: bytes) -> bytes:
    """A PNG whose iCCP chunk has this body."""
    data = file(Image.fromarray(COLOURS))
    chunk = b"iCCP" + body
    return data[:33] + len(body).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[33:]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "can't be read"),
        (b"name\0\0", "can't be read"),
        (b"name\0\0nothing that zlib knows", "can't be unpacked"),
        (b"name\0\0" + zlib.compress(b"no profile"), "can't be read"),
        (b"name\0\0" + zlib.compress(SRGB[:200]), "can't be read"),
        (b"name\0\0" + zlib.compress(bytes(64 << 20)), f"has more than {MAX_BYTES} bytes"),
        (b"name\0\0" + zlib.compress(of_grey()), "is for GRAY, but the file is RGB"),
    ],
    ids=["nothing", "empty", "not packed", "none", "cut off", "a bomb", "for grey"],
)
def test_what_is_wrong_with_a_profile_is_told_and_the_picture_is_read_without(body: bytes, why: str) -> None:
    found, problem = read(with_profile(body))
    np.testing.assert_array_equal(found, COLOURS)
    assert problem == f"IMAGE: its colour profile {why}, so its colours are taken as sRGB"


def test_a_bomb_is_not_unpacked() -> None:
    """64 MiB in 64 KiB: no more of it comes into memory than a profile may have."""
    packed = b"name\0\0" + zlib.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Unfit, match="has more than"):
            unpacked(packed, "PNG")
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_BYTES
    finally:
        tracemalloc.stop()


def test_a_jpeg_whose_profile_lacks_a_part_says_so() -> None:
    data = file(Image.fromarray(COLOURS), "jpeg", icc_profile=exchanged())
    at = data.index(b"ICC_PROFILE\0")
    _, problem = read(data[: at + 13] + b"\2" + data[at + 14 :])
    assert "can't be read" in problem


def test_cmyk_without_a_profile_for_it_is_pillows() -> None:
    picture = Image.fromarray(COLOURS).convert("CMYK")
    found, problem = read(file(picture, "jpeg", quality=100, icc_profile=SRGB))
    assert "is for RGB, but the file is CMYK" in problem
    assert np.abs(found.astype(int) - np.asarray(picture.convert("RGB"), int)).mean() < 4


def test_a_mask_is_grey_on_black() -> None:
    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    np.testing.assert_array_equal(read_mask(file(Image.fromarray(grey)), "MASKS", (20, 12)), grey)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_mask(file(deep), "MASKS", (20, 12)), grey)
    clear = Image.fromarray(np.dstack([np.full((12, 20), 200, np.uint8), grey]))
    found = read_mask(file(clear), "MASKS", (20, 12))
    assert np.abs(found - 200 / 255 * grey).max() <= 1


@pytest.mark.parametrize(("turned", "size"), [(1, (20, 12)), (3, (20, 12)), (6, (12, 20)), (8, (12, 20))])
def test_a_files_size_is_that_in_which_it_is_seen(turned: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    data = file(Image.fromarray(COLOURS), "jpeg", exif=exif)
    assert size_of(data, "IMAGE") == size
    assert read(data)[0].shape == (size[1], size[0], 3)
