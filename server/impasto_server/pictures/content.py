"""Decoding of a request's pictures: encoded file → pixels of the painted size, edges, depth, the VAE encoder's input.

The files are untrusted. The bytes tell a file's kind, and the header its size, before anything is decoded. A file is
one whole still picture, or it is refused. The rules for every PNG, JPEG and WebP file:

turned    as EXIF says, where that is well formed; all other metadata is dropped unread (metadata.py).
sized     to cover width x height and centre cropped (Lanczos; a far larger JPEG is reduced while it is decoded).
          `read_photo` and `read_mask` resize the whole picture to that size, `read_whole` keeps its own size.
colours   RGB: grey repeated, palettes looked up, CMYK by Pillow's formula. 16 bits become 8: grey by rounding, colours
          by their high byte. Only `read_photo` and `read_middle` apply colour profiles (profile.py).
alpha     composited onto black (far away) in `depth`, onto white elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from impasto_server.errors import InvalidArgument
from impasto_server.pictures import metadata, profile
from impasto_server.pictures.metadata import number
from impasto_server.strangers import Unfit

MAX_BYTES = 32 << 20
MAX_PIXELS = 50_000_000
MAX_PARTS = 1 << 16  # chunks of a PNG or WebP, or segments before a JPEG's first scan: they are walked over in Python
NEAR = 1024  # how many of those segments are searched for the picture's size before decoding
MAX_SCANS = 64  # of a JPEG. Encoders write about ten; each costs a pass over all pixels and takes only 75 bytes
LOW, HIGH = 100, 200  # Canny's thresholds, as ControlNets for edges are trained with

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG = b"\xff\xd8\xff"
_JPEG_SCAN = re.compile(rb"\xff\xda\x00(\x06\x00|\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # marker, length, channels
_BARE = frozenset([0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)])  # JPEG markers after which Pillow expects no length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers of segments that hold the picture's size
_ANEW = "save the picture again and pass the whole file"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def check_bytes(data: bytes | str, field: str) -> None:
    """Check a file's size before anything else is done with it. Raises InvalidArgument."""
    if len(data) > MAX_BYTES:
        raise InvalidArgument(field, f"{len(data)} bytes is too large", f"pass at most {MAX_BYTES} (32 MiB)")


def pixels_in(data: bytes) -> int:
    """The number of pixels by the file's header alone: at most MAX_PIXELS, 0 if it is not a picture."""
    if data.startswith(_PNG):
        width, height = _png_size(data)
    elif data.startswith(_JPEG):
        width, height = _jpeg_size(data)
    else:
        width, height = _webp_size(data) if _is_webp(data) else (0, 0)
    return min(width * height, MAX_PIXELS)


def pixels_of(*files: bytes | None) -> int:
    """The pixels of all given files together, by their headers."""
    return sum(pixels_in(file) for file in files if file is not None)


def read_image(data: bytes, field: str, width: int, height: int) -> NDArray[np.uint8]:
    """An encoded file → RGB uint8 [height, width, 3].

    Raises InvalidArgument for a file that is not PNG, JPEG or WebP, is broken, animated or too large.
    """
    return _pixels(_read(data, field, width, height))


def read_whole(data: bytes, field: str) -> NDArray[np.uint8]:
    """An encoded file → RGB uint8 [H, W, 3], whole and in its own size. Raises as `read_image`."""
    with _opened(data, field) as opened:
        return _pixels(_turned(_converted(opened.file), opened.orientation))


def read_photo(data: bytes, field: str, size: tuple[int, int]) -> tuple[NDArray[np.uint8], str]:
    """As `read_image`, but the whole picture in `size` (width, height), its colour profile applied; and a warning.

    A profile that can't be used is ignored, as picture viewers do; the warning says so, else it is "".
    """
    return _coloured(data, field, size, _Opened.sized)


def read_middle(data: bytes, field: str, size: tuple[int, int]) -> tuple[NDArray[np.uint8], str]:
    """As `read_photo`, but scaled to cover `size` and centre cropped."""
    return _coloured(data, field, size, _Opened.fitted)


def read_mask(data: bytes, field: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A grey file → uint8 [H, W] of `size` (width, height); alpha onto black. Raises as `read_image`."""
    with _opened(data, field) as opened:
        opened.shrink(size)
        picture = opened.sized(_converted(opened.file), size)
    if picture.mode == "F":
        return (_unit(picture, 65535) * 255).round().astype(np.uint8)
    return np.array(_onto("black", picture).convert("L"))


def size_of(data: bytes, field: str) -> tuple[int, int]:
    """Width and height after EXIF's turn; nothing is decoded. Raises as `read_image`."""
    with _opened(data, field) as opened:
        width, height = opened.file.size
        return (height, width) if opened.on_its_side else (width, height)


def depth(data: bytes, field: str, width: int, height: int) -> NDArray[np.float32]:
    """A greyscale file, near is bright → float32 [height, width] in 0..1. Raises as `read_image`.

    Grey of 16 bits without alpha keeps its precision; colours become their luma.
    """
    picture = _read(data, field, width, height)
    if picture.mode == "F":
        return _unit(picture, 65535)
    return _unit(_onto("black", picture).convert("L"), 255)


def edges(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB uint8 [H, W, 3] → float32 [H, W]: 1 on Canny's edges, 0 elsewhere."""
    grey = cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (3, 3), 0)
    return (cv2.Canny(grey, LOW, HIGH) > 0).astype(np.float32)


def pixels_to_model(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB uint8 [H, W, 3] → float32 [3, H, W] in [-1, 1], as the VAE encoder takes it."""
    return np.ascontiguousarray(2 * (pixels.transpose(2, 0, 1).astype(np.float32) / 255) - 1)


def _coloured(
    data: bytes, field: str, size: tuple[int, int], made: Callable[[_Opened, Image.Image, tuple[int, int]], Image.Image]
) -> tuple[NDArray[np.uint8], str]:
    with _opened(data, field) as opened:
        found: Image.Image = opened.file
        problem = ""
        opened.shrink(size)
        raw = opened.profile(data)
        if raw is not None:
            try:
                found = profile.to_srgb(_narrow(opened.file), profile.unpacked(raw, opened.kind))
            except Unfit as error:
                problem = f"{field}: its colour profile {error}, so its colours are taken as sRGB"
        return _pixels(made(opened, _converted(found), size)), problem


def _read(data: bytes, field: str, width: int, height: int) -> Image.Image:
    """The picture in width x height: RGB, RGBA, or F in 0..65535 where the file has 16 bits of grey."""
    with _opened(data, field) as opened:
        opened.shrink((width, height))
        return opened.fitted(_converted(opened.file), (width, height))


@dataclass(frozen=True)
class _Opened:
    """A file whose header is checked; its `kind` (PNG, JPEG or WebP) and its EXIF orientation."""

    file: ImageFile
    kind: str
    orientation: int | None

    @property
    def on_its_side(self) -> bool:
        """Whether EXIF turns it by 90 degrees."""
        return self.orientation in (5, 6, 7, 8)

    def shrink(self, size: tuple[int, int]) -> None:
        """Let the decoder reduce it, as far as `size` (after the turn) allows."""
        width, height = self._before(size)
        self.file.draft(None, (2 * width, 2 * height))

    def fitted(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        """The decoded picture, scaled to cover `size`, centre cropped and turned."""
        before = self._before(size)
        fits = picture if picture.size == before else ImageOps.fit(picture, before, Image.Resampling.LANCZOS)
        return _turned(fits, self.orientation)

    def sized(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        """The whole decoded picture, scaled to `size` and turned."""
        before = self._before(size)
        fits = picture if picture.size == before else picture.resize(before, Image.Resampling.LANCZOS)
        return _turned(fits, self.orientation)

    def profile(self, data: bytes) -> bytes | None:
        """The raw colour profile in the file `data`; None without one."""
        match self.kind:
            case "PNG":
                return metadata.png_profile(data, _png_chunks(data))
            case "JPEG":
                return metadata.jpeg_profile(data, _jpeg_segments(data))
            case _:
                return metadata.webp_profile(data)

    def _before(self, size: tuple[int, int]) -> tuple[int, int]:
        """`size` as it is before the turn."""
        return (size[1], size[0]) if self.on_its_side else size


@contextmanager
def _opened(data: bytes, field: str) -> Iterator[_Opened]:
    """The file with its header checked; errors while it is decoded become InvalidArgument."""
    kind, reader = _reader(data, field)
    with _decoding(field, kind):
        pixels, orientation = _bare(data, kind)
        file = reader(BytesIO(pixels))
        _check_pixels(file.size, field)
        if file.width * file.height > pixels_in(data):
            raise InvalidArgument(field, f"is a {kind} file with two different sizes", _ANEW)
        if getattr(file, "n_frames", 1) > 1:
            raise InvalidArgument(field, "is animated", "pass one frame of it as a still picture")
        yield _Opened(file, kind, orientation)


def _bare(data: bytes, kind: str) -> metadata.Bare:
    match kind:
        case "PNG":
            return metadata.png(data, _png_chunks(data))
        case "JPEG":
            return metadata.jpeg(data, _jpeg_segments(data))
        case _:
            return metadata.webp(data)


def _turned(picture: Image.Image, orientation: int | None) -> Image.Image:
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def _reader(data: bytes, field: str) -> tuple[str, Callable[[BytesIO], ImageFile]]:
    """The file's kind and its reader; checks what the reader would miss, or notice only at a cost.

    Image.open isn't used: it has its own warnings and limits, and takes a phone's JPEGs for another format.
    """
    check_bytes(data, field)
    if data.startswith(_PNG):
        _check_pixels(_png_size(data), field)
        if _PNG_END not in data:
            raise InvalidArgument(field, "is a PNG file without its end", _ANEW)
        _check_parts(_png_chunks(data), "PNG", field)
        return "PNG", PngImageFile
    if data.startswith(_JPEG):
        if any(islice(_JPEG_SCAN.finditer(data), MAX_SCANS, None)):
            raise InvalidArgument(field, f"is a JPEG file with more than {MAX_SCANS} scans", _ANEW)
        _check_parts(_jpeg_segments(data), "JPEG", field)
        return "JPEG", JpegImageFile
    if _is_webp(data):
        _check_pixels(_webp_size(data), field)
        _check_parts(metadata.webp_parts(data), "WebP", field)
        return "WebP", WebPImageFile
    raise InvalidArgument(field, "is not a PNG, JPEG or WebP file", "pass the bytes of one")


def _check_parts(parts: Iterator[int], kind: str, field: str) -> None:
    if any(True for _ in islice(parts, MAX_PARTS, None)):
        raise InvalidArgument(field, f"is a {kind} file with more than {MAX_PARTS} parts", _ANEW)


def _png_chunks(data: bytes) -> Iterator[int]:
    """Where each chunk before the end begins."""
    at = len(_PNG)
    while at < len(data) and data[at + 4 : at + 8] != b"IEND":
        yield at
        at += 12 + number(data, at, 4, "big")


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """Where each segment before the first scan begins, and each byte between segments that Pillow skips."""
    at = 2
    while at < len(data) - 1 and data[at : at + 2] != b"\xff\xda":
        yield at
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF):
            at += 1
        else:
            at += 2 if data[at + 1] in _BARE else 2 + number(data, at + 2, 2, "big")


def _png_size(data: bytes) -> tuple[int, int]:
    return number(data, 16, 4, "big"), number(data, 20, 4, "big")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """The size in the first frame before the first scan; MAX_PIXELS if that is far away, (0, 0) if there is none."""
    segments = _jpeg_segments(data)
    for at in islice(segments, NEAR):
        if data[at] == 0xFF and data[at + 1] in _FRAMES:
            return number(data, at + 7, 2, "big"), number(data, at + 5, 2, "big")
    return (0, 0) if next(segments, None) is None else (MAX_PIXELS, 1)


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _webp_size(data: bytes) -> tuple[int, int]:
    """The size in the first chunk, of an extended, lossless or lossy file (RFC 9649)."""
    match data[12:16]:
        case b"VP8X":
            return number(data, 24, 3) + 1, number(data, 27, 3) + 1
        case b"VP8L":
            sides = number(data, 21, 4)
            return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
        case _:
            return number(data, 26, 2) & 0x3FFF, number(data, 28, 2) & 0x3FFF


def _check_pixels(size: tuple[int, int], field: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        problem = f"{width} x {height} is {width * height} pixels"
        raise InvalidArgument(field, problem, f"pass at most {MAX_PIXELS} (50 megapixels)")


@contextmanager
def _decoding(field: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (InvalidArgument, MemoryError):
        raise
    except Exception as error:  # Pillow may raise almost anything for a broken file
        raise InvalidArgument(field, f"can't be read as {kind}: {str(error)[:80]}", _ANEW) from None


def _converted(file: Image.Image) -> Image.Image:
    file.load()  # here, where errors are caught: Pillow decodes only when pixels are needed
    if file.mode == "I;16":
        return Image.fromarray(np.asarray(file).astype(np.float32))
    mode = "RGBA" if file.has_transparency_data else "RGB"
    return file if file.mode == mode else file.convert(mode)


def _narrow(file: Image.Image) -> Image.Image:
    """16 bits of grey as 8, since profiles apply to 8; anything else unchanged."""
    if file.mode != "I;16":
        return file
    return Image.fromarray((np.asarray(file) / 257).round().astype(np.uint8))


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """RGB [H, W, 3]: 16 bits of grey to the nearest of 8, alpha onto white."""
    if picture.mode == "F":
        grey = (_unit(picture, 65535) * 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(_onto("white", picture))


def _onto(colour: str, picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")


def _unit(picture: Image.Image, full: int) -> NDArray[np.float32]:
    """Grey in 0..full → 0..1, with Lanczos's overshoot clipped."""
    return np.clip(np.asarray(picture, np.float32) / np.float32(full), 0, 1)
