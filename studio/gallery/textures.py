"""Styles that no painting here has: a picture drawn in ink, cut in wood, laid in stone. Each is [H, W, 3] in 0..1."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from studio.painter.arrays import Floats

Numbers = npt.NDArray[np.int64]
Drawing = Callable[[Floats, np.random.Generator], Floats]


def floats(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, np.float32)


def blurred(plane: Floats, sigma: float) -> Floats:
    return floats(cv2.GaussianBlur(plane, (0, 0), sigma))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Floats:
    """Bumps about `scale` px wide with a deviation of 1."""
    small = rng.standard_normal((int(shape[0] / scale) + 2, int(shape[1] / scale) + 2)).astype(np.float32)
    plane = floats(cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))
    return floats(plane / plane.std())


def brightness(photo: Floats) -> Floats:
    """Spread over 0..1, so that a drawing has whites and blacks whatever the photograph."""
    grey = photo @ np.array([0.3, 0.59, 0.11], np.float32)
    low, high = np.percentile(grey, (2, 98))
    return floats(np.clip((grey - low) / (high - low), 0, 1))


def vivid(photo: Floats, gain: float) -> Floats:
    """Colours further away from grey, brightness spread."""
    grey = photo.mean(2, keepdims=True)
    low, high = np.percentile(grey, (1, 99))
    spread = (grey + (photo - grey) * gain - low) / (high - low)
    return floats(np.clip(spread, 0, 1))


def direction(photo: Floats, sigma: float) -> tuple[Floats, Floats]:
    """Unit vectors (x, y) along contours, from the smoothed structure tensor."""
    grey = blurred(brightness(photo), 1.5)
    gx, gy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    xx, yy, xy = (blurred(plane, sigma) for plane in (gx * gx, gy * gy, gx * gy))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    return floats(np.cos(angle)), floats(np.sin(angle))


def streaked(plane: Floats, along: tuple[Floats, Floats], length: int) -> Floats:
    """A picture averaged along a flow, `length` px to either side."""
    height, width = plane.shape[:2]
    total = plane.copy()
    for sign in (1, -1):
        y, x = np.indices((height, width), np.float32)
        for _ in range(length):
            fx, fy = (cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) for part in along)
            x, y = x + sign * fx, y + sign * fy
            total += cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return floats(total / (2 * length + 1))


def cells(rng: np.random.Generator, shape: tuple[int, ...], pitch: float, jitter: float) -> tuple[Numbers, Floats]:
    """The number of the nearest of jittered grid points at each pixel, and how much farther the second is, px."""
    height, width = shape[:2]
    rows, columns = int(height / pitch) + 3, int(width / pitch) + 3
    y, x = np.indices((height, width), np.float32)
    row, column = (y / pitch).astype(int) + 1, (x / pitch).astype(int) + 1
    dy, dx = rng.uniform(-jitter, jitter, (2, rows, columns)).astype(np.float32) * pitch
    best, second = np.full((height, width), 1e6, np.float32), np.full((height, width), 1e6, np.float32)
    number = np.zeros((height, width), int)
    for i in range(-2, 3):
        for j in range(-2, 3):
            r, c = np.clip(row + i, 0, rows - 1), np.clip(column + j, 0, columns - 1)
            away = np.hypot(y - (r - 0.5) * pitch - dy[r, c], x - (c - 0.5) * pitch - dx[r, c])
            closer = (away < best) & (r * columns + c != number)
            same = r * columns + c == number
            second = np.where(closer, best, np.where(same, second, np.minimum(second, away)))
            number, best = np.where(closer, r * columns + c, number), np.where(closer, away, best)
    return number, floats(second - best)


def flat(photo: Floats, number: Numbers) -> Floats:
    """Every cell in its mean colour."""
    labels = number.ravel()
    count = np.maximum(np.bincount(labels), 1)
    means = np.stack([np.bincount(labels, photo[..., i].ravel()) / count for i in range(3)], 1)
    return floats(means[number])


def mosaic(photo: Floats, rng: np.random.Generator) -> Floats:
    number, gap = cells(rng, photo.shape, 11, 0.22)
    shade = rng.uniform(0.8, 1.2, number.max() + 1).astype(np.float32)[number][..., None]
    stones = np.clip(flat(vivid(photo, 1.7), number) * shade, 0, 1)
    light = np.clip(0.85 + 0.04 * np.minimum(gap, 5), 0, 1)[..., None]
    joint = np.clip((gap - 1.2) / 1.0, 0, 1)[..., None]
    return floats(stones * light * joint + np.array([0.16, 0.14, 0.13]) * (1 - joint))


def stained_glass(photo: Floats, rng: np.random.Generator) -> Floats:
    number, gap = cells(rng, photo.shape, 34, 0.42)
    hues = np.array(
        [[0.85, 0.1, 0.12], [0.1, 0.25, 0.8], [0.95, 0.7, 0.1], [0.1, 0.55, 0.3], [0.55, 0.15, 0.6], [0.2, 0.65, 0.85]]
    )
    tint = hues[rng.integers(0, len(hues), number.max() + 1)][number]
    glass = 0.45 * flat(vivid(photo, 2.2), number) + 0.55 * tint
    glow = (1 + 0.13 * smooth_noise(rng, number.shape, 9))[..., None]
    bright = np.clip(0.55 + gap / 22, 0, 1.15)[..., None]
    lead = np.clip((gap - 3.0) / 1.5, 0, 1)[..., None]
    return floats(np.clip(glass * glow * bright * lead + 0.03, 0, 1))


def hatch(rng: np.random.Generator, shape: tuple[int, ...], degrees: float, pitch: float) -> Floats:
    """Wavy lines: how dark it has to be for ink at each pixel, 0..1, lowest in the middle of a line."""
    y, x = np.indices(shape[:2], np.float32)
    radians = np.deg2rad(degrees)
    across = x * np.sin(radians) + y * np.cos(radians) + 1.1 * smooth_noise(rng, shape, 26)
    wave: Floats = (0.5 + 0.5 * np.cos(2 * np.pi * across / pitch)).astype(np.float32)
    return wave


def ink(photo: Floats, rng: np.random.Generator) -> Floats:
    dark = 1 - brightness(photo)
    drawn = np.zeros_like(dark)
    for degrees, start in ((35, 0.18), (-35, 0.4), (80, 0.6), (0, 0.78)):
        width = np.clip((dark - start) * 1.1, 0, 0.75)
        line = np.clip((hatch(rng, dark.shape, degrees, 6.0) - (1 - width)) * 5, 0, 1)
        drawn = np.maximum(drawn, line)
    grey = blurred(brightness(photo), 1.0)
    contour = np.clip((blurred(grey, 1.6) - grey) * 18 - 0.25, 0, 1)
    drawn = np.maximum(drawn, contour)[..., None]
    paper = np.array([0.96, 0.93, 0.85], np.float32) * (1 + 0.012 * smooth_noise(rng, dark.shape, 2))[..., None]
    return floats(np.clip(paper * (1 - drawn) + np.array([0.08, 0.08, 0.13]) * drawn, 0, 1))


def woodcut(photo: Floats, rng: np.random.Generator) -> Floats:
    tone = blurred(brightness(photo), 1.6)
    along = direction(photo, 7.0)
    grain = streaked(rng.standard_normal(tone.shape).astype(np.float32), along, 16)
    grain = blurred(grain, 0.9)
    grain /= grain.std()
    cut = np.clip((tone - 0.5) * 2.4 + 0.75 * grain, -1, 1)
    black = np.clip(0.5 - cut * 3, 0, 1)[..., None]
    return floats(np.array([0.93, 0.88, 0.76]) * (1 - black) + np.array([0.1, 0.07, 0.06]) * black)


def pastel(photo: Floats, rng: np.random.Generator) -> Floats:
    """Soft sticks on dark paper: broad strokes in neighbouring hues, the paper's tooth between them."""
    along = direction(photo, 9.0)
    chalk = streaked(blurred(rng.standard_normal(photo.shape[:2]).astype(np.float32), 1.1), along, 8)
    chalk = (chalk / chalk.std())[..., None]
    colour = streaked(vivid(photo, 1.6), along, 6)
    hues = np.stack([smooth_noise(rng, photo.shape, 5) for _ in range(3)], 2)
    hue = streaked(hues.astype(np.float32), along, 7) * 0.16
    soft = np.clip(0.16 + 0.86 * colour + hue, 0, 1)
    grain = rng.standard_normal(photo.shape[:2]).astype(np.float32)[..., None]
    tooth = np.clip(0.72 + 0.42 * chalk + 0.13 * grain, 0, 1)
    return floats(np.clip(soft * tooth + np.array([0.22, 0.19, 0.27]) * (1 - tooth), 0, 1))


def watercolour(photo: Floats, rng: np.random.Generator) -> Floats:
    """Washes on white paper: few tones, darker where a wash dried at its edge, white left between some."""
    warped = _shaken(vivid(photo, 1.9), rng, 4.0, 22)
    wash = blurred(floats(cv2.bilateralFilter(warped, 11, 0.3, 7)), 1.2)
    steps = floats(np.round((wash + 0.04 * smooth_noise(rng, photo.shape, 30)[..., None]) * 4) / 4)
    edges = np.clip(np.abs(steps - blurred(steps, 2.0)).sum(2, keepdims=True) * 1.3, 0, 0.45)
    bloom = (1 + 0.16 * smooth_noise(rng, photo.shape, 16) + 0.07 * smooth_noise(rng, photo.shape, 5))[..., None]
    density = np.clip((1 - blurred(steps, 0.9)) * 0.72 * bloom + edges * (1.05 - wash), 0, 0.95)
    white = np.clip(smooth_noise(rng, photo.shape, 40)[..., None] - 1.2, 0, 0.5)
    paper = 0.985 + 0.016 * smooth_noise(rng, photo.shape, 2.2)[..., None]
    return floats(np.clip(paper * (1 - density * (1 - white)), 0, 1))


def points(photo: Floats, rng: np.random.Generator) -> Floats:
    """Dots of pure colour, as Seurat set them, the nearer to the eye's mixture the more of them."""
    colours = vivid(photo, 1.6)
    canvas = np.clip(blurred(colours, 4) * 0.8 + 0.1, 0, 1)
    height, width = photo.shape[:2]
    for radius, count in ((4, height * width // 60), (3, height * width // 28)):
        for y, x, r in zip(
            rng.integers(0, height, count), rng.integers(0, width, count), rng.uniform(-0.8, 0.8, count), strict=True
        ):
            dot = np.clip(colours[y, x] + rng.normal(0, 0.13, 3), 0, 1)
            cv2.circle(canvas, (int(x), int(y)), round(radius + r), dot.tolist(), -1, cv2.LINE_AA)
    return floats(blurred(canvas, 0.5))


def halftone(photo: Floats, rng: np.random.Generator) -> Floats:
    """A comic's print: cyan, magenta and yellow dots, black contours."""
    colour = vivid(photo, 1.8)
    amount = np.clip(1.15 - colour, 0, 1) * 0.9
    page = np.ones_like(colour)
    y, x = np.indices(colour.shape[:2], np.float32)
    for i, degrees in enumerate((15, 75, 0)):
        radians = np.deg2rad(degrees)
        u, v = x * np.cos(radians) + y * np.sin(radians), y * np.cos(radians) - x * np.sin(radians)
        screen = 0.5 + 0.25 * (np.cos(2 * np.pi * u / 6.5) + np.cos(2 * np.pi * v / 6.5))
        page[..., i] -= np.clip((blurred(amount[..., i], 2) - 1 + screen) * 6, 0, 1) * 0.92
    grey = blurred(brightness(photo), 1.2)
    line = np.clip((blurred(grey, 2.5) - grey) * 16 - 0.35, 0, 1) + np.clip((0.17 - grey) * 9, 0, 1)
    return floats(np.clip(page * (1 - np.clip(line, 0, 1))[..., None], 0, 1))


def _shaken(picture: Floats, rng: np.random.Generator, amount: float, scale: float) -> Floats:
    y, x = np.indices(picture.shape[:2], np.float32)
    dx, dy = (amount * smooth_noise(rng, picture.shape, scale) for _ in range(2))
    return floats(cv2.remap(picture, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


TEXTURES: Mapping[str, Drawing] = {
    "mosaic": mosaic,
    "stained-glass": stained_glass,
    "ink": ink,
    "woodcut": woodcut,
    "pastel": pastel,
    "watercolour": watercolour,
    "points": points,
    "halftone": halftone,
}
