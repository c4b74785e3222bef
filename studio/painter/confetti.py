"""Shapes and patterns in random colours: what the autoencoder sees beside paintings."""

from itertools import product

import numpy as np
from PIL import Image, ImageDraw

from studio.painter.arrays import Bytes

Colour = tuple[int, int, int]


def textures(n: int, seed: int) -> Bytes:
    """n pictures uint8 [n, 128, 128, 3] of shapes and patterns in random colours."""
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(_confetti(rng, 384).reduce(3)) for _ in range(n)])


def fine_textures(n: int, seed: int, size: int = 256) -> Bytes:
    """n pictures uint8 [n, size, size, 3] of small marks close together, most of them of ink on paper or light on dark.

    What a fine code has to draw and paintings in the base styles have little of.
    """
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(_marks(rng, 3 * size).reduce(3)) for _ in range(n)])


def _marks(rng: np.random.Generator, side: int) -> Image.Image:
    """Four quarters [side, side], each with marks, ground and pitch of its own; a shape of other marks over them."""
    image = Image.new("RGB", (side, side))
    for row, column in product(range(2), repeat=2):
        image.paste(_patch(rng, side // 2), (column * side // 2, row * side // 2))
    angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 9)), side * rng.uniform(0.15, 0.45, 9)
    outline = side / 2 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    shape = Image.new("L", (side, side))
    ImageDraw.Draw(shape).polygon([tuple(point) for point in outline], fill=255)
    part = Image.new("RGB", (side, side))
    for row, column in product(range(2), repeat=2):
        part.paste(_patch(rng, side // 2), (column * side // 2, row * side // 2))
    image.paste(part, mask=shape)
    return image


def _patch(rng: np.random.Generator, side: int) -> Image.Image:
    """[side, side], half of a picture's side, of one kind of mark."""
    ground, inks = _inks(rng)
    image = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(image)
    pitch = side * rng.uniform(0.05, 0.16)
    (_specks, _hatches, _bricks)[rng.integers(3)](draw, rng, side, pitch, inks)
    return image


def _inks(rng: np.random.Generator) -> tuple[Colour, list[Colour]]:
    """A ground and three inks: dark on light, any colours on light or on dark, or any on any."""
    kind = rng.integers(4)
    light, dark = _near(rng, (246, 240, 226)), _near(rng, (26, 22, 34))
    if kind == 0:
        return light, [dark] * 3
    ground = light if kind == 1 else dark if kind == 2 else _any_colour(rng)
    return ground, [_any_colour(rng), _any_colour(rng), dark if kind == 1 else light]


def _specks(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, pitch: float, inks: list[Colour]) -> None:
    """Dots on a jittered, turned grid, their size growing to one side."""
    turn, jitter = rng.uniform(0, np.pi / 2), pitch * rng.uniform(0, 0.25)
    least, most = np.sort(rng.uniform(0.15, 0.55, 2)) * pitch
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    steps = int(1.5 * side / pitch)
    colours = [inks[rng.integers(3)]] if rng.random() < 0.7 else inks
    for i, j in product(range(-steps, steps), repeat=2):
        x, y = (along * i + across * j) * pitch + side / 2 + rng.uniform(-jitter, jitter, 2)
        if -pitch < x < side + pitch and -pitch < y < side + pitch:
            r = least + (most - least) * min(max(x / side, 0), 1)
            draw.ellipse([x - r, y - r, x + r, y + r], fill=colours[rng.integers(len(colours))])


def _hatches(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, pitch: float, inks: list[Colour]) -> None:
    """Bent lines one way, or both ways."""
    width, bend, turn = pitch * rng.uniform(0.15, 0.55), pitch * rng.uniform(0, 1.5), rng.uniform(0, np.pi)
    for extra in (0, np.pi / 2)[: rng.integers(1, 3)]:
        along = np.array([np.cos(turn + extra), np.sin(turn + extra)])
        across = np.array([-along[1], along[0]])
        t = np.linspace(-side, side, 40)
        wave = bend * np.sin(t / side * rng.uniform(2, 8) + rng.uniform(0, 6))
        ink = inks[rng.integers(3)]
        for k in np.arange(-side, side, pitch):
            points = side / 2 + np.outer(t, along) + np.outer(k + wave, across)
            draw.line([tuple(point) for point in points], fill=ink, width=max(1, int(width)))


def _bricks(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, pitch: float, inks: list[Colour]) -> None:
    """Rows of small stones, each with a shade of its own, over joints of the ground's colour."""
    joint, wobble, high = pitch * rng.uniform(0.06, 0.2), pitch * rng.uniform(0, 0.15), rng.uniform(0.6, 1.4)
    ink = np.array(inks[rng.integers(3)])
    for row in range(-1, int(side / pitch / high) + 2):
        for column in range(-1, int(side / pitch) + 2):
            x, y = (column + 0.5 * (row % 2)) * pitch, row * pitch * high
            corners = np.array([[0, 0], [pitch, 0], [pitch, pitch * high], [0, pitch * high]])
            inset = np.sign(np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])) * joint / 2
            points = corners + inset + [x, y] + rng.uniform(-wobble, wobble, (4, 2))
            shade = np.clip(ink * rng.uniform(0.7, 1.2), 0, 255).astype(int)
            draw.polygon([tuple(point) for point in points], fill=tuple(shade))


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


def _near(rng: np.random.Generator, colour: Colour) -> Colour:
    r, g, b = (int(v) for v in np.clip(colour + rng.normal(0, 10, 3), 0, 255))
    return r, g, b


def _any_colour(rng: np.random.Generator) -> Colour:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return r, g, b
