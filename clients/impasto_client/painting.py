"""Encode a request for a photo, and decode the painting."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import Unpack

from impasto_client.encoding import one
from impasto_client.errors import InvalidRequest
from impasto_client.fields import TABLE
from impasto_client.generation import Timings
from impasto_client.options import PhotoOptions, PhotoStyles, Picture
from impasto_client.picture import file_bytes
from impasto_client.styles import region_tensors, style_tensors
from impasto_client.wire import Tensors, account, check_words, values_of

_OWN = ("mask", "regions")  # the other options are fields of the same name


@dataclass(frozen=True)
class Painting:
    """A photo in a style.

    `data` is the encoded file as the server sent it. `warnings` say where the server did something unexpected. `meta`
    is the server's whole report: engine, precision, bundle digest, styles with digests, sizes.
    """

    data: bytes = field(repr=False)
    timings: Timings
    warnings: tuple[str, ...]
    meta: Mapping[str, object] = field(repr=False)

    @cached_property
    def image(self) -> Image.Image:
        """The picture, decoded at first use. Raises PIL.UnidentifiedImageError or OSError when it can't be decoded."""
        picture = Image.open(io.BytesIO(self.data))
        picture.load()
        return picture


def encode_photo(photo: Picture, style: PhotoStyles, **options: Unpack[PhotoOptions]) -> dict[str, NDArray[Any]]:
    """The input tensors of a request. Raises as `encode_wishes` does."""
    return with_photo(photo, encode_wishes(style, **options))


def with_photo(photo: Picture, wishes: Tensors) -> dict[str, NDArray[Any]]:
    """The request of encoded wishes with this photo. Raises InvalidRequest."""
    return {"IMAGE": np.array([file_bytes("IMAGE", photo)], dtype=np.object_), **wishes}


def encode_wishes(style: PhotoStyles, **options: Unpack[PhotoOptions]) -> dict[str, NDArray[Any]]:
    """The request's tensors without its photo. None is left out, so that the server's default holds.

    Only what tensors can't carry is refused here (InvalidRequest); the server checks the rest.
    Raises TypeError for an unknown option.
    """
    check_words(options, PhotoOptions)
    tensors = _styled(style, options)
    for word, value in options.items():
        if word not in _OWN and value is not None:
            tensors |= one(TABLE.by_name[word.upper()], value)
    return tensors


def decode_photo(tensors: Tensors) -> Painting:
    """The painting from output tensors IMAGE BYTES [1] and META BYTES [1] (JSON). Raises ProtocolError."""
    meta, timings, warnings = account(tensors)
    return Painting(values_of(tensors, "IMAGE", bytes)[0], timings, warnings, meta)


def _styled(style: PhotoStyles, options: PhotoOptions) -> dict[str, NDArray[Any]]:
    regions, mask = options.get("regions"), options.get("mask")
    if regions is None:
        masks = {} if mask is None else {"MASKS": np.array([file_bytes("MASKS", mask)], dtype=np.object_)}
        return {**style_tensors(style), **masks}
    if style is not None or mask is not None:
        beside = "a mask" if style is None else "a style for the whole photo"
        raise InvalidRequest(f"MASKS: got {beside} and regions, which have their own; leave one out", "MASKS")
    return region_tensors(regions)
