"""What can be painted, in words; which combinations of words are kept out of training."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from studio.painter.palette import MAIN_COLOURS

OBJECTS: tuple[str, ...] = (
    "boat", "house", "tree", "fish", "car", "flower", "cat", "bird",
    "mushroom", "cup", "star", "balloon", "castle", "butterfly", "apple", "umbrella",
)  # fmt: skip
HELD_OUT_OBJECTS: tuple[str, ...] = ("rocket", "snail", "lighthouse", "crown")
COLOURS: tuple[str, ...] = tuple(MAIN_COLOURS)
BACKGROUNDS: dict[str, str] = {
    "plain": "on plain paper",
    "night": "at night",
    "sea": "by the sea",
    "meadow": "in a meadow",
    "sunset": "at sunset",
    "snow": "in the snow",
}
STYLE_DESCRIPTORS: dict[str, str] = {
    "flat": "flat",
    "outline": "ink outline",
    "watercolour": "watercolour",
    "pixel": "pixel art",
    "clay": "clay",
    "cutout": "paper cutout",
    "crayon": "crayon",
    "poster": "poster",
    "glass": "stained glass",
    "stipple": "stipple",
    "crosshatch": "crosshatch",
    "neon": "neon",
    "mosaic": "mosaic",
    "halftone": "halftone",
}
STYLES: tuple[str, ...] = tuple(STYLE_DESCRIPTORS)[:8]
HELD_OUT_STYLES: tuple[str, ...] = tuple(STYLE_DESCRIPTORS)[8:]
ALL_OBJECTS, ALL_STYLES = OBJECTS + HELD_OUT_OBJECTS, STYLES + HELD_OUT_STYLES
UNSEEN_ONE_IN = 25


@dataclass(frozen=True)
class Scene:
    """What to paint. The seed moves, scales, mirrors and bends the object, and shifts the background."""

    object: str
    colour: str
    background: str
    style: str
    seed: int


def is_unseen(object: str, colour: str, background: str, style: str) -> bool:
    """Whether this combination is kept out of training, about one in 25; a property of the words alone."""
    digest = hashlib.sha256(f"{object}|{colour}|{background}|{style}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % UNSEEN_ONE_IN == 0


def training_scenes(n: int, seed: int) -> list[Scene]:
    """n scenes of base objects and styles, uniform over every attribute, none of them unseen."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < n:
        words = (_pick(rng, OBJECTS), _pick(rng, COLOURS), _pick(rng, tuple(BACKGROUNDS)), _pick(rng, STYLES))
        if not is_unseen(*words):
            scenes.append(Scene(*words, int(rng.integers(2**31))))
    return scenes


def unseen_scenes(n: int, seed: int) -> list[Scene]:
    """n scenes of unseen base combinations only, each combination once before any comes twice."""
    rng = np.random.default_rng(seed)
    unseen = [words for words in product(OBJECTS, COLOURS, BACKGROUNDS, STYLES) if is_unseen(*words)]
    order = [int(i) for i in rng.permutation(len(unseen))]
    return [Scene(*unseen[order[i % len(order)]], int(rng.integers(2**31))) for i in range(n)]


def any_scenes(n: int, seed: int) -> list[Scene]:
    """Scenes over everything the painter knows, held-out objects and styles included."""
    rng = np.random.default_rng(seed)
    names = (ALL_OBJECTS, COLOURS, tuple(BACKGROUNDS), ALL_STYLES)
    scenes: list[Scene] = []
    for _ in range(n):
        seed_of_scene = int(rng.integers(2**31))
        thing, colour, place, style = (str(rng.choice(row)) for row in names)
        scenes.append(Scene(thing, colour, place, style, seed_of_scene))
    return scenes


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]
