"""Photographs and paintings in looks, with words for each, painted once and kept under runs/."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from studio.gallery.looks.names import COLOURS, LIGHTS, LOOKS, SIZES, Look, Wish, held_out
from studio.gallery.paintings import paintings
from studio.gallery.photographs import HELD_OUT, photographs
from studio.gallery.textures import floats
from studio.painter import Bytes
from studio.painter.arrays import Floats
from studio.places import RUNS

SIDE = 128  # px
PLAIN = Look(lambda photo, rng: photo, ("photo", "a photo", "photograph", "a plain photograph"))
ALL = (*LOOKS, PLAIN)
TINTED, LIT, SIZED = 0.3, 0.15, 0.25  # of the pictures


@dataclass(frozen=True)
class Sources:
    """Pictures to put into looks: those to learn from, and photographs that no training sees."""

    learnt: Sequence[Bytes]
    unseen: Sequence[Bytes]

    @classmethod
    def of(cls, packages: Path) -> Sources:
        photos = photographs(packages)
        painted = [np.asarray(picture) for picture in paintings(packages / "gcompris-qt-data").values()]
        learnt = [photo for name, photo in photos.items() if name not in HELD_OUT]
        return cls([*learnt, *painted], [photos[name] for name in HELD_OUT])


@dataclass(frozen=True)
class Examples:
    """uint8 [N, 128, 128, 3], and what each was asked to be."""

    images: Bytes
    wishes: Sequence[Wish]


def square(photo: Bytes, rng: np.random.Generator, least: float = 0.5) -> Floats:
    """A random square of at least so much of the short side, at 128 px, mirrored now and then, in 0..1."""
    short = min(photo.shape[:2])
    size = int(short * rng.uniform(least, 1))
    y, x = (int(rng.integers(0, length - size + 1)) for length in photo.shape[:2])
    small = cv2.resize(photo[y : y + size, x : x + size], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return floats(small[:, :: int(rng.choice((-1, 1)))] / 255)


def wished(look: Look, rng: np.random.Generator) -> Wish:
    """The look, now and then in a colour, a light or a size; never in a colour that is held out."""
    colour = light = size = ""
    if look is PLAIN:
        return Wish(look)
    if rng.random() < TINTED:
        colour = str(rng.choice([name for name in COLOURS if not held_out(look, name)]))
    if rng.random() < LIT:
        light = str(rng.choice(list(LIGHTS)))
    if rng.random() < SIZED:
        size = str(rng.choice(list(SIZES)))
    return Wish(look, colour, light, size)


def examples(name: str, sources: Sequence[Bytes], count: int, seed: int) -> Examples:
    """`count` pictures, every look as often; painted in this process, or read where an earlier one did it."""
    rng = np.random.default_rng(seed)
    wishes = [wished(ALL[i % len(ALL)], rng) for i in range(count)]
    told = json.dumps([(w.look.name, w.colour, w.light, w.size) for w in wishes])
    path = RUNS / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = track(list(enumerate(wishes)), "painting", refresh_per_second=0.2)
        np.save(path, np.stack([painted(wish, sources, np.random.default_rng((seed, i))) for i, wish in shown]))
    images: Bytes = np.load(path, mmap_mode="r")
    return Examples(images, wishes)


def painted(wish: Wish, sources: Sequence[Bytes], rng: np.random.Generator) -> Bytes:
    """uint8 [128, 128, 3] of one of the sources."""
    photo = square(sources[int(rng.integers(len(sources)))], rng)
    return np.asarray((wish.painted(photo, rng) * 255).round(), np.uint8)
