"""Pictures that a careless eye takes for something: styles without the marks that make them, objects half there.

A style's miss maps a view to a picture, as a style does; an object's miss is a view, to be painted in any style.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from studio.painter.arrays import Bytes, Floats, Mask
from studio.painter.base_styles import BASE
from studio.painter.brush import blur, cell_map, mix, noise, soften, wobbled
from studio.painter.held_out_styles import halftone
from studio.painter.painting import PAINTERS
from studio.painter.palette import INK, LUMA, PAPER, vivid
from studio.painter.scene import ALL_OBJECTS, ALL_STYLES, Scene
from studio.painter.view import Style, View, backdrop, look_at


def smeared(style: str, least: float, most: float) -> Style:
    """The style under a blur of so many pixels (of 128) that its marks are gone."""

    def paint(view: View, rng: np.random.Generator) -> Floats:
        return soften(PAINTERS[style](view, rng), rng.uniform(least, most) * view.unit)

    return paint


def run_together(style: str, keep: float, radius: float) -> Style:
    """The style in some patches, its blur everywhere else."""

    def paint(view: View, rng: np.random.Generator) -> Floats:
        sharp = PAINTERS[style](view, rng)
        there = np.clip((noise(rng, 7, view.size) - 1 + 2 * keep) * 4, 0, 1)
        return mix(soften(sharp, radius * view.unit), sharp, there)

    return paint


def rough_wash(view: View, rng: np.random.Generator) -> Floats:
    """The scene in uneven paint, muted or strong."""
    shaken = wobbled(view, rng, rng.uniform(0.8, 3), int(rng.integers(8, 20)))
    colours = vivid(view.colours, rng.uniform(0.6, 1.4))
    wash = soften(shaken.filled(PAPER + (colours - PAPER) * rng.uniform(0.5, 1)), rng.uniform(0.4, 2.5) * view.unit)
    density = 1 + rng.uniform(0.05, 0.3) * noise(rng, int(rng.integers(5, 40)), view.size)
    return np.clip(wash * density[..., None], 0, 1)


def cracks(view: View, rng: np.random.Generator) -> Floats:
    """Wandering lines [H, W] in 0..1 that enclose nothing regular."""
    waves = noise(rng, int(rng.integers(6, 22)), view.size)
    return np.clip(rng.uniform(1.2, 2.5) - np.abs(waves) * rng.uniform(8, 20), 0, 1)


def lined_wash(view: View, rng: np.random.Generator) -> Floats:
    """Dark lines on rough washes, no cells: what passes for stained glass."""
    lines = wobbled(view, rng, rng.uniform(0.3, 2), 16).edges(rng.uniform(1.5, 4), skip_ink=True)
    if rng.random() < 0.6:
        lines = np.maximum(lines, cracks(view, rng))
    if rng.random() < 0.5:
        lines = lines * np.clip(0.7 + 2 * noise(rng, 9, view.size), 0, 1)
    lines = blur(lines, rng.uniform(0, 1.2) * view.unit)
    return mix(rough_wash(view, rng), INK * rng.uniform(0.2, 1), lines * np.float32(rng.uniform(0.6, 1)))


def leadless(view: View, rng: np.random.Generator) -> Floats:
    """Panes without lead between them."""
    nearest, _, number = cell_map(view, rng, pitch=23, jitter=8)
    glow = 1.1 + 0.16 * number - 0.012 * nearest
    panes = np.clip(view.filled(vivid(view.colours, 1.4)) * glow[..., None], 0, 1)
    return soften(panes, rng.uniform(0, 1.5) * view.unit)


def blotted(view: View, rng: np.random.Generator) -> Floats:
    """Ink on cream in blots and worms where dots would be."""
    tone = blur(1 - view.flat @ LUMA, 1.5 * view.unit)
    cells = int(rng.integers(14, 34))
    stretched = noise(rng, cells, 2 * view.size)[: view.size, :: int(rng.integers(1, 3))][:, : view.size]
    stretched = stretched if rng.random() < 0.5 else stretched.T
    blots = np.clip((stretched[: view.size, : view.size] + 1.5 * tone - 0.5) * rng.uniform(1, 4), 0, 1)
    wash = np.maximum(blots * rng.uniform(0.3, 1), view.mask * rng.uniform(0.5, 1))
    ink = mix(np.broadcast_to(INK + 0.25, view.flat.shape), vivid(view.flat, 1.2, 0.95), view.mask)
    return soften(mix(np.broadcast_to(PAPER, view.flat.shape), ink, wash), rng.uniform(0.3, 1.5) * view.unit)


def off_screen(view: View, rng: np.random.Generator) -> Floats:
    """Halftone's dots at a pitch at which they melt, or are polka dots."""
    pitch = rng.uniform(3.0, 4.0) if rng.random() < 0.5 else rng.uniform(15, 22)
    return soften(halftone(view, rng, pitch), rng.uniform(0.3, 0.8) * view.unit)


def unlit(view: View, rng: np.random.Generator) -> Floats:
    """Coloured shapes or lines in the dark that don't glow."""
    tube = view.main / max(view.main.max(), 0.72)
    dark = np.array([0.035, 0.03, 0.07], np.float32) + np.zeros_like(view.flat)
    filled = mix(dark, np.clip(view.flat * rng.uniform(0.5, 1), 0, 1), view.mask)
    if rng.random() < 0.4:
        return soften(filled, rng.uniform(0.5, 2) * view.unit)
    if rng.random() < 0.5:
        halo = blur(blur(view.edges(2.4), 3 * view.unit), 4 * view.unit)
        lit: Floats = np.clip(dark + tube * halo[..., None] * rng.uniform(0.5, 1), 0, 1)
        return lit
    lines = wobbled(view, rng, 1.5, 16).edges(rng.uniform(1, 2)) * np.clip(0.6 + noise(rng, 9, view.size), 0, 1)
    return mix(dark, tube * np.float32(rng.uniform(0.4, 0.8)), lines)


def groutless(view: View, rng: np.random.Generator) -> Floats:
    """Patches of slightly different shades where stones would be."""
    _, _, number = cell_map(view, rng, pitch=rng.uniform(5, 9), jitter=2)
    tiles = view.filled(vivid(view.colours, 1.2)) * (1 + 0.14 * number)[..., None]
    return soften(tiles, rng.uniform(0.6, 2.2) * view.unit)


def between(view: View, rng: np.random.Generator) -> Floats:
    """Half one style, half another."""
    one, other = (PAINTERS[str(name)] for name in rng.choice(ALL_STYLES, 2, replace=False))
    return mix(one(view, rng), other(view, rng), float(rng.uniform(0.4, 0.6)))


STYLE_MISSES: dict[str, tuple[Style, ...]] = {
    "glass": (lined_wash, lined_wash, leadless, smeared("glass", 2.8, 4.5)),
    "stipple": (blotted, smeared("stipple", 2.0, 4), run_together("stipple", 0.2, 2.5)),
    "crosshatch": (smeared("crosshatch", 2.0, 4), run_together("crosshatch", 0.2, 2.5)),
    "neon": (unlit, unlit, smeared("neon", 4, 6)),
    "mosaic": (groutless, smeared("mosaic", 1.9, 4), run_together("mosaic", 0.2, 2.2)),
    "halftone": (off_screen, smeared("halftone", 2.6, 4.5), run_together("halftone", 0.2, 2.6)),
    "base": (between, rough_wash, *(smeared(style, 3.5, 5.5) for style in BASE)),
}


def halves(scene: Scene, size: int, rng: np.random.Generator) -> View:
    """One object on one side of a line through the middle, another one on the other."""
    other = str(rng.choice([name for name in ALL_OBJECTS if name != scene.object]))
    one, two = look_at(scene, size), look_at(replace(scene, object=other), size)
    there, behind = side_of_a_line(one, rng, -0.06, 0.06), len(backdrop(scene, size).colours)
    moved = np.where(two.labels >= behind, two.labels + len(one.colours) - behind, two.labels)
    return replace(
        one,
        labels=np.where(there, one.labels, moved).astype(np.uint8),
        colours=np.concatenate([one.colours, two.colours[behind:]]),
        depths=np.concatenate([one.depths, two.depths[behind:]]),
    )


def erased(scene: Scene, size: int, rng: np.random.Generator) -> View:
    """More than half of the object is gone."""
    whole, empty = look_at(scene, size), backdrop(scene, size)
    return replace(whole, labels=np.where(side_of_a_line(whole, rng, 0.02, 0.09), whole.labels, empty.labels))


def melted(scene: Scene, size: int, rng: np.random.Generator) -> View:
    """Bent until nothing of the drawing is in its place."""
    return wobbled(look_at(scene, size), rng, rng.uniform(16, 22), int(rng.integers(5, 9)))


def side_of_a_line(view: View, rng: np.random.Generator, least: float, most: float) -> Mask:
    """Where [4H, 4W] is beyond a line, whose distance from the object's middle is in these bounds, in pictures."""
    y, x = np.indices(view.labels.shape) / len(view.labels)
    inside = view.of_object[view.labels]
    angle = rng.uniform(0, 2 * np.pi)
    away = (x - x[inside].mean()) * np.cos(angle) + (y - y[inside].mean()) * np.sin(angle)
    beyond: Mask = away > rng.uniform(least, most)
    return beyond


ObjectMiss = Callable[[Scene, int, np.random.Generator], View]
OBJECT_MISSES: tuple[ObjectMiss, ...] = (halves, erased, melted)


def miss_style(scene: Scene, size: int = 128) -> Bytes:
    """The scene, its object and colour clear, its style none; a miss of its own style, or of base styles."""
    rng = np.random.default_rng([scene.seed, 2])
    misses = STYLE_MISSES.get(scene.style, STYLE_MISSES["base"])
    return _bytes(misses[int(rng.integers(len(misses)))](look_at(scene, size), rng))


def miss_object(scene: Scene, size: int = 128) -> Bytes:
    """The scene in its style, its object none."""
    rng = np.random.default_rng([scene.seed, 3])
    view = OBJECT_MISSES[int(rng.integers(len(OBJECT_MISSES)))](scene, size, rng)
    return _bytes(PAINTERS[scene.style](view, rng))


def _bytes(picture: Floats) -> Bytes:
    image: Bytes = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return image
