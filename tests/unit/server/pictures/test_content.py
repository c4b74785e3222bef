"""A stranger's picture becomes the pixels it is meant to show, in the size that is painted, or is refused by name."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from PIL.ImageFile import ImageFile

from impasto_server.errors import InvalidArgument
from impasto_server.pictures import content
from impasto_server.pictures.content import (
    MAX_BYTES,
    MAX_PARTS,
    MAX_PIXELS,
    MAX_SCANS,
    depth,
    edges,
    pixels_in,
    pixels_to_model,
    read_image,
    read_photo,
)

UNTURNED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda picture: picture,
    2: ImageOps.mirror,
    3: lambda picture: picture.rotate(180),
    4: ImageOps.flip,
    5: lambda picture: picture.transpose(Image.Transpose.TRANSPOSE),
    6: lambda picture: picture.rotate(90, expand=True),
    7: lambda picture: picture.transpose(Image.Transpose.TRANSVERSE),
    8: lambda picture: picture.rotate(-90, expand=True),
}


def scene(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    """Smooth colours, so that JPEG loses little, and no symmetry."""
    x, y = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    planes = (x + 0 * y, y**2 + 0 * x, 0.3 + 0.4 * x * y)
    return Image.fromarray((np.stack(planes, axis=-1) * 255).astype(np.uint8)).convert(mode)


def saved(picture: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, colours: int, pixels: bytes | None) -> bytes:
    """A PNG by hand; with no pixels it is just a header."""
    header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    return header if pixels is None else header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims another size."""
    data = saved(scene(), "JPEG")
    frame = data.index(b"\xff\xc0") + 5
    return data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :]


def webp(name: bytes, body: bytes) -> bytes:
    body = b"WEBP" + name + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extended_webp(width: int, height: int) -> bytes:
    return webp(b"VP8X", bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


def lossless_webp(width: int, height: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little"))


def lossy_webp(width: int, height: int) -> bytes:
    return webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", width, height))


def refusal(data: bytes, read: Callable[[bytes, str, int, int], object] = read_image) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read(data, "IMAGE", 32, 32)
    assert caught.value.field == "IMAGE"
    return str(caught.value)


def close(one: NDArray[Any], other: NDArray[Any], tolerance: float) -> bool:
    return one.shape == other.shape and bool(np.abs(one.astype(float) - other.astype(float)).max() <= tolerance)


# size


@pytest.mark.parametrize(("width", "height"), [(60, 40), (30, 20), (32, 32), (16, 48), (120, 80)])
def test_covers_and_crops_the_centre(width: int, height: int) -> None:
    picture = scene()
    scale = max(width / 60, height / 40)
    left, top = (60 - width / scale) / 2, (40 - height / scale) / 2
    box = (left, top, 60 - left, 40 - top)
    expected = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box))
    pixels = read_image(saved(picture), "IMAGE", width, height)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (height, width, 3)
    assert np.array_equal(pixels, expected)


def test_the_right_size_is_left_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    assert np.array_equal(read_image(saved(Image.fromarray(noise)), "IMAGE", 48, 32), noise)


def test_fine_stripes_become_grey_and_no_pattern() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = read_image(saved(Image.fromarray(stripes)), "IMAGE", 24, 24)
    assert close(pixels[4:-4, 4:-4], np.full((16, 16, 3), 127.5), 2)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_shows_what_its_png_does(orientation: int) -> None:
    large = UNTURNED[orientation](scene(1203, 805))
    exif = Image.Exif()
    exif[0x0112] = orientation
    drafted = read_image(saved(large, "JPEG", quality=95, exif=exif), "IMAGE", 64, 48)
    assert close(drafted, read_image(saved(large, exif=exif), "IMAGE", 64, 48), 4)


def test_is_deterministic() -> None:
    data = saved(scene(), "WEBP")
    assert np.array_equal(read_image(data, "IMAGE", 33, 21), read_image(data, "IMAGE", 33, 21))


# formats and colours


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 95}),
    ],
)
def test_every_format_shows_the_scene(file_format: str, options: dict[str, Any]) -> None:
    assert close(read_image(saved(scene(), file_format, **options), "IMAGE", 60, 40), np.asarray(scene()), 8)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palettes_become_rgb(mode: str) -> None:
    picture = scene(mode=mode)
    assert np.array_equal(read_image(saved(picture), "IMAGE", 60, 40), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_of_grey_are_rounded_to_eight() -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    expected = np.repeat((values / 257).round()[..., None], 3, axis=2)
    assert np.array_equal(read_image(saved(Image.fromarray(values)), "IMAGE", 32, 32), expected)


def test_sixteen_bit_colours_keep_their_high_byte() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0x8000, 0, 0xAB00, 0x00FF) for _ in range(2))
    assert read_image(png(2, 2, 16, 2, rows), "IMAGE", 2, 2)[0].tolist() == [[0x12, 0xFF, 0x80], [0, 0xAB, 0]]


def test_cmyk_jpegs_become_rgb() -> None:
    picture = scene().convert("CMYK")
    pixels = read_image(saved(picture, "JPEG", quality=95, subsampling=0), "IMAGE", 60, 40)
    assert close(pixels, np.asarray(picture.convert("RGB")), 8)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_alpha_lies_on_white(file_format: str) -> None:
    picture = Image.new("RGBA", (32, 32), (200, 0, 0, 51))
    options = {"lossless": True} if file_format == "WEBP" else {}
    pixels = read_image(saved(picture, file_format, **options), "IMAGE", 16, 16)
    assert close(pixels, np.full((16, 16, 3), (244, 204, 204)), 1)


def test_colours_that_are_not_seen_do_not_bleed() -> None:
    picture = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (16, 0, 32, 32))
    red, green = read_image(saved(picture), "IMAGE", 8, 8)[..., :2].transpose(2, 0, 1).astype(int)
    assert np.abs(red - green).max() <= 1


@pytest.mark.parametrize("transparency", [0, bytes([0, 128])])
def test_a_palette_may_have_alpha(transparency: int | bytes) -> None:
    picture = Image.new("P", (4, 4))
    picture.putpalette([0, 0, 0, 0, 0, 0])
    picture.putpixel((1, 0), 1)
    first, second = read_image(saved(picture, transparency=transparency), "IMAGE", 4, 4)[0, :2, 0]
    assert first == 255
    assert second == (0 if transparency == 0 else 127)


@pytest.mark.parametrize("orientation", UNTURNED)
@pytest.mark.parametrize(("width", "height"), [(60, 40), (20, 30)])
def test_exif_orientation_is_honoured(orientation: int, width: int, height: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(UNTURNED[orientation](scene()), exif=exif)
    assert close(read_image(data, "IMAGE", width, height), read_image(saved(scene()), "IMAGE", width, height), 2)
    near = depth(data, "DEPTH", width, height)
    assert close(near, depth(saved(scene()), "DEPTH", width, height), 0.01)


def test_a_jpeg_with_a_second_picture_shows_the_first() -> None:
    data = saved(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (60, 40), "red")], quality=95)
    assert close(read_image(data, "IMAGE", 60, 40), np.asarray(scene()), 8)


# what is refused


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", b"<svg/>", b"\x89PNG", b"RIFF\0\0\0\0WAVE", saved(scene(), "GIF"), saved(scene(), "TIFF")],
)
def test_other_formats_are_refused(data: bytes) -> None:
    assert refusal(data) == "IMAGE: is not a PNG, JPEG or WebP file; pass the bytes of one"


def test_a_large_file_is_refused_unread() -> None:
    assert refusal(bytes(MAX_BYTES + 1)) == "IMAGE: 33554433 bytes is too large; pass at most 33554432 (32 MiB)"


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(60000, 60000, 8, 6, None), "60000 x 60000 is 3600000000"),
        (png(60000, 60000, 8, 6, b"0"), "60000 x 60000 is 3600000000"),
        (png(10000, 10000, 8, 2, None), "10000 x 10000 is 100000000"),  # enough for Pillow to warn
        (png(5001, 10000, 8, 0, None), "5001 x 10000 is 50010000"),
        (jpeg_of(60000, 60000), "60000 x 60000 is 3600000000"),
        (jpeg_of(10000, 10000), "10000 x 10000 is 100000000"),
        (extended_webp(60000, 60000), "60000 x 60000 is 3600000000"),
        (lossless_webp(16000, 12000), "16000 x 12000 is 192000000"),
        (lossy_webp(16000, 12000), "16000 x 12000 is 192000000"),
    ],
)
def test_a_decompression_bomb_is_refused_by_its_header(data: bytes, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "load", lambda _: pytest.fail("a bomb was decoded"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(data) == f"IMAGE: {size} pixels; pass at most 50000000 (50 megapixels)"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


def test_the_largest_picture_is_not_taken_for_a_bomb() -> None:
    assert "without its end" in refusal(png(5000, 10000, 8, 0, None))
    assert refusal(lossy_webp(5000, 10000)).startswith("IMAGE: can't be read as WebP")


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {}),
        ("WEBP", {"exif": b"Exif\0\0" + Image.Exif().tobytes()}),
    ],
)
def test_a_truncated_file_is_refused_wherever_it_ends(file_format: str, options: dict[str, Any]) -> None:
    data = saved(scene(), file_format, **options)
    read_image(data, "IMAGE", 32, 32)
    for length in {*range(0, len(data), 37), *range(len(data) - 20, len(data))}:
        assert refusal(data[:length]).startswith(("IMAGE: can't be read as ", "IMAGE: is "))


def test_also_a_file_that_has_the_asked_size() -> None:
    """Nothing is made of its pixels then before they are looked at."""
    data = saved(scene(), "JPEG")
    width, height = scene().size
    for read in (read_image, lambda data, field, *size: read_photo(data, field, size)):
        with pytest.raises(InvalidArgument, match="IMAGE: can't be read as JPEG"):
            read(data[:-100], "IMAGE", width, height)


def test_a_broken_file_is_refused() -> None:
    data = bytearray(saved(scene()))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    assert refusal(bytes(data)).startswith("IMAGE: can't be read as PNG: ")


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_animations_are_refused(file_format: str) -> None:
    others = [scene().rotate(90), scene().rotate(180)]
    data = saved(scene(), file_format, save_all=True, append_images=others)
    assert refusal(data) == "IMAGE: is animated; pass one frame of it as a still picture"


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    data = saved(scene(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert "64 scans" in refusal(data[:-2] + MAX_SCANS * scan + b"\xff\xd9")


PNG_HEAD = png(32, 32, 8, 2, None)
WEBP_HEAD = b"RIFF" + struct.pack("<I", 22 + 8 * MAX_PARTS) + webp(b"VP8X", bytes(10))[8:]
JPEG_REST = saved(scene(), "JPEG")[2:]


@pytest.mark.parametrize(
    "data",
    [
        PNG_HEAD + MAX_PARTS * chunk(b"tEXt", b"a\0") + saved(scene())[len(PNG_HEAD) :],
        b"\xff\xd8" + MAX_PARTS * b"\xff\xfe\0\x02" + JPEG_REST,  # comments
        b"\xff\xd8" + MAX_PARTS * b"\xff" + JPEG_REST,
        b"\xff\xd8\xff\xe0\0\x02" + MAX_PARTS * b"\0" + JPEG_REST,
        MAX_PARTS * b"\xff\xd8" + b"\xff\xd8" + JPEG_REST,
        WEBP_HEAD + MAX_PARTS * b"SOME\0\0\0\0",
    ],
)
def test_what_takes_minutes_to_walk_over_is_refused(data: bytes) -> None:
    assert refusal(data).endswith(" file with more than 65536 parts; save the picture again and pass the whole file")


def test_some_fill_bytes_and_many_chunks_are_no_reason_to_refuse() -> None:
    read_image(b"\xff\xd8" + 1000 * b"\xff" + 1000 * b"\xff\xfe\0\x02" + JPEG_REST, "IMAGE", 32, 32)
    read_image(PNG_HEAD + 5000 * chunk(b"tEXt", b"a\0") + png(32, 32, 8, 2, bytes(32 * 97))[33:], "IMAGE", 32, 32)


def test_a_film_behind_a_jpeg_is_not_taken_for_scans() -> None:
    data = saved(scene(), "JPEG")
    behind = np.random.default_rng(0).integers(0, 256, 16 << 20, np.uint8).tobytes()
    assert behind.count(b"\xff\xda") > MAX_SCANS
    assert np.array_equal(read_image(data + behind, "IMAGE", 60, 40), read_image(data, "IMAGE", 60, 40))


# how large it will be


def every_file() -> dict[str, bytes]:
    """Of 60 x 40 pixels."""
    return {
        "png": saved(scene()),
        "png of 16 bits": png(60, 40, 16, 0, bytes(40 * 121)),
        "jpeg": saved(scene(), "JPEG"),
        "progressive jpeg": saved(scene(), "JPEG", progressive=True),
        "phone's jpeg": saved(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (600, 400))]),
        "jpeg with a profile": saved(scene(), "JPEG", icc_profile=bytes(200_000), comment=b"a\xff\xc0\0\x11"),
        "webp": saved(scene(), "WEBP"),
        "lossless webp": saved(scene(), "WEBP", lossless=True),
        "extended webp": saved(scene(), "WEBP", exif=b"Exif\0\0" + Image.Exif().tobytes()),
    }


@pytest.mark.parametrize("data", every_file().values(), ids=every_file())
def test_a_header_says_how_many_pixels_there_will_be(data: bytes) -> None:
    assert pixels_in(data) == 60 * 40
    assert len(read_image(data, "IMAGE", 60, 40)) == 40
    for length in range(0, len(data), 7):
        assert 0 <= pixels_in(data[:length]) <= MAX_PIXELS


def test_a_header_that_is_far_away_counts_as_the_most() -> None:
    far = b"\xff\xd8" + 2000 * b"\xff\xfe\0\x02" + JPEG_REST
    assert pixels_in(far) == MAX_PIXELS
    assert len(read_image(far, "IMAGE", 60, 40)) == 40
    assert pixels_in(jpeg_of(60000, 60000)) == MAX_PIXELS
    assert pixels_in(b"GIF89a") == pixels_in(b"") == 0


def test_a_file_of_two_sizes_is_refused() -> None:
    """What is read ahead is the first; Pillow decodes the second."""
    small, large = (chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)) for side in (1, 200))
    two = b"\x89PNG\r\n\x1a\n" + small + large + chunk(b"IDAT", zlib.compress(bytes(200 * 201))) + chunk(b"IEND", b"")
    said = "IMAGE: is a PNG file with two different sizes; save the picture again and pass the whole file"
    assert refusal(two) == said


def test_lack_of_memory_is_not_the_callers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(content, "_converted", full)
    with pytest.raises(MemoryError):
        read_image(saved(scene()), "IMAGE", 32, 32)


# depth


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_depth_is_the_share_of_full_scale(dtype: type, full: int) -> None:
    values: NDArray[Any] = np.linspace(0, full, 32 * 48).reshape(32, 48).astype(dtype)
    near = depth(saved(Image.fromarray(values)), "DEPTH", 48, 32)
    assert near.dtype == np.float32
    assert close(near, values / full, 1e-6)


def test_depth_keeps_sixteen_bits_when_it_is_scaled() -> None:
    values = np.linspace(0, 300, 64 * 64).reshape(64, 64).astype(np.uint16)
    near = depth(saved(Image.fromarray(values)), "DEPTH", 32, 32)
    assert len(np.unique(near)) > 256
    assert close(near, values.reshape(32, 2, 32, 2).mean(axis=(1, 3)) / 65535, 3 / 65535)


def test_depth_stays_in_range() -> None:
    steps = np.zeros((64, 64), np.uint16)
    steps[:, 29:] = 65535
    near = depth(saved(Image.fromarray(steps)), "DEPTH", 32, 32)
    assert near.min() == 0
    assert near.max() == 1


def test_depth_of_colours_is_their_luma_and_nothing_is_far() -> None:
    picture = Image.new("RGBA", (8, 8), (0, 255, 0, 255))
    picture.paste((255, 255, 255, 0), (4, 0, 8, 8))
    near = depth(saved(picture), "DEPTH", 8, 8)
    assert close(near[:, :4], np.full((8, 4), 0.587), 0.005)
    assert not near[:, 4:].any()


def test_depth_is_refused_as_images_are() -> None:
    assert "60000 x 60000" in refusal(png(60000, 60000, 16, 0, None), depth)
    assert refusal(b"nothing", depth).startswith("IMAGE: is not a PNG")


# edges, and what the encoder takes


def test_edges_are_cannys_after_a_slight_blur() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    lines = edges(pixels)
    assert lines.dtype == np.float32
    assert lines.shape == (48, 64)
    assert set(np.unique(lines)) == {0.0, 1.0}
    expected = cv2.Canny(cv2.GaussianBlur(grey, (3, 3), 0), 100, 200) / 255
    assert (lines != expected).mean() < 0.02  # OpenCV and Pillow round luma differently
    assert np.array_equal(lines, edges(pixels))


def test_edges_go_round_a_shape_and_nowhere_else() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).rectangle((16, 16, 47, 47), fill="black")
    lines = edges(np.array(picture))
    assert lines[13:20, 17:47].any(axis=0).all()
    assert lines[17:47, 44:51].any(axis=1).all()
    assert not lines[22:42, 22:42].any()
    assert not lines[:13].any()


def test_a_faint_shape_has_no_edges() -> None:
    picture = Image.new("RGB", (64, 64), (128, 128, 128))
    ImageDraw.Draw(picture).rectangle((16, 16, 47, 47), fill=(140, 140, 140))
    assert not edges(np.array(picture)).any()


def test_pixels_to_model() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 0, 255, 51
    model = pixels_to_model(pixels)
    assert model.dtype == np.float32
    assert model.shape == (3, 2, 3)
    assert model.flags.c_contiguous
    assert model[:, 0, 0] == pytest.approx([-1, 1, -0.6], abs=1e-6)
