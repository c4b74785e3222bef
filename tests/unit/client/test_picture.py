"""Pictures on their way to the server: files as they are, PIL images as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from impasto_client import InvalidRequest
from impasto_client.wire import encode

COLOURS = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
SIDEWAYS = 6  # EXIF's orientation: a quarter turn


def test_bytes_and_files_are_sent_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "no picture.txt").write_bytes(b"\0none\xff\0")
    sent = encode("a boat", image=tmp_path / "no picture.txt", depth=b"")
    assert {name: (tensor.shape, tensor.tolist()) for name, tensor in sent.items() if name != "PROMPT"} == {
        "IMAGE": ((1,), [b"\0none\xff\0"]),
        "DEPTH": ((1,), [b""]),
    }


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "1", "P", "I;16"])
def test_an_image_is_a_png_of_the_same_pixels(mode: str) -> None:
    image = COLOURS.convert("L").convert("I;16") if mode == "I;16" else COLOURS.convert(mode)
    with Image.open(io.BytesIO(_sent(image))) as sent:
        assert (sent.format, sent.mode, sent.size) == ("PNG", mode, (6, 4))
        assert sent.tobytes() == image.tobytes()


def test_a_photo_stands_upright_whether_it_is_a_file_or_an_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    COLOURS.save(tmp_path / "photo.png", exif=exif)
    assert _sent(tmp_path / "photo.png") == (tmp_path / "photo.png").read_bytes()
    with Image.open(tmp_path / "photo.png") as photo, Image.open(io.BytesIO(_sent(photo))) as sent:
        assert sent.tobytes() == ImageOps.exif_transpose(photo).tobytes() != photo.tobytes()
        assert ImageOps.exif_transpose(sent).tobytes() == sent.tobytes()


@pytest.mark.parametrize("option", ["image", "depth", "style_image"])
def test_a_file_larger_than_a_server_takes_is_refused_before_it_is_sent(tmp_path: Path, option: str) -> None:
    largest = bytes(32 << 20)
    (tmp_path / "large.png").write_bytes(largest + b"\0")
    words: Any
    for picture in (largest + b"\0", tmp_path / "large.png"):
        words = {option: picture}
        with pytest.raises(InvalidRequest, match=r"^[A-Z_]+: 33554433 bytes is too large .*; pass at most") as caught:
            encode("a boat", **words)
        assert caught.value.field == option.upper()
    words = {option: largest}
    assert encode("a boat", **words)[option.upper()].tolist() == [largest]


def test_a_file_is_not_read_to_find_out_that_it_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)  # a sparse one
    with pytest.raises(InvalidRequest, match="^IMAGE: 1099511627776 bytes is too large"):
        encode("a boat", image=tmp_path / "huge.png")


def test_what_never_ends_is_read_no_further_than_a_server_takes() -> None:
    with pytest.raises(InvalidRequest, match="^IMAGE: 33554433 bytes is too large"):
        encode("a boat", image=Path("/dev/zero"))


@pytest.mark.parametrize("option", ["image", "depth"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing.png", "No such file or directory"),
        ("", "Is a directory"),
        ("zero\0byte.png", "null"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, option: str, name: str, problem: str) -> None:
    path = tmp_path / name
    words: Any = {option: path}
    with pytest.raises(InvalidRequest) as caught:
        encode("a boat", **words)
    assert caught.value.field == option.upper()
    assert str(caught.value).startswith(f"{option.upper()}: can't read {str(path)!r} (")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("picture", "problem"),
    [
        ("photo.png", "type str is not a picture; pass bytes, a PIL image or a Path, e.g. Path('photo.jpg')"),
        (np.zeros((4, 4, 3)), "type ndarray is not a picture"),
        (
            Image.new("F", (2, 2)),
            "this PIL image can't be written as PNG (cannot write mode F as PNG); pass one of mode RGB or L",
        ),
    ],
)
def test_what_is_no_picture_is_refused(picture: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest, match="^IMAGE: ") as caught:
        _sent(picture)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_of_a_broken_file_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(file.getvalue()[:-1000])
    with Image.open(tmp_path / "cut.jpg") as cut, pytest.raises(InvalidRequest, match="IMAGE: .*truncated"):
        _sent(cut)


def _sent(picture: Any) -> bytes:
    data = encode("a boat", image=picture)["IMAGE"].tolist()[0]
    assert isinstance(data, bytes)
    return data
