"""Views of pictures: square, as large as a backbone paints, shifted, zoomed, mirrored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_fit.pictures import Picture


def squared(picture: Picture, side: int) -> Picture:
    """Its middle square, `side` pixels wide."""
    height, width, _ = picture.shape
    short = min(height, width)
    y, x = (height - short) // 2, (width - short) // 2
    image = Image.fromarray(np.ascontiguousarray(picture[y : y + short, x : x + short]))
    return np.asarray(image if short == side else image.resize((side, side), Image.Resampling.LANCZOS))


def views(
    picture: Picture, rng: np.random.Generator, n: int, zoom: tuple[float, float], shift: int, mirrored: bool = True
) -> NDArray[np.uint8]:
    """The square picture n times, [n, side, side, 3]: shifted by up to `shift` px over its own reflection and zoomed;
    every other one is mirrored."""
    side = picture.shape[0]
    wide = Image.fromarray(np.pad(picture, ((shift, shift), (shift, shift), (0, 0)), mode="reflect"))
    seen = []
    for i in range(n):
        reach = side / rng.uniform(*zoom)
        x, y = rng.uniform(0, side + 2 * shift - reach, 2)
        view = np.asarray(wide.resize((side, side), Image.Resampling.BICUBIC, box=(x, y, x + reach, y + reach)))
        seen.append(view[:, ::-1] if mirrored and i % 2 else view)
    return np.stack(seen)


def shifted(picture: Picture, step: int, reach: int) -> NDArray[np.uint8]:
    """The picture and its mirror image [N, H, W, 3], shifted over their own reflection by up to `reach` steps of
    `step` px, every way.

    What tokens a texture has depends on where it lies in them: shifted by less than one, it would be another style.
    """
    height, width, _ = picture.shape
    edge = step * reach
    wide = np.pad(picture, ((edge, edge), (edge, edge), (0, 0)), mode="reflect")
    offsets = range(0, 2 * edge + 1, step)
    parts = [wide[y : y + height, x : x + width] for y in offsets for x in offsets]
    return np.stack([*parts, *(part[:, ::-1] for part in parts)])
