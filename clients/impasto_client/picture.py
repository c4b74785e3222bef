"""Read or encode a picture for the server, as the bytes of a file."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image, ImageOps

from impasto_client.errors import InvalidRequest

MAX_BYTES = 32 << 20  # the server's bound


def file_bytes(field: str, picture: bytes | Path | Image.Image) -> bytes:
    """The file's bytes: bytes and a Path's content unchanged, a PIL image as PNG. The server checks the content.

    Raises InvalidRequest, which names `field`, when the file can't be read, PNG can't hold the image, or it is larger
    than the server accepts.
    """
    data = _data(field, picture)
    _check_size(field, len(data))
    return data


def _data(field: str, picture: bytes | Path | Image.Image) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Path):
        return _read(field, picture)
    if isinstance(picture, Image.Image):
        return _png(field, picture)
    fix = "pass bytes, a PIL image or a Path, e.g. Path('photo.jpg')"
    raise InvalidRequest(f"{field}: a value of type {type(picture).__name__} is not a picture; {fix}", field)


def _read(field: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            _check_size(field, os.fstat(file.fileno()).st_size)  # before it is read; 0 for a pipe
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        problem = f"can't read {str(path)!r} ({reason})"
        raise InvalidRequest(f"{field}: {problem}; pass a readable file", field) from None


def _check_size(field: str, size: int) -> None:
    if size > MAX_BYTES:
        fix = f"pass at most {MAX_BYTES} (32 MiB): fewer pixels, or a JPEG"
        raise InvalidRequest(f"{field}: {size} bytes is too large for a server; {fix}", field)


def _png(field: str, image: Image.Image) -> bytes:
    """The image as PNG, turned upright by its EXIF first: the server does that with files, but PIL writes no EXIF."""
    file = io.BytesIO()
    try:
        ImageOps.exif_transpose(image).save(file, "PNG")
    except (OSError, ValueError) as error:
        problem = f"this PIL image can't be written as PNG ({error})"
        raise InvalidRequest(f"{field}: {problem}; pass one of mode RGB or L", field) from None
    return file.getvalue()
