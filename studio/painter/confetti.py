"""Shapes and patterns in random colours: what the autoencoder sees beside paintings."""

from itertools import product

import numpy as np
from PIL import Image, ImageDraw

from studio.painter.arrays import Bytes


def textures(n: int, seed: int) -> Bytes:
    """n pictures uint8 [n, 128, 128, 3] of shapes and patterns in random colours."""
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(_confetti(rng, 384).reduce(3)) for _ in range(n)])


def _confetti(rng: np.random.Generator, side: int) -> Image.Image:
    """One picture [side, side]: a ground texture under random shapes."""
    image = Image.new("RGB", (side, side), _any_colour(rng))
    draw = ImageDraw.Draw(image)
    (_stripes, _dots, _cells)[rng.integers(3)](draw, rng, side)
    for _ in range(rng.integers(0, 10)):
        _shape(draw, rng, side)
    return image


def _stripes(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    angle, pitch = rng.uniform(0, np.pi), side * rng.uniform(0.04, 0.12)
    width = int(pitch * rng.uniform(0.3, 0.6))
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    colour = _any_colour(rng)
    for k in np.arange(-side, side, pitch):
        start, end = side / 2 + across * k - along * side, side / 2 + across * k + along * side
        draw.line([*start, *end], fill=colour, width=width)


def _dots(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    pitch = side * rng.uniform(0.05, 0.12)
    radius, shift = pitch * rng.uniform(0.25, 0.48), rng.uniform(0, pitch / 2)
    colours = [_any_colour(rng) for _ in range(3)]
    for row, column in product(range(int(side / pitch) + 2), repeat=2):
        x, y = column * pitch + shift * (row % 2), row * pitch
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colours[rng.integers(3)])


def _cells(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    """A grid of bent quadrilaterals with outlines."""
    count = int(rng.integers(5, 15))
    nodes = np.stack(np.meshgrid(np.arange(count + 1), np.arange(count + 1)), -1) * (side / count)
    nodes = nodes + rng.uniform(-0.3, 0.3, nodes.shape) * (side / count)
    line, width = _any_colour(rng), int(side * rng.uniform(0.01, 0.03))
    colours = [_any_colour(rng) for _ in range(5)]
    for i, j in product(range(count), repeat=2):
        quad = [tuple(nodes[a, b]) for a, b in ((i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j), (i, j))]
        draw.polygon(quad, fill=colours[rng.integers(5)])
        draw.line(quad, fill=line, width=width)


def _shape(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    """A disc, a polygon or a patch of hatching, some with a dark outline."""
    centre, radius = rng.uniform(0, side, 2), side * rng.uniform(0.05, 0.25)
    width, colour = int(side * rng.uniform(0.012, 0.03)), _any_colour(rng)
    kind = rng.integers(3)
    if kind == 0:
        outline = (20, 18, 24) if rng.random() < 0.5 else colour
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=colour, outline=outline, width=width)
    elif kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        points = [tuple(centre + radius * np.array([np.cos(a), np.sin(a)])) for a in angles]
        draw.polygon(points, fill=colour)
        draw.line([*points, points[0]], fill=(20, 18, 24), width=width)
    else:
        turn = rng.uniform(0, np.pi)
        along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        for k in np.arange(-radius, radius, width * 2.2):
            draw.line([*(centre + across * k - along * radius), *(centre + across * k + along * radius)], colour, width)


def _any_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return r, g, b
