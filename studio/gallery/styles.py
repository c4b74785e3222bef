"""The styles that a stylizer learns: named ones, and many more squares for its predictor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from studio.gallery.paintings import paintings
from studio.gallery.textures import TEXTURES
from studio.painter import Bytes

TEXTURE_SIDE = 384  # px, the short side at which a picture's brush strokes are learnt


@dataclass(frozen=True)
class Style:
    """A named style: a painting, or a texture drawn over a painting or a photograph."""

    name: str
    title: str
    source: str
    texture: str = ""
    strength: float = 1.0

    @property
    def licence(self) -> str:
        """Its painter died long ago; a texture is drawn here, over a picture that it leaves little of."""
        return "CC0-1.0" if self.texture else "public domain"


NAMED = (
    Style("wave", "Katsushika Hokusai, The Great Wave off Kanagawa, about 1831", "GreatWave"),
    Style("church", "Vincent van Gogh, The Church at Auvers, 1890", "Eglise_dAuvers-sur-Oise"),
    Style("terrace", "Vincent van Gogh, Café Terrace at Night, 1888", "Gogh4"),
    Style("tanguy", "Vincent van Gogh, Portrait of Père Tanguy, 1887", "PortraitOfPereTanguy"),
    Style("village", "Vincent van Gogh, Village Street in Auvers, 1890", "gogh_auvert"),
    Style("night-cafe", "Vincent van Gogh, The Night Café, 1888", "Van_Gogh_The_Night_Cafe"),
    Style("composition", "Wassily Kandinsky, Composition VIII, 1923", "kandinky"),
    Style("poppies", "Katsushika Hokusai, Poppies, about 1833", "HokusaiPoppies"),
    Style("galette", "Pierre-Auguste Renoir, Bal du moulin de la Galette, 1876", "renoir-moulin_de_la_galette"),
    Style("mosaic", "a mosaic, drawn", "gogh_auvert", "mosaic", strength=2.0),
    Style("stained-glass", "stained glass, drawn", "gogh_auvert", "stained-glass", strength=1.5),
    Style("ink", "pen and ink, drawn", "hawaMahal", "ink"),
    Style("woodcut", "a woodcut, drawn", "EilanDonanCastle", "woodcut"),
    Style("pastel", "pastel, drawn", "KazusaSeaRoute", "pastel"),
    Style("watercolour", "watercolour, drawn", "Dune", "watercolour"),
    Style("points", "points of colour, drawn", "EgeskovSlotSpejling", "points", strength=1.5),
)
HELD_OUT = ("VincentVanGogh0013", "cassat_summertime", "VincentVanGoghBridge")  # to try a fit and the predictor with
WALLPAPERS = (
    "gnome-backgrounds/usr/share/backgrounds/gnome/*.webp",
    "mate-backgrounds/usr/share/backgrounds/mate/abstract/Elephants.jpg",
    "plasma-workspace-wallpapers/usr/share/wallpapers/*/contents/images/[235]*",
    "ukui-wallpapers/usr/share/backgrounds/*",
)


def painting_sources(packages: Path) -> dict[str, Bytes]:
    return {name: np.asarray(picture) for name, picture in paintings(packages / "gcompris-qt-data").items()}


def named_pictures(packages: Path, photos: Mapping[str, Bytes]) -> dict[str, Bytes]:
    """The picture of each named style, uint8, its short side 384 px."""
    sources = {**photos, **painting_sources(packages)}
    return {style.name: _drawn(style.texture, scaled(sources[style.source]), seed=1) for style in NAMED}


def many_squares(packages: Path, photos: Mapping[str, Bytes], seed: int = 0) -> list[Bytes]:
    """Squares of 384 px: paintings whole, in crops and in other colours; textures; wallpapers."""
    rng = np.random.default_rng(seed)
    painted = {name: picture for name, picture in painting_sources(packages).items() if name not in HELD_OUT}
    squares = [square for picture in painted.values() for square in _views(picture, rng)]
    sources = [*photos.values(), *painted.values()]
    for texture in TEXTURES:
        chosen = rng.choice(len(sources), 7, replace=False)
        squares += [_square(_drawn(texture, scaled(sources[i]), int(i)), 1.0, rng) for i in chosen]
    squares += [_square(picture, 1.0, rng) for picture in _wallpapers(packages)]
    return [square for square in squares if square.std() > 12]


def _views(picture: Bytes, rng: np.random.Generator) -> Iterator[Bytes]:
    for share in (1.0, 1.0, 0.75, 0.6):
        yield _square(picture, share, rng)
    yield _square(picture[..., rng.permutation(3)], 0.9, rng)
    yield np.invert(_square(picture, 0.8, rng))


def _wallpapers(packages: Path) -> Iterator[Bytes]:
    for pattern in WALLPAPERS:
        for path in sorted(packages.glob(pattern)):
            if path.suffix in (".jpg", ".png", ".webp"):
                picture = Image.open(path)
                picture.draft("RGB", (1024, 1024))
                yield scaled(np.asarray(picture.convert("RGB")))


def _square(picture: Bytes, share: float, rng: np.random.Generator) -> Bytes:
    """A random square of so much of the short side, at 384 px."""
    side = int(min(picture.shape[:2]) * share)
    y, x = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
    square = Image.fromarray(picture[y : y + side, x : x + side])
    return np.asarray(square.resize((TEXTURE_SIDE, TEXTURE_SIDE), Image.Resampling.LANCZOS))


def scaled(picture: Bytes) -> Bytes:
    """To a short side of 384 px."""
    scale = TEXTURE_SIDE / min(picture.shape[:2])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _drawn(texture: str, picture: Bytes, seed: int) -> Bytes:
    if not texture:
        return picture
    drawn = TEXTURES[texture](picture.astype(np.float32) / 255, np.random.default_rng(seed))
    return np.asarray((drawn.clip(0, 1) * 255).round(), np.uint8)
