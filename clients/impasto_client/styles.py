"""Encode the styles of a photo as tensors: names, pictures whose style is taken, or both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_client.errors import InvalidRequest
from impasto_client.options import PhotoStyle, PhotoStyles, Picture, Regions
from impasto_client.picture import file_bytes
from impasto_client.tensor import numbers, shown, texts

_NAMES, _PICTURES = ("ADAPTER_NAMES", "ADAPTER_WEIGHTS"), ("STYLE_IMAGES", "STYLE_IMAGE_WEIGHTS")
_FIX = "pass a name, a picture as Path, bytes or PIL image, or several, e.g. {'starry': 0.6, 'wave': 0.4}"


@dataclass(frozen=True)
class Share:
    """A style in a mix; `weight` is None if none was given."""

    style: PhotoStyle
    weight: float | None = None


def style_tensors(styles: PhotoStyles) -> dict[str, NDArray[Any]]:
    """ADAPTER_NAMES and STYLE_IMAGES, as far as there are any, with their weights if given.

    None and an empty collection give no tensors. Raises InvalidRequest for a value that is not a style, and where some
    have a weight and others none.
    """
    return _tensors(_shares(styles))


def region_tensors(regions: Regions) -> dict[str, NDArray[Any]]:
    """The styles and MASKS, in the server's order: names first.

    Raises InvalidRequest for values that are not styles or masks.
    """
    told = regions.items() if isinstance(regions, Mapping) else map(_pair, _several(regions, "MASKS"))
    pairs = [(_share(style), mask) for style, mask in told]
    if not pairs:
        raise InvalidRequest("MASKS: there is no region; pass at least one, e.g. {'starry': Path('sky.png')}", "MASKS")
    pairs.sort(key=lambda pair: not isinstance(pair[0].style, str))
    return {
        **_tensors([share for share, _ in pairs]),
        "MASKS": np.array([file_bytes("MASKS", mask) for _, mask in pairs], dtype=np.object_),
    }


def _shares(styles: PhotoStyles) -> list[Share]:
    if styles is None or (isinstance(styles, str) and not styles):
        return []
    if isinstance(styles, str | bytes | Path | Image.Image):
        return [Share(styles)]
    if isinstance(styles, Mapping):
        return [Share(style, weight) for style, weight in styles.items()]
    return [_share(one) for one in _several(styles, "ADAPTER_NAMES")]


def _share(one: Any) -> Share:
    if isinstance(one, tuple) and len(one) == 2:
        return Share(*one)
    return Share(one)


def _several(value: Any, field: str) -> Sequence[Any]:
    if isinstance(value, Sequence):
        return value
    raise InvalidRequest(f"{field}: {shown(value)} is not a style; {_FIX}", field)


def _pair(one: Any) -> tuple[Any, Picture]:
    if isinstance(one, tuple) and len(one) == 2:
        return one
    raise InvalidRequest(f"MASKS: {shown(one)} is not a region; pass pairs of a style and its mask", "MASKS")


def _is_style(value: Any) -> bool:
    return isinstance(value, str | bytes | Path | Image.Image)


def _tensors(shares: Sequence[Share]) -> dict[str, NDArray[Any]]:
    _check(shares)
    names = [(one.style, one.weight) for one in shares if isinstance(one.style, str)]
    pictures = [(one.style, one.weight) for one in shares if not isinstance(one.style, str)]
    tensors: dict[str, NDArray[Any]] = {}
    if names:
        tensors |= {_NAMES[0]: texts(_NAMES[0], *(name for name, _ in names)), **_weights(_NAMES[1], names)}
    if pictures:
        files = [file_bytes(_PICTURES[0], picture) for picture, _ in pictures]
        tensors |= {_PICTURES[0]: np.array(files, dtype=np.object_), **_weights(_PICTURES[1], pictures)}
    return tensors


def _check(shares: Sequence[Share]) -> None:
    strange = next((one.style for one in shares if not _is_style(one.style)), None)
    if strange is not None:
        raise InvalidRequest(f"ADAPTER_NAMES: {shown(strange)} is not a style; {_FIX}", "ADAPTER_NAMES")
    unsaid = [one.style for one in shares if one.weight is None]
    if unsaid and len(unsaid) < len(shares):
        fix = "give one to each style, or to none"
        raise InvalidRequest(
            f"ADAPTER_WEIGHTS: {_told(unsaid[0])} has no weight, but others have; {fix}", "ADAPTER_WEIGHTS"
        )


def _told(style: PhotoStyle) -> str:
    return shown(style) if isinstance(style, str | Path) else "the picture"


def _weights(field: str, pairs: Iterable[tuple[Any, float | None]]) -> dict[str, NDArray[Any]]:
    said = [weight for _, weight in pairs if weight is not None]
    return {field: numbers(field, said, np.float32)} if said else {}
