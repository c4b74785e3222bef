"""Looks of nature and of matter: fire, waves, ice, clouds, gold, wood."""

from __future__ import annotations

import cv2
import numpy as np

from studio.gallery.looks.tools import contours, fractal, grid, lit, mixed, ramp, ridges, shifted, within
from studio.gallery.textures import blurred, brightness, cells, floats, smooth_noise, streaked
from studio.painter.arrays import Floats


def fire(photo: Floats, rng: np.random.Generator) -> Floats:
    """Tongues of flame that rise from what is bright, red and yellow on black."""
    height, width = photo.shape[:2]
    grey = blurred(brightness(photo), 1.2)
    tall = cv2.resize(fractal(rng, (height // 3 + 2, width), 9, 3), (width, height), interpolation=cv2.INTER_CUBIC)
    sway = 5 * smooth_noise(rng, photo.shape, 14)
    flame = shifted(floats(tall), floats(sway), np.zeros_like(grey))
    licked = grey.copy()
    for step in range(2, 17, 2):
        up = np.roll(grey, -step, 0) * (1 - step / 20)
        licked = np.maximum(licked, up * (flame > 0.55))
    plane = np.clip(licked * 0.75 + 0.55 * flame - 0.18 + 0.25 * contours(photo), 0, 1)
    return ramp(floats(plane), (0.03, 0.0, 0.0), (0.5, 0.03, 0.0), (0.95, 0.3, 0.0), (1.0, 0.75, 0.1), (1.0, 1.0, 0.75))


def lava(photo: Floats, rng: np.random.Generator) -> Floats:
    """Black crust with glowing cracks."""
    _, gap = cells(rng, photo.shape, 20, 0.45)
    tone = brightness(photo)
    gap = floats(
        gap + 1.6 * smooth_noise(rng, photo.shape, 4) - 5 * (blurred(tone, 2.0) - 0.45)
    )  # bright: wider cracks
    crust = ramp(
        floats(np.clip(tone * (0.85 + 0.15 * smooth_noise(rng, photo.shape, 2.5)), 0, 1)),
        (0.03, 0.03, 0.03),
        (0.2, 0.17, 0.16),
        (0.5, 0.42, 0.4),
    )
    glow = ramp(floats(np.clip(1.1 - gap / 5, 0, 1)), (0.2, 0.0, 0.0), (1.0, 0.22, 0.0), (1.0, 0.9, 0.3))
    return mixed(crust, glow, floats(np.clip(1.3 - gap / 4, 0, 1)))


def waves(photo: Floats, rng: np.random.Generator) -> Floats:
    """Rolling blue rows with white crests."""
    _, y = grid(photo.shape, rng)
    x, _ = grid(photo.shape, rng)
    grey = blurred(brightness(photo), 1.5)
    phase = y + 3.2 * np.sin(2 * np.pi * x / 26) + 2 * smooth_noise(rng, photo.shape, 20) + 5 * grey
    row = phase / 11 - np.floor(phase / 11)
    crest = np.clip((row - 0.8) * 9, 0, 1) * np.clip((1 - row) * 14, 0, 1)
    tone = np.clip(0.15 + 0.62 * grey + 0.28 * row, 0, 1)
    sea = ramp(floats(tone), (0.0, 0.07, 0.25), (0.03, 0.32, 0.62), (0.4, 0.75, 0.9))
    return mixed(sea, (0.97, 1.0, 1.0), floats(crest))


def ice(photo: Floats, rng: np.random.Generator) -> Floats:
    """Pale blue facets with white cracks."""
    number, gap = cells(rng, photo.shape, 26, 0.48)
    facet = rng.uniform(-0.13, 0.13, number.max() + 1).astype(np.float32)[number]
    bent = shifted(photo, floats(facet * 30), floats(np.roll(facet, 7) * 20))
    plane = np.clip(0.3 + 0.65 * brightness(bent) + facet, 0, 1)
    pale = ramp(floats(plane), (0.15, 0.35, 0.55), (0.55, 0.8, 0.93), (0.97, 1.0, 1.0))
    fine = ridges(rng, photo.shape, 16, 1) > 0.75
    crack = np.maximum(np.clip(1.5 - gap, 0, 1), 0.5 * blurred(floats(fine), 0.6))
    return mixed(pale, (1.0, 1.0, 1.0), floats(crack))


def clouds(photo: Floats, rng: np.random.Generator) -> Floats:
    """White puffs on a blue sky, thick where the picture is bright."""
    puff = fractal(rng, photo.shape, 26, 5)
    grey = blurred(brightness(photo), 2.0)
    bank = np.clip(grey * 0.85 + (puff - 0.5) * 0.75, 0, 1)
    sky = ramp(grey, (0.2, 0.4, 0.72), (0.5, 0.72, 0.95))
    shade = lit(blurred(floats(bank), 2.0), 0.35)
    white = np.clip(np.array([0.97, 0.97, 0.99]) * np.clip(shade, 0.75, 1.05)[..., None], 0, 1)
    return floats(np.clip(mixed(sky, floats(white), floats((bank - 0.28) * 2.4)), 0, 1))


def neon(photo: Floats, rng: np.random.Generator) -> Floats:
    """Glowing tubes along contours on black."""
    edge = np.clip(contours(photo, 1.4) * 1.6 - 0.5, 0, 1)
    hue = fractal(rng, photo.shape, 60, 1)
    tube = ramp(hue, (1.0, 0.05, 0.6), (0.55, 0.15, 1.0), (0.0, 0.85, 1.0), (0.1, 1.0, 0.45))
    glow = blurred(edge, 4.0) * 1.5 + blurred(edge, 1.5) * 0.8
    dark = 0.1 * photo
    return floats(np.clip(dark + tube * glow[..., None] + np.clip(edge * 1.2 - 0.4, 0, 1)[..., None] * 0.8, 0, 1))


def gold(photo: Floats, rng: np.random.Generator) -> Floats:
    """Crumpled shining leaf, a relief of the picture."""
    crumple = fractal(rng, photo.shape, 22, 3)
    height = blurred(floats(brightness(photo) * 2.2 + crumple * 0.7), 1.0)
    light = lit(height, 0.4) - 0.5
    plane = np.clip(0.38 * light + 0.5 * brightness(photo), 0, 1)
    return ramp(floats(plane), (0.18, 0.09, 0.0), (0.62, 0.4, 0.06), (0.95, 0.75, 0.25), (1.0, 0.97, 0.72))


def chrome(photo: Floats, rng: np.random.Generator) -> Floats:
    """Polished grey metal: many bands of light over smooth forms."""
    soft = blurred(brightness(photo), 2.4) + 0.15 * fractal(rng, photo.shape, 40, 2)
    plane = 0.5 + 0.5 * np.sin(soft * 16)
    return ramp(floats(plane), (0.08, 0.09, 0.12), (0.5, 0.54, 0.6), (0.97, 0.98, 1.0))


def wood(photo: Floats, rng: np.random.Generator) -> Floats:
    """Brown boards with grain and rings."""
    _, y = grid(photo.shape, rng)
    long = cv2.resize(
        smooth_noise(rng, (photo.shape[0], photo.shape[1] // 8 + 2), 12),
        photo.shape[1::-1],
        interpolation=cv2.INTER_CUBIC,
    )
    ring = 0.5 + 0.5 * np.sin((y + 7 * long + 5 * brightness(photo)) * 2 * np.pi / 9)
    board = np.abs(within(y, 44)) * 44 < 0.8
    plane = np.clip(0.2 + 0.55 * blurred(brightness(photo), 1.0) + 0.22 * ring, 0, 1)
    brown = ramp(floats(plane), (0.17, 0.08, 0.03), (0.55, 0.32, 0.15), (0.88, 0.66, 0.4))
    return mixed(brown, (0.08, 0.04, 0.02), floats(board))


def marble(photo: Floats, rng: np.random.Generator) -> Floats:
    """White stone with grey veins, a low relief."""
    vein = ridges(rng, photo.shape, 44, 4)
    height = blurred(brightness(photo), 1.2)
    plane = 0.5 + 0.42 * height
    stone = ramp(floats(plane), (0.4, 0.4, 0.43), (0.8, 0.8, 0.81), (0.99, 0.98, 0.96)) * lit(height, 0.14)[..., None]
    return floats(np.clip(mixed(stone, (0.25, 0.27, 0.31), floats((vein - 0.45) * 1.4)), 0, 1))


def sand(photo: Floats, rng: np.random.Generator) -> Floats:
    """Ochre grains, drawn in with a finger."""
    grain = rng.standard_normal(photo.shape[:2]).astype(np.float32)
    height = blurred(brightness(photo), 1.5)
    ripple = 0.03 * np.sin((grid(photo.shape, rng, 70)[0] + 5 * smooth_noise(rng, photo.shape, 20)) * 2 * np.pi / 12)
    plane = np.clip((0.25 + 0.6 * height + ripple) * lit(height, 0.4) + 0.13 * grain, 0, 1)
    return ramp(floats(plane), (0.4, 0.26, 0.12), (0.78, 0.6, 0.36), (0.98, 0.9, 0.7))


def grass(photo: Floats, rng: np.random.Generator) -> Floats:
    """Upright green blades."""
    height, width = photo.shape[:2]
    grey = blurred(brightness(photo), 1.0)
    page = ramp(grey, (0.01, 0.07, 0.01), (0.05, 0.25, 0.04), (0.2, 0.5, 0.1))
    for py in np.sort(rng.integers(0, height + 12, height * width // 12)):
        px, tall = int(rng.integers(width)), int(rng.integers(6, 13))
        tone = float(grey[min(max(py - tall // 2, 0), height - 1), px]) * rng.uniform(0.75, 1.25)
        colour = ramp(
            floats(np.full((1, 1), min(tone, 1.0))), (0.02, 0.14, 0.02), (0.16, 0.5, 0.08), (0.75, 0.95, 0.35)
        )[0, 0]
        cv2.line(page, (px, int(py)), (px + int(rng.integers(-4, 5)), int(py) - tall), colour.tolist(), 1, cv2.LINE_AA)
    return floats(np.clip(page, 0, 1))


def drops(photo: Floats, rng: np.random.Generator) -> Floats:
    """Drops of water on a pane, each with the picture upside down and a highlight."""
    height, width = photo.shape[:2]
    out = blurred(photo, 2.0) * 0.85
    y, x = np.indices((height, width), np.float32)
    for _ in range(height * width // 330):
        r = rng.uniform(3, 9)
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        away = np.hypot((y - cy) / 1.15, x - cx) / r
        top, left = max(int(cy - 2 * r), 0), max(int(cx - 2 * r), 0)
        box = (slice(top, int(cy + 2 * r) + 1), slice(left, int(cx + 2 * r) + 1))
        inside = floats(np.clip((1 - away[box]) * r, 0, 1))
        lens = photo[
            np.clip(2 * cy - y[box], 0, height - 1).astype(int), np.clip(2 * cx - x[box], 0, width - 1).astype(int)
        ]
        shade = 0.45 + 0.75 * np.clip(0.5 + 0.5 * (y[box] - cy) / r, 0, 1)
        body = floats(np.clip(lens * shade[..., None] + 0.06, 0, 1))
        shine = np.clip(1.5 - np.hypot(y[box] - cy + r * 0.4, x[box] - cx + r * 0.35) / r * 4, 0, 1)
        body = mixed(body, (1.0, 1.0, 1.0), floats(shine))
        rim = np.clip((away[box] - 0.82) * 5, 0, 0.6)
        out[box] = mixed(out[box], mixed(body, (0.03, 0.05, 0.07), floats(rim)), inside)
    return floats(np.clip(out, 0, 1))


def bubbles(photo: Floats, rng: np.random.Generator) -> Floats:
    """Soap bubbles: thin bright rings in rainbow colours."""
    height, width = photo.shape[:2]
    out = floats(np.clip(photo * 0.75 + 0.12, 0, 1))
    y, x = np.indices((height, width), np.float32)
    for _ in range(height * width // 620):
        r = rng.uniform(5, 16)
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        away = np.hypot(y - cy, x - cx)
        ring = np.clip(1.5 - np.abs(away - r), 0, 1) + 0.3 * np.clip((away / r) ** 3, 0, 1) * (away < r)
        turn = np.arctan2(y - cy, x - cx) + rng.uniform(0, 6)
        hue = np.stack([0.72 + 0.28 * np.cos(turn * 2 + k) for k in (0, 2.1, 4.2)], 2)
        shine = np.clip(1.6 - np.hypot(y - cy + r * 0.45, x - cx + r * 0.4) / r * 5, 0, 1)
        out = mixed(mixed(out, floats(hue), floats(ring)), (1.0, 1.0, 1.0), floats(shine))
    return floats(np.clip(out, 0, 1))


def snow(photo: Floats, rng: np.random.Generator) -> Floats:
    """A white, pale day with thick flakes in the air."""
    grey = blurred(photo, 0.8) @ np.array([0.3, 0.59, 0.11], np.float32)
    base = 0.42 + 0.5 * (0.75 * grey[..., None] + 0.25 * photo) * np.array([0.96, 0.98, 1.03])
    flakes = np.zeros(grey.shape, np.float32)
    for _ in range(grey.size // 95):
        spot = (int(rng.integers(grey.shape[1])), int(rng.integers(grey.shape[0])))
        cv2.circle(flakes, spot, int(rng.choice((1, 1, 2, 3))), (1.0,), -1, cv2.LINE_AA)
    return floats(np.clip(mixed(floats(base), (1.0, 1.0, 1.0), blurred(flakes, 0.6)), 0, 1))


def galaxy(photo: Floats, rng: np.random.Generator) -> Floats:
    """Violet nebulae on black with stars, shaped by the picture."""
    gas = fractal(rng, photo.shape, 36, 5)
    plane = np.clip(blurred(brightness(photo), 1.5) * 0.7 + gas * 0.4 - 0.15, 0, 1)
    space = ramp(floats(plane), (0.01, 0.0, 0.06), (0.2, 0.03, 0.4), (0.75, 0.2, 0.7), (1.0, 0.75, 0.95))
    stars = np.zeros(plane.shape, np.float32)
    for _ in range(plane.size // 160):
        stars[int(rng.integers(plane.shape[0])), int(rng.integers(plane.shape[1]))] = rng.uniform(0.5, 3)
    return floats(np.clip(space + (np.clip(stars, 0, 1) + blurred(stars, 1.0))[..., None], 0, 1))


def rust(photo: Floats, rng: np.random.Generator) -> Floats:
    """Iron plates eaten by orange and brown rust."""
    eaten = fractal(rng, photo.shape, 30, 5)
    grey = brightness(photo)
    iron = ramp(grey, (0.2, 0.24, 0.27), (0.45, 0.5, 0.54), (0.7, 0.75, 0.78))
    pits = 0.85 + 0.2 * smooth_noise(rng, photo.shape, 1.8)
    red = ramp(floats(np.clip(grey * pits, 0, 1)), (0.18, 0.06, 0.02), (0.58, 0.24, 0.07), (0.9, 0.52, 0.2))
    return floats(np.clip(mixed(iron, red, floats((eaten - 0.36) * 7)), 0, 1))


def camouflage(photo: Floats, rng: np.random.Generator) -> Floats:
    """Rounded patches in four greens and browns, shaded by the picture."""
    patch = np.floor(np.clip(fractal(rng, photo.shape, 26, 2), 0, 0.999) * 4).astype(int)
    table = np.array([[0.16, 0.17, 0.12], [0.28, 0.34, 0.17], [0.45, 0.36, 0.22], [0.66, 0.63, 0.42]])
    return floats(np.clip(table[patch] * (0.45 + 0.95 * brightness(photo))[..., None], 0, 1))


def fur(photo: Floats, rng: np.random.Generator) -> Floats:
    """Soft hair in tufts."""
    turn = 1.2 * smooth_noise(rng, photo.shape, 40) + np.pi / 2
    along = floats(np.cos(turn)), floats(np.sin(turn))
    hair = streaked(rng.standard_normal(photo.shape[:2]).astype(np.float32), along, 10)
    hair = (hair / hair.std())[..., None]
    warm = ramp(brightness(photo), (0.12, 0.07, 0.04), (0.55, 0.38, 0.22), (0.97, 0.88, 0.74))
    return floats(np.clip(streaked(warm, along, 4) * (1 + 0.3 * hair), 0, 1))


def leaves(photo: Floats, rng: np.random.Generator) -> Floats:
    """Fallen autumn leaves, red and yellow, lying all over."""
    height, width = photo.shape[:2]
    grey = blurred(brightness(photo), 1.2)
    page = np.zeros_like(photo)
    hues = np.array([[0.85, 0.25, 0.05], [0.95, 0.55, 0.05], [0.98, 0.78, 0.15], [0.6, 0.15, 0.05], [0.55, 0.4, 0.1]])
    for _ in range(height * width // 22):
        px, py = int(rng.integers(width)), int(rng.integers(height))
        colour = np.clip(hues[rng.integers(5)] * (0.12 + 1.3 * grey[py, px]), 0, 1)
        turn = float(rng.uniform(0, 360))
        cv2.ellipse(page, (px, py), (5, 2), turn, 0, 360, colour.tolist(), -1, cv2.LINE_AA)
        dx, dy = 5 * np.cos(np.deg2rad(turn)), 5 * np.sin(np.deg2rad(turn))
        cv2.line(
            page, (int(px - dx), int(py - dy)), (int(px + dx), int(py + dy)), (colour * 0.6).tolist(), 1, cv2.LINE_AA
        )
    return floats(page)


def swirls(photo: Floats, rng: np.random.Generator) -> Floats:
    """Strokes that curl in whirls, blue and yellow, as in a starry night."""
    turn = 2.4 * smooth_noise(rng, photo.shape, 30)
    along = floats(np.cos(turn)), floats(np.sin(turn))
    stroke = streaked(blurred(rng.standard_normal(photo.shape[:2]).astype(np.float32), 0.9), along, 12)
    plane = np.clip(blurred(brightness(photo), 1.4) * 0.9 + 0.14 * stroke / stroke.std(), 0, 1)
    return ramp(floats(plane), (0.03, 0.07, 0.3), (0.1, 0.3, 0.65), (0.45, 0.68, 0.8), (0.98, 0.9, 0.4))
