"""Looks that a hand makes: pencil, charcoal, chalk, brush, print."""

from __future__ import annotations

import cv2
import numpy as np

from studio.gallery import textures
from studio.gallery.looks.tools import contours, fractal, grid, lit, mixed, ramp, within
from studio.gallery.textures import blurred, brightness, direction, floats, smooth_noise, streaked, vivid
from studio.painter.arrays import Floats


def pencil(photo: Floats, rng: np.random.Generator) -> Floats:
    """Grey graphite lines along contours and light slanted shading on white paper."""
    grey = brightness(photo)
    dodge = np.clip(grey / (blurred(grey, 2.2) + 0.02), 0, 1)
    line = np.clip((1 - dodge) * 2.2, 0, 1)
    slanted = blurred(rng.standard_normal(grey.shape).astype(np.float32), 0.5)
    angle = np.deg2rad(-55)
    along = (np.full_like(grey, np.cos(angle)), np.full_like(grey, np.sin(angle)))
    stroke = streaked(slanted, along, 7)
    shade = np.clip((1 - grey) - 0.35, 0, 1) * np.clip(0.5 + 0.6 * stroke / stroke.std(), 0, 1)
    return mixed((0.97, 0.97, 0.96), (0.25, 0.25, 0.27), floats(np.clip(line + 0.8 * shade, 0, 0.95)))


def charcoal(photo: Floats, rng: np.random.Generator) -> Floats:
    """Broad smudged black on rough warm paper."""
    grey = blurred(brightness(photo), 1.4)
    grain = smooth_noise(rng, grey.shape, 1.6)
    smudge = streaked(smooth_noise(rng, grey.shape, 3), direction(photo, 8.0), 8)
    dark = np.clip((0.62 - grey) * 2.6 + 0.28 * smudge / smudge.std() + 0.3 * grain + 0.9 * contours(photo, 1.6), 0, 1)
    return mixed((0.83, 0.78, 0.7), (0.06, 0.06, 0.06), floats(dark))


def chalkboard(photo: Floats, rng: np.random.Generator) -> Floats:
    """White chalk lines on a dark green board."""
    line = np.clip(contours(photo, 1.0) * 1.5 - 0.35, 0, 1)
    tooth = np.clip(0.75 + 0.5 * smooth_noise(rng, line.shape, 1.5), 0, 1)
    light = np.clip(brightness(photo) - 0.55, 0, 1) * np.clip(0.4 + 0.6 * smooth_noise(rng, line.shape, 2), 0, 1) * 0.7
    dust = 0.1 * fractal(rng, line.shape, 40)
    board = mixed((0.09, 0.24, 0.17), (0.3, 0.42, 0.36), dust)
    return mixed(board, (0.95, 0.95, 0.9), floats(line * tooth + light))


def blueprint(photo: Floats, rng: np.random.Generator) -> Floats:
    """Thin white lines on blue with a square grid."""
    grey = blurred(brightness(photo), 0.8)
    line = np.clip(np.abs(grey - blurred(grey, 1.4)) * 22 - 0.35, 0, 1)
    x, y = grid(grey.shape, rng)
    ruled = np.maximum(np.abs(within(x, 16)) < 0.035, np.abs(within(y, 16)) < 0.035) * 0.35
    tone = 0.16 * grey
    return mixed((0.06, 0.2, 0.58), (0.92, 0.96, 1.0), floats(np.maximum(line, ruled) + tone))


def oil(photo: Floats, rng: np.random.Generator) -> Floats:
    """Thick strokes along contours, lit as a relief of paint."""
    along = direction(photo, 6.0)
    bristle = streaked(rng.standard_normal(photo.shape[:2]).astype(np.float32), along, 9)
    bristle = blurred(bristle / bristle.std(), 0.7)
    colour = streaked(blurred(vivid(photo, 1.7), 1.5), along, 7)
    shade = (1 + 0.1 * bristle)[..., None] * lit(bristle, 0.09)[..., None]
    hue = np.stack([streaked(smooth_noise(rng, photo.shape, 6), along, 6) for _ in range(3)], 2) * 0.07
    return floats(np.clip((colour + hue) * shade, 0, 1))


def popart(photo: Floats, rng: np.random.Generator) -> Floats:
    """Four flat loud colours, as a silk screen prints them."""
    palettes = (
        ((0.2, 0.0, 0.5), (0.95, 0.1, 0.5), (1.0, 0.6, 0.0), (1.0, 0.95, 0.2)),
        ((0.05, 0.1, 0.45), (0.0, 0.6, 0.75), (1.0, 0.2, 0.55), (1.0, 0.9, 0.3)),
        ((0.35, 0.0, 0.3), (0.9, 0.1, 0.15), (0.1, 0.75, 0.55), (1.0, 0.95, 0.6)),
    )
    level = np.floor(np.clip(blurred(brightness(photo), 1.6), 0, 0.999) * 4).astype(int)
    return floats(np.asarray(palettes[rng.integers(len(palettes))])[level])


def engraving(photo: Floats, rng: np.random.Generator) -> Floats:
    """Level lines of dark green ink as on a banknote, thicker where it is darker."""
    dark = 1 - blurred(brightness(photo), 1.2)
    _, y = grid(dark.shape, rng, rng.uniform(-6, 6))
    wave = np.abs(within(floats(y + 2.2 * blurred(dark, 3) * 6), 5.0)) * 2
    ink = np.clip((dark * 0.92 + 0.06 - wave) * 5, 0, 1)
    return mixed((0.93, 0.94, 0.86), (0.07, 0.24, 0.2), floats(ink))


def circles(photo: Floats, rng: np.random.Generator) -> Floats:
    """Rings around one point, black on white, thicker where it is darker."""
    dark = 1 - blurred(brightness(photo), 1.2)
    height, width = dark.shape
    cy, cx = height * rng.uniform(0.3, 0.7), width * rng.uniform(0.3, 0.7)
    y, x = np.indices(dark.shape, np.float32)
    wave = np.abs(within(floats(np.hypot(y - cy, x - cx)), 6.5)) * 2
    return mixed((0.98, 0.97, 0.95), (0.05, 0.05, 0.07), floats(np.clip((dark * 0.95 + 0.04 - wave) * 4, 0, 1)))


def sepia(photo: Floats, rng: np.random.Generator) -> Floats:
    """A faded brown print with scratches, stains and dark corners."""
    grey = blurred(brightness(photo), 0.8) * 0.8 + 0.12
    height, width = grey.shape
    y, x = np.indices(grey.shape, np.float32)
    corner = np.hypot(y / height - 0.5, x / width - 0.5) * 0.7
    scratches = np.zeros_like(grey)
    for _ in range(int(rng.integers(5, 10))):
        a, b = rng.integers(0, width, 2), rng.integers(0, height, 2)
        far = (int(a[0] + rng.integers(-12, 12)), int(b[1]))
        cv2.line(scratches, (int(a[0]), int(b[0])), far, (1.0,), 1, cv2.LINE_AA)
    plane = np.clip(grey - corner * corner * 1.6 - 0.2 * (fractal(rng, grey.shape, 40) > 0.85) + 0.5 * scratches, 0, 1)
    return ramp(floats(plane), (0.16, 0.09, 0.04), (0.6, 0.42, 0.24), (0.96, 0.87, 0.7))


def xray(photo: Floats, rng: np.random.Generator) -> Floats:
    """A negative: pale bluish bones of the picture on black."""
    grey = 1 - brightness(photo)
    soft = 0.55 * blurred(grey, 2.5) + 0.7 * contours(photo, 1.2) - 0.18
    return ramp(floats(np.clip(soft, 0, 1)), (0.01, 0.02, 0.05), (0.2, 0.4, 0.55), (0.88, 0.98, 1.0))


def heat(photo: Floats, rng: np.random.Generator) -> Floats:
    """A thermal camera: blue is cold, white is hot."""
    plane = blurred(brightness(photo), 1.8)
    return ramp(
        plane, (0.02, 0.0, 0.25), (0.25, 0.0, 0.7), (0.85, 0.05, 0.5), (1.0, 0.45, 0.0), (1.0, 0.9, 0.1), (1, 1, 0.95)
    )


def letters(photo: Floats, rng: np.random.Generator) -> Floats:
    """Green signs in a raster on black, brighter where the picture is."""
    pitch = 9
    grey = blurred(brightness(photo), 1.5)
    page = np.zeros_like(grey)
    for y in range(0, grey.shape[0], pitch):
        for x in range(0, grey.shape[1], pitch - 2):
            sign = chr(int(rng.integers(35, 91)))
            value = float(
                np.clip(grey[min(y + 4, len(grey) - 1), min(x + 3, grey.shape[1] - 1)] ** 1.7 * 1.4 + 0.06, 0, 1)
            )
            cv2.putText(page, sign, (x, y + pitch - 1), cv2.FONT_HERSHEY_PLAIN, 0.62, (value,), 1, cv2.LINE_AA)
    page = np.clip(page * 1.3 + 0.22 * grey * grey, 0, 1)
    return ramp(floats(page), (0.0, 0.04, 0.01), (0.05, 0.7, 0.2), (0.75, 1.0, 0.75))


def glitch(photo: Floats, rng: np.random.Generator) -> Floats:
    """Bands slipped sideways, red and cyan apart, scan lines."""
    out = photo.copy()
    y = 0
    while y < len(photo):
        band = int(rng.integers(3, 22))
        slip = int(rng.integers(-22, 23)) if rng.random() < 0.55 else 0
        out[y : y + band] = np.roll(photo[y : y + band], slip, 1)
        y += band
    apart = int(rng.integers(4, 8))
    out = np.stack([np.roll(out[..., 0], apart, 1), out[..., 1], np.roll(out[..., 2], -apart, 1)], 2)
    scan = 0.82 + 0.18 * (np.arange(len(out)) % 3 > 0)
    return floats(np.clip((out - 0.5) * 1.3 + 0.5, 0, 1) * scan[:, None, None])


def watercolour(photo: Floats, rng: np.random.Generator) -> Floats:
    """Washes on white paper, drawn for a larger sheet."""
    return _enlarged(textures.watercolour, photo, 1.8, rng)


def stained_glass(photo: Floats, rng: np.random.Generator) -> Floats:
    """Panes in the picture's colours between lead, drawn for a larger sheet."""
    glass = _enlarged(textures.stained_glass, photo, 2.4, rng)
    tone = blurred(brightness(photo), 2.0)[..., None]
    return floats(np.clip(glass * (0.35 + 1.1 * tone), 0, 1))


def _enlarged(draw: textures.Drawing, photo: Floats, by: float, rng: np.random.Generator) -> Floats:
    height, width = photo.shape[:2]
    large = cv2.resize(photo, (round(width * by), round(height * by)), interpolation=cv2.INTER_CUBIC)
    drawn = draw(floats(np.clip(large, 0, 1)), rng)
    return floats(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA))
