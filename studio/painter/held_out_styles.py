"""The styles that no model is trained on, for adapters to learn. They map views to pictures as the base styles do."""

import numpy as np

from studio.painter.arrays import Floats
from studio.painter.brush import blur, cell_map, grid, mix, noise
from studio.painter.palette import INK, LUMA, PAPER, vivid
from studio.painter.view import Style, View


def glass(view: View, rng: np.random.Generator) -> Floats:
    """Panes of glowing colour, cut along the contours and into cells, joined by black lead."""
    nearest, second, number = cell_map(view, rng, pitch=23, jitter=8)
    glow = 1.12 + 0.16 * number - 0.012 * nearest
    panes = np.clip(view.filled(vivid(view.colours, 1.45)) * glow[..., None], 0, 1)
    lead = np.maximum(np.clip(2.4 - (second - nearest), 0, 1), view.edges(3, skip_ink=True))
    return mix(panes, INK * 0.25, lead)


def stipple(view: View, rng: np.random.Generator) -> Floats:
    """Dots on cream, larger where it is darker: of ink around the object, of its colour inside."""
    nearest, _, _ = cell_map(view, rng, pitch=5.4, jitter=1.1)
    tone = blur(1 - view.flat @ LUMA, 1.5 * view.unit)
    radius = 0.9 + 1.6 * tone + (1.5 - 1.1 * tone) * view.mask
    dots = np.clip((radius - nearest) * view.unit + 0.5, 0, 1)
    ink = mix(np.broadcast_to(INK, view.flat.shape), vivid(view.flat, 1.3, 0.9), view.mask)
    return mix(np.broadcast_to(PAPER, view.flat.shape), ink, dots)


def crosshatch(view: View, rng: np.random.Generator) -> Floats:
    """Pen lines both ways, more of them where it is darker, in the object's ink."""
    x, y = grid(view)
    dark = 1 - view.flat @ LUMA
    bend = 0.5 * noise(rng, 6, view.size)
    one, two = (np.abs(((x + sign * y) / 1.414 / 6.5 + bend) % 1 - 0.5) * 6.5 for sign in (1, -1))
    width = 0.5 + 2.3 * dark + 0.9 * view.mask
    first = np.clip(width / 2 + 0.6 - one, 0, 1)
    other = np.clip(width / 2 + 0.6 - two, 0, 1) * np.clip(view.mask + 4 * dark - 1.4, 0, 1)
    ink = mix(np.broadcast_to(INK + 0.1, view.flat.shape), vivid(view.flat, 1.4, 0.9), view.mask)
    page = mix(np.broadcast_to(PAPER, view.flat.shape), ink, np.maximum(first, other))
    return mix(page, INK, view.edges(1.8))


def neon(view: View, rng: np.random.Generator) -> Floats:
    """Glowing tubes on near-black; the object's tubes in its colour, the others dim teal."""
    tube = view.main / max(view.main.max(), 0.72)
    lines = view.edges(2.4)
    near = np.clip(blur(view.mask, 2 * view.unit) * 3, 0, 1)
    colour = mix(np.broadcast_to(np.array([0.1, 0.42, 0.45], np.float32), view.flat.shape), tube, near)
    halo = blur(blur(lines, 3 * view.unit), 4 * view.unit)
    base = np.array([0.035, 0.03, 0.07], np.float32) + view.mask[..., None] * tube * 0.25
    core = mix(colour, np.ones(3, np.float32), 0.14)
    return np.clip(mix(base + colour * halo[..., None] * 0.9, core, lines), 0, 1)


def mosaic(view: View, rng: np.random.Generator) -> Floats:
    """Tesserae of about 8 px in dark grout, each with a shade of its own, cut along the contours."""
    x, y = grid(view)
    pitch = 8.0
    x, y = (a + 0.9 * noise(rng, 8, view.size) + np.float32(4) for a in (x, y))
    row = (y // pitch).astype(int)
    x = np.where(row % 2, x + pitch / 2, x)
    shade = rng.uniform(0.8, 1.14, (20, 20)).astype(np.float32)[row, (x // pitch).astype(int)]
    to_joint = np.minimum(*(pitch / 2 - np.abs(a % pitch - pitch / 2) for a in (x, y)))
    grout = np.maximum(np.clip((0.7 - to_joint) * view.unit + 0.5, 0, 1), view.edges(1.5))
    tiles = np.clip(view.filled(vivid(view.colours, 1.2)) * shade[..., None], 0, 1)
    return mix(tiles, np.array([0.3, 0.28, 0.29], np.float32), grout)


def halftone(view: View, rng: np.random.Generator, pitch: float = 7.6) -> Floats:
    """Round dots of colour on white, on a grid turned by 45 degrees; larger dots in the object and the dark."""
    x, y = grid(view)
    u, v = (((x + sign * y) / 1.414 + pitch * rng.uniform()) % pitch - pitch / 2 for sign in (1, -1))
    cover = np.clip(0.16 + 0.6 * (1 - view.flat @ LUMA), 0, 1) * (1 - view.mask) + 0.78 * view.mask
    dots = np.clip(pitch * np.sqrt(cover / np.pi) - np.hypot(u, v) + 0.5, 0, 1)
    return mix(np.ones_like(view.flat), vivid(view.flat, 1.5, 0.92), dots)


HELD_OUT: dict[str, Style] = {
    "glass": glass,
    "stipple": stipple,
    "crosshatch": crosshatch,
    "neon": neon,
    "mosaic": mosaic,
    "halftone": halftone,
}
