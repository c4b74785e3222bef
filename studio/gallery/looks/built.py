"""Looks that are laid, sewn or tiled: bricks, honeycomb, stitches, tiles."""

from __future__ import annotations

import cv2
import numpy as np

from studio.gallery.looks.tools import averaged, contours, fractal, grid, lit, mixed, per_cell, ramp, within
from studio.gallery.textures import blurred, brightness, cells, flat, floats, smooth_noise, vivid
from studio.painter.arrays import Floats


def bricks(photo: Floats, rng: np.random.Generator) -> Floats:
    """A wall of red bricks in light mortar, painted with the picture's tones."""
    x, y = grid(photo.shape, rng)
    row = np.floor(y / 9)
    u = x + (row % 2) * 10
    column = np.floor(u / 20)
    tone = 0.3 + 0.8 * blurred(brightness(photo), 1.2)
    vary = 0.85 + 0.3 * per_cell(row, column, rng)
    clay = np.array([0.68, 0.27, 0.18]) * (tone * vary * (0.92 + 0.08 * smooth_noise(rng, photo.shape, 2)))[..., None]
    joint = np.minimum(0.5 - np.abs(y / 9 - row - 0.5), (0.5 - np.abs(u / 20 - column - 0.5)) * 20 / 9)
    mortar = np.array([0.78, 0.75, 0.7]) * (0.45 + 0.6 * tone)[..., None]
    return floats(np.clip(mixed(floats(mortar), floats(clay), floats((joint - 0.09) * 16)), 0, 1))


def honeycomb(photo: Floats, rng: np.random.Generator) -> Floats:
    """Hexagons of honey with waxen walls."""
    pitch = 14.0
    x, y = grid(photo.shape, rng)
    height = pitch * np.sqrt(3) / 2
    best, second = np.full(x.shape, 1e6), np.full(x.shape, 1e6)
    row, column = np.zeros_like(x), np.zeros_like(x)
    base = np.round(y / height)
    for i in (-1, 0, 1):
        r = base + i
        off = (np.mod(r, 2)) * 0.5
        for j in (-1, 0, 1):
            c = np.round(x / pitch - off) + j
            away = np.hypot(x - (c + off) * pitch, y - r * height)
            closer = away < best
            second = np.where(closer, best, np.minimum(second, away))
            row, column = np.where(closer, r, row), np.where(closer, c, column)
            best = np.where(closer, away, best)
    tone = averaged(photo, floats(row), floats(column)) @ np.array([0.3, 0.59, 0.11])
    low, high = np.percentile(tone, (2, 98))
    tone = np.clip((tone - low) / (high - low + 1e-3), 0, 1)
    shine = np.clip(1.0 - best / pitch, 0, 1) * 0.25
    honey = ramp(floats(np.clip(tone * 0.9 + shine, 0, 1)), (0.25, 0.1, 0.0), (0.85, 0.5, 0.03), (1.0, 0.85, 0.3))
    return mixed((0.99, 0.93, 0.7), honey, floats((second - best - 1.3) * 0.9))


def squares(photo: Floats, rng: np.random.Generator) -> Floats:
    """A mosaic of little square stones, slightly tilted, in dark grout."""
    pitch = 7.5
    x, y = grid(photo.shape, rng, rng.uniform(-8, 8))
    wobble = 0.9 * smooth_noise(rng, photo.shape, 22)
    row, column = np.floor((y + wobble) / pitch), np.floor((x - wobble) / pitch)
    stone = averaged(vivid(photo, 1.7), floats(row), floats(column))
    stone = stone * (0.75 + 0.5 * per_cell(floats(row), floats(column), rng))[..., None]
    edge = 0.5 - np.maximum(
        np.abs(within(floats(y + wobble - pitch / 2), pitch)), np.abs(within(floats(x - wobble - pitch / 2), pitch))
    )
    return mixed((0.12, 0.11, 0.1), floats(np.clip(stone, 0, 1)), floats((edge - 0.08) * 9))


def pixels(photo: Floats, rng: np.random.Generator) -> Floats:
    """Plain square blocks of few colours, as in an old game."""
    pitch = 8
    x, y = grid(photo.shape, rng)
    block = averaged(vivid(photo, 1.5), floats(np.floor(y / pitch)), floats(np.floor(x / pitch)))
    return floats(np.round(block * 4) / 4)


def lowpoly(photo: Floats, rng: np.random.Generator) -> Floats:
    """Flat triangles between scattered points."""
    height, width = photo.shape[:2]
    count = 120
    points = np.stack([rng.uniform(0, width - 1, count), rng.uniform(0, height - 1, count)], 1)
    edge = contours(photo, 1.5).ravel() + 0.02
    drawn = rng.choice(edge.size, count, replace=False, p=edge / edge.sum())
    points = np.concatenate([points, np.stack([drawn % width, drawn // width], 1)]).astype(np.float32)
    plan = cv2.Subdiv2D((-1, -1, width + 2, height + 2))
    for px, py in [*points.tolist(), (0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]:
        plan.insert((float(px), float(py)))
    soft, out = blurred(vivid(photo, 1.4), 1.5), vivid(photo, 1.4).copy()
    for triangle in np.asarray(plan.getTriangleList()).reshape(-1, 3, 2):
        inside = triangle.mean(0).round().astype(int)
        if 0 <= inside[0] < width and 0 <= inside[1] < height:
            shade = soft[inside[1], inside[0]] * rng.uniform(0.86, 1.14)
            cv2.fillConvexPoly(out, triangle.round().astype(np.int32), np.clip(shade, 0, 1).tolist())
    return floats(out)


def crossstitch(photo: Floats, rng: np.random.Generator) -> Floats:
    """Little x of thread on cream cloth."""
    pitch = 7.0
    x, y = grid(photo.shape, rng)
    row, column = floats(np.floor(y / pitch)), floats(np.floor(x / pitch))
    thread = averaged(vivid(photo, 1.5), row, column)
    u, v = within(floats(x - pitch / 2), pitch), within(floats(y - pitch / 2), pitch)
    first, second = np.abs(u - v) < 0.17, np.abs(u + v) < 0.17
    inside = (np.abs(u) < 0.44) & (np.abs(v) < 0.44)
    shade = np.where(first, 1.12, 0.82)[..., None]
    cloth = np.array([0.94, 0.9, 0.8]) * (0.94 + 0.06 * smooth_noise(rng, photo.shape, 1.5))[..., None]
    return floats(np.clip(mixed(floats(cloth), floats(thread * shade), floats((first | second) & inside)), 0, 1))


def knitting(photo: Floats, rng: np.random.Generator) -> Floats:
    """Columns of V stitches of wool."""
    px, py = 8.0, 6.5
    x, y = grid(photo.shape, rng)
    u = within(x, px)
    slanted = y - np.abs(u) * 9.0
    v = within(floats(slanted), py)
    wool = blurred(vivid(photo, 1.4), 1.8)
    round_ = np.clip(1 - (np.abs(v) * 2) ** 2, 0, 1) * np.clip(1 - (np.abs(np.abs(u) - 0.25) * 3.4) ** 2, 0, 1)
    fuzz = 0.93 + 0.1 * smooth_noise(rng, photo.shape, 1.6)
    return floats(np.clip(wool * (0.3 + 0.9 * round_ * fuzz)[..., None], 0, 1))


def basket(photo: Floats, rng: np.random.Generator) -> Floats:
    """Broad straw bands, over and under each other."""
    pitch = 11.0
    x, y = grid(photo.shape, rng)
    over = (np.floor(x / pitch) + np.floor(y / pitch)) % 2
    u, v = within(floats(x - pitch / 2), pitch), within(floats(y - pitch / 2), pitch)
    across, along = np.where(over > 0, v, u), np.where(over > 0, u, v)
    band = np.clip(1.15 - (np.abs(across) * 2.1) ** 4, 0, 1) * (1 - 0.55 * (np.abs(along) * 2) ** 2)
    fibre = 0.9 + 0.13 * np.cos(across * 2 * np.pi * 3.5)
    tone = ramp(blurred(brightness(photo), 1.4), (0.3, 0.16, 0.06), (0.74, 0.53, 0.26), (0.98, 0.87, 0.6))
    return floats(np.clip(tone * (band * fibre)[..., None] * 1.12, 0, 1))


def stripes(photo: Floats, rng: np.random.Generator) -> Floats:
    """Broad slanted bands, in the picture's colours and in white by turns."""
    x, _ = grid(photo.shape, rng, 45)
    band = np.clip(np.abs(within(x, 14)) * 14 - 3.0, 0, 1)
    colour = np.clip(vivid(photo, 1.9) * 0.8, 0, 1)
    pale = 0.72 + 0.28 * photo
    return mixed(floats(pale), floats(colour), floats(band))


def polka(photo: Floats, rng: np.random.Generator) -> Floats:
    """Large round white dots over the picture, set in a lattice."""
    x, y = grid(photo.shape, rng, 45)
    away = np.hypot(within(x, 15), within(y, 15)) * 15
    colour = np.clip(vivid(photo, 1.9) * 0.85, 0, 1)
    return mixed(floats(colour), floats(0.8 + 0.2 * photo), floats(np.clip(5.0 - away, 0, 1)))


def checker(photo: Floats, rng: np.random.Generator) -> Floats:
    """A chessboard: every second square dark."""
    pitch = 16.0
    x, y = grid(photo.shape, rng)
    odd = (np.floor(x / pitch) + np.floor(y / pitch)) % 2
    grey = brightness(photo)[..., None]
    return floats(np.where(odd[..., None] > 0, 0.05 + 0.4 * grey, 0.6 + 0.4 * grey) * np.array([1.0, 0.98, 0.94]))


def cobbles(photo: Floats, rng: np.random.Generator) -> Floats:
    """Round grey stones with dark gaps."""
    number, gap = cells(rng, photo.shape, 15, 0.3)
    tone = brightness(flat(photo, number)) * 0.75 + 0.25 * brightness(photo)
    dome = np.clip(gap / 9, 0, 1) ** 0.5
    shade = (0.9 + 0.12 * smooth_noise(rng, photo.shape, 2.5)) * lit(floats(blurred(floats(dome), 1.2)), -0.35)
    stone = ramp(floats(np.clip(tone * shade, 0, 1)), (0.16, 0.17, 0.19), (0.52, 0.52, 0.52), (0.9, 0.89, 0.86))
    return floats(np.clip(mixed((0.06, 0.06, 0.05), stone, floats((gap - 1.5) * 0.7)), 0, 1))


def scales(photo: Floats, rng: np.random.Generator) -> Floats:
    """Rows of overlapping fish scales that shimmer green and blue."""
    px, py = 13.0, 6.5
    x, y = grid(photo.shape, rng)
    best = np.full(x.shape, -1e6)
    away = np.zeros_like(x)
    for i in range(-1, 3):
        r = np.floor(y / py) - i
        u = within(floats(x + np.mod(r, 2) * px / 2), px) * px
        d = np.hypot(u, y - r * py)
        take = (d < px * 0.55) & (r > best)
        best, away = np.where(take, r, best), np.where(take, d, away)
    rim = np.clip(away / (px * 0.55), 0, 1)
    tone = blurred(brightness(photo), 1.2)
    colour = ramp(
        floats(np.clip(tone * 0.75 + 0.3 * (1 - rim), 0, 1)), (0.0, 0.1, 0.2), (0.05, 0.5, 0.5), (0.7, 0.98, 0.8)
    )
    return floats(np.clip(colour * (1.1 - 0.75 * rim**5)[..., None], 0, 1))


def puzzle(photo: Floats, rng: np.random.Generator) -> Floats:
    """Pieces of a jigsaw, dark cuts with knobs and a bright edge."""
    pitch = 30
    x, y = grid(photo.shape, rng)
    cut = np.full(x.shape, 1e6)
    for u, v in ((x, y), (y, x)):
        side = np.where((np.round(u / pitch) + np.floor(v / pitch)) % 2 > 0, 1.0, -1.0)
        middle = within(floats(v - pitch / 2), pitch) * pitch
        across = within(u, pitch) * pitch
        ring = np.abs(np.hypot(across - side * 5, middle) - 4.2)
        straight = np.where(np.abs(middle) < 2.8, 1e6, np.abs(across))
        cut = np.minimum(cut, np.minimum(straight, ring))
    light = lit(floats(np.clip(cut, 0, 2.5)), 0.09)
    return floats(np.clip(mixed((0.05, 0.05, 0.05), floats(photo * light[..., None]), floats((cut - 0.5) * 1.6)), 0, 1))


def circuit(photo: Floats, rng: np.random.Generator) -> Floats:
    """A green board with copper traces and solder points, brighter where the picture is."""
    height, width = photo.shape[:2]
    traces = np.zeros((height, width), np.float32)
    for _ in range(height * width // 330):
        px, py = int(rng.integers(width) // 6 * 6), int(rng.integers(height) // 6 * 6)
        for _ in range(3):
            dx, dy = ((6, 0), (0, 6), (6, 6), (-6, 6))[rng.integers(4)]
            far = int(rng.integers(1, 4))
            qx, qy = px + dx * far, py + dy * far
            cv2.line(traces, (px, py), (qx, qy), (1.0,), 1, cv2.LINE_AA)
            px, py = qx, qy
        cv2.circle(traces, (px, py), 2, (1.0,), -1, cv2.LINE_AA)
    tone = blurred(brightness(photo), 1.0)
    board = ramp(tone, (0.0, 0.1, 0.04), (0.02, 0.36, 0.15), (0.25, 0.68, 0.36))
    copper = ramp(tone, (0.35, 0.3, 0.08), (0.85, 0.75, 0.3), (1.0, 0.97, 0.7))
    return mixed(board, copper, traces)


def harlequin(photo: Floats, rng: np.random.Generator) -> Floats:
    """Tall diamonds, each in one colour."""
    x, y = grid(photo.shape, rng)
    u, v = x / 10 + y / 18, x / 10 - y / 18
    row, column = floats(np.floor(u)), floats(np.floor(v))
    tint = np.array([[0.85, 0.12, 0.15], [0.1, 0.3, 0.7], [0.95, 0.75, 0.1], [0.1, 0.55, 0.35]])
    odd = ((row % 2) * 2 + column % 2).astype(int)
    tone = 0.2 + 1.15 * blurred(brightness(photo), 0.8)
    line = np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v)))
    return floats(
        np.clip(mixed((0.08, 0.06, 0.05), floats(tint[odd] * tone[..., None]), floats((line - 0.03) * 30)), 0, 1)
    )


def paper(photo: Floats, rng: np.random.Generator) -> Floats:
    """Layers of cut paper, each with a shadow on the one below."""
    plane = blurred(brightness(photo), 3.0) + 0.02 * fractal(rng, photo.shape, 30)
    out = np.broadcast_to(np.array([0.13, 0.2, 0.3]), photo.shape).copy()
    colours = ((0.2, 0.36, 0.48), (0.38, 0.56, 0.62), (0.93, 0.66, 0.5), (0.98, 0.85, 0.72), (1.0, 0.97, 0.92))
    for level, colour in zip((0.18, 0.36, 0.54, 0.72, 0.88), colours, strict=True):
        layer = np.clip((plane - level) * 60, 0, 1)
        shadow = blurred(floats(np.roll(layer, (4, 4), (0, 1))), 2.0)
        out = mixed(floats(out), (0.02, 0.02, 0.05), floats(shadow * 0.55))
        out = mixed(out, colour, floats(layer))
    return floats(np.clip(out, 0, 1))
