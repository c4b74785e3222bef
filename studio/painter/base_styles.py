"""The styles of the training set. Each maps a view and a generator to a picture, float [H, W, 3] in 0..1."""

import numpy as np

from studio.painter.arrays import Floats
from studio.painter.brush import blur, grid, mix, noise, soften, wobbled
from studio.painter.palette import INK, PAPER, vivid
from studio.painter.view import SUPERSAMPLING, Style, View


def flat(view: View, rng: np.random.Generator) -> Floats:
    return view.flat


def outline(view: View, rng: np.random.Generator) -> Floats:
    """Ink lines on paper, the object washed in its colour, the background barely."""
    strength = np.where(view.of_object, 0.75, 0.22)[:, None].astype(np.float32)
    wash = view.filled(PAPER + (view.colours - PAPER) * strength)
    return mix(wash, INK, view.edges(2, skip_ink=True))


def watercolour(view: View, rng: np.random.Generator) -> Floats:
    """Bleeding edges, pigment gathered at the rims, slow variation in its density."""
    shaken = wobbled(view, rng, 1.6, 14)
    pigment = 1 - vivid(shaken.colours, 1.1)
    wet = 1 - soften(shaken.filled(1 - pigment), 0.7 * view.unit)
    density = 0.78 + 0.24 * noise(rng, 5, view.size) + 0.1 * noise(rng, 12, view.size)
    rim = blur(shaken.edges(1.2), 1.2 * view.unit) * 0.5
    washed: Floats = PAPER * (1 - wet * np.clip(density + rim, 0.3, 1.15)[..., None])
    return washed


def pixel(view: View, rng: np.random.Generator) -> Floats:
    """Blocks of 4 px, hard steps, a dark contour around the object."""
    step = round(4 * view.unit) * SUPERSAMPLING
    labels = view.labels[step // 2 :: step, step // 2 :: step]
    inside = view.of_object[labels]
    padded = np.pad(inside, 1)
    near = padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    picture: Floats = vivid(view.colours, 1.15)[labels]
    picture[near & ~inside] = INK
    return picture.repeat(step // SUPERSAMPLING, 0).repeat(step // SUPERSAMPLING, 1)[: view.size, : view.size]


def clay(view: View, rng: np.random.Generator) -> Floats:
    """Plump shapes: the blurred depth order is a relief, lit from the upper left."""
    depth = view.lookup(view.depths.astype(np.float32) * 20 + view.of_object * 90)
    relief = blur(blur(depth, 3 * view.unit), 3 * view.unit) + 0.35 * blur(depth, 1.5 * view.unit)
    light: Floats = np.add(*np.gradient(relief * view.unit)) * 9
    shade = np.clip(1 + light, 0.55, 1.03 + 0.27 * view.mask)
    glow = np.clip(light - 0.25, 0, 0.4) * view.mask
    lit: Floats = soften(view.flat, 0.8 * view.unit) * shade[..., None] + glow[..., None]
    return np.clip(lit, 0, 1)


def cutout(view: View, rng: np.random.Generator) -> Floats:
    """Sheets of paper, each casting a shadow on those below."""
    picture = view.flat * 0.95 + 0.04
    offset = round(3 * view.unit)
    shadow = np.zeros((view.size, view.size), np.float32)
    for level in range(1, 8):
        if not (view.depths == level).any():
            continue
        sheet = view.lookup((view.depths >= level) * 255)
        cast = blur(np.pad(sheet, ((offset, 0), (offset, 0)), "edge")[:-offset, :-offset], 1.6 * view.unit)
        shadow = np.maximum(shadow, cast * (1 - sheet))
    return picture * (1 - 0.58 * shadow)[..., None]


def crayon(view: View, rng: np.random.Generator) -> Floats:
    """Broad diagonal strokes of wax with paper showing between them, one way in the object, the other behind it."""
    shaken = wobbled(view, rng, 1.3, 20)
    x, y = grid(view)
    bend = 2.2 * noise(rng, 6, view.size)
    there = 0.5 + 0.5 * np.sin((x + y) * np.pi / 4.2 + bend)
    back = 0.5 + 0.5 * np.sin((x - y) * np.pi / 4.2 + bend)
    wax = 0.55 + 0.45 * np.where(shaken.mask > 0.5, there, back)
    return mix(np.broadcast_to(PAPER, view.flat.shape), vivid(shaken.flat, 1.2, 0.97), wax)


def poster(view: View, rng: np.random.Generator) -> Floats:
    """Two tones and a thick dark contour, before a burst of rays."""
    picture = vivid(view.colours, 1.35)
    picture = view.filled(picture)
    x, y = grid(view)
    rays = np.clip(np.sin(np.arctan2(y - 70, x - 64) * 9 + rng.uniform(0, 6)) * 6, -1, 1)
    shift = round(9 * view.unit)
    shadow = view.mask * (1 - np.roll(view.mask, (-shift, -shift), (0, 1)))
    tone = 1 - 0.13 * (rays + 1) * (1 - view.mask) - 0.32 * shadow
    return mix(picture * tone[..., None], INK * 0.6, view.edges(3.4, skip_ink=True))


BASE: dict[str, Style] = {
    "flat": flat,
    "outline": outline,
    "watercolour": watercolour,
    "pixel": pixel,
    "clay": clay,
    "cutout": cutout,
    "crayon": crayon,
    "poster": poster,
}
