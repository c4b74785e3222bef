"""Seeded pictures with captions, contours and depth order: everything the small models are trained and judged on.

A scene becomes one label map at 4x supersampling (`View`); a style is a pure function of that view and a generator,
returning float [H, W, 3] in 0..1. The drawings themselves are data, in `shapes.txt`.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Style = Callable[["View", np.random.Generator], Floats]

OBJECTS: tuple[str, ...] = (
    "boat", "house", "tree", "fish", "car", "flower", "cat", "bird",
    "mushroom", "cup", "star", "balloon", "castle", "butterfly", "apple", "umbrella",
)  # fmt: skip
HELD_OUT_OBJECTS: tuple[str, ...] = ("rocket", "snail", "lighthouse", "crown")
BACKGROUNDS: dict[str, str] = {
    "plain": "on plain paper",
    "night": "at night",
    "sea": "by the sea",
    "meadow": "in a meadow",
    "sunset": "at sunset",
    "snow": "in the snow",
}
STYLE_DESCRIPTORS: dict[str, str] = {
    "flat": "flat",
    "outline": "ink outline",
    "watercolour": "watercolour",
    "pixel": "pixel art",
    "clay": "clay",
    "cutout": "paper cutout",
    "crayon": "crayon",
    "poster": "poster",
    "glass": "stained glass",
    "stipple": "stipple",
    "crosshatch": "crosshatch",
    "neon": "neon",
    "mosaic": "mosaic",
    "halftone": "halftone",
}
STYLES: tuple[str, ...] = tuple(STYLE_DESCRIPTORS)[:8]
HELD_OUT_STYLES: tuple[str, ...] = tuple(STYLE_DESCRIPTORS)[8:]

MAIN_COLOURS = {
    "red": (214, 40, 40),
    "orange": (243, 128, 22),
    "yellow": (246, 208, 44),
    "green": (52, 150, 66),
    "blue": (40, 98, 214),
    "purple": (134, 64, 188),
    "pink": (244, 118, 178),
    "brown": (138, 84, 46),
}
COLOURS: tuple[str, ...] = tuple(MAIN_COLOURS)
FIXED_ROLES = {
    "accent": (250, 243, 226),
    "ink": (44, 40, 52),
    "wood": (122, 98, 86),
    "leaf": (104, 140, 92),
    "gold": (240, 186, 88),
}
SUPERSAMPLING = 4
OBJECT_DEPTH = 4  # background layers are 0..3, object layers 4..7
DEPTH_STEP = 36
UNSEEN_ONE_IN = 25
INK = np.array([0.15, 0.13, 0.18], np.float32)
PAPER = np.array([0.965, 0.945, 0.895], np.float32)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Scene:
    """What to paint. The seed moves, scales, mirrors and bends the object, and shifts the background."""

    object: str
    colour: str
    background: str
    style: str
    seed: int


@dataclass(frozen=True)
class Painting:
    """image uint8 [H, W, 3]; edges uint8 [H, W], contours of the shapes; depth uint8 [H, W], 0 far, larger is nearer.

    Edges and depth depend on the geometry only, never on the style.
    """

    image: Bytes
    edges: Bytes
    depth: Bytes


# ---------------------------------------------------------------- shapes


@dataclass(frozen=True)
class Layer:
    """Polygons float [n, 2] of one role (object) or one #rrggbb colour (background)."""

    role: str
    polygons: tuple[NDArray[np.float64], ...]


def _pairs(numbers: Sequence[float]) -> NDArray[np.float64]:
    return np.array(numbers, np.float64).reshape(-1, 2)


def _smooth(points: NDArray[np.float64], closed: bool) -> NDArray[np.float64]:
    """Catmull-Rom curve through points [n, 2], 6 samples a segment."""
    padded = np.concatenate([points[-1:], points, points[:2]] if closed else [points[:1], points, points[-1:]])
    a, b, c, d = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 6, endpoint=False)[None, :, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def _ribbon(points: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Outline of a stroke of this width along points [n, 2]."""
    along = np.gradient(points, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True) * width / 2
    return np.concatenate([points + normal, (points - normal)[::-1]])


def _oval(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> NDArray[np.float64]:
    angle, turn = np.linspace(0, 2 * np.pi, 36, endpoint=False), np.radians(degrees)
    u, v = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack([x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)], 1)


def _dome(x: float, y: float, rx: float, ry: float) -> NDArray[np.float64]:
    angle = np.linspace(np.pi, 2 * np.pi, 24)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _star(x: float, y: float, outer: float, inner: float, tips: float) -> NDArray[np.float64]:
    angle = np.arange(2 * int(tips)) * np.pi / tips - np.pi / 2
    radius = np.where(np.arange(len(angle)) % 2, inner, outer)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


def _petals(
    x: float, y: float, ring: float, rx: float, ry: float, count: float, start: float = 0
) -> list[NDArray[np.float64]]:
    turns = start + np.arange(int(count)) * 360 / count
    return [_oval(x + ring * np.cos(np.radians(t)), y + ring * np.sin(np.radians(t)), rx, ry, t) for t in turns]


def _polygons(kind: str, n: Sequence[float], rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """The polygons of one line of shapes.txt."""
    match kind:
        case "poly":
            return [_pairs(n)]
        case "blob":
            return [_smooth(_pairs(n), closed=True)]
        case "line":
            return [_ribbon(_pairs(n[1:]), n[0])]
        case "curve":
            return [_ribbon(_smooth(_pairs(n[1:]), closed=False), n[0])]
        case "oval":
            return [_oval(*n)]
        case "dome":
            return [_dome(*n)]
        case "star":
            return [_star(*n)]
        case "petals":
            return _petals(*n)
        case "scatter":
            spots = rng.uniform(n[2:4], n[4:6], (int(n[0]), 2))
            return [_oval(x, y, n[1], n[1]) for x, y in spots]
    raise ValueError(f"shapes.txt: unknown kind {kind!r}")


@lru_cache(maxsize=1)
def _shapes() -> dict[str, list[tuple[str, str, tuple[float, ...]]]]:
    """shapes.txt as {name: [(role, kind, numbers)]}."""
    drawings: dict[str, list[tuple[str, str, tuple[float, ...]]]] = {}
    for line in Path(__file__).with_name("shapes.txt").read_text().splitlines():
        words = line.split()
        if not words or words[0] == "#":
            continue
        if words[0] in ("object", "background"):
            lines = drawings.setdefault(words[1], [])
        else:
            lines.append((words[0], words[1], tuple(map(float, words[2:]))))
    return drawings


def _layers(name: str, rng: np.random.Generator) -> list[Layer]:
    """The drawing's layers, far to near; lines of one role in a row are one layer."""
    layers: list[Layer] = []
    for role, kind, numbers in _shapes()[name]:
        before = layers.pop().polygons if layers and layers[-1].role == role else ()
        layers.append(Layer(role, before + tuple(_polygons(kind, numbers, rng))))
    return layers


@lru_cache(maxsize=64)
def _object_layers(name: str) -> list[Layer]:
    return _layers(name, np.random.default_rng(0))


# ---------------------------------------------------------------- the view a style sees


@dataclass(frozen=True)
class View:
    """labels uint8 [4H, 4W] into colours float32 [n, 3] and depths uint8 [n]; main float32 [3] is the named colour."""

    labels: Bytes
    colours: Floats
    depths: Bytes
    main: Floats

    @property
    def size(self) -> int:
        return len(self.labels) // SUPERSAMPLING

    @property
    def unit(self) -> float:
        """Pixels in 1/128 of the picture, so that textures scale with it."""
        return self.size / 128

    @property
    def of_object(self) -> NDArray[np.bool_]:
        return self.depths >= OBJECT_DEPTH

    @cached_property
    def flat(self) -> Floats:
        return self.filled(self.colours)

    @cached_property
    def mask(self) -> Floats:
        """Coverage of the object [H, W]."""
        return self.lookup(self.of_object * 255)

    @cached_property
    def _indexed(self) -> Image.Image:
        return Image.fromarray(self.labels)

    def filled(self, colours: Floats) -> Floats:
        """Anti-aliased picture [H, W, 3] with one colour a label."""
        image = Image.frombytes("P", self._indexed.size, self.labels.tobytes())
        image.putpalette((np.clip(colours, 0, 1) * 255).astype(np.uint8).tobytes())
        return np.asarray(image.convert("RGB").reduce(SUPERSAMPLING), np.float32) / 255

    def lookup(self, values: NDArray[np.generic]) -> Floats:
        """Anti-aliased map [H, W] in 0..1 of one value (0..255) a label."""
        table = np.zeros(256, np.uint8)
        table[: len(values)] = values
        return np.asarray(self._indexed.point(table.tolist()).reduce(SUPERSAMPLING), np.float32) / 255

    @cached_property
    def _changes(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Where the label differs from that on the left [4H, 4W-1] and from that above [4H-1, 4W]."""
        return self.labels[:, 1:] != self.labels[:, :-1], self.labels[1:] != self.labels[:-1]

    def edges(self, width: float, *, skip_ink: bool = False) -> Floats:
        """Contours [H, W] about `width` pixels (of a 128 px picture) wide.

        With skip_ink the contours of ink-coloured layers are left out: in a style that draws them in ink, they would
        only make those layers grow over small bright neighbours, such as the white of an eye.
        """
        across, down = self._changes
        if skip_ink:
            ink = np.append(self.colours.max(1) < 0.25, np.zeros(256 - len(self.colours), bool))[self.labels]
            across, down = across & ~(ink[:, 1:] | ink[:, :-1]), down & ~(ink[1:] | ink[:-1])
        change = np.zeros_like(self.labels)
        change[:, 1:] = across
        change[1:] |= down
        wide = 2 * width * self.unit
        fine = Image.fromarray(change * 255).reduce(2).filter(ImageFilter.BoxBlur(max(wide - 1, 0) / 2))
        return np.asarray(fine.point(lambda v: v * wide * 2.4).reduce(2), np.float32) / 255


def _transform(points: NDArray[np.float64], rng_values: NDArray[np.float64], mirror: float) -> NDArray[np.float64]:
    """Place an object's points: bend, stretch, tilt, mirror, scale, shift; the result is in 0..1 picture units."""
    phase_x, phase_y, stretch, tilt, scale, shift_x, shift_y = rng_values
    x, y = points.T
    x = x + 0.04 * np.sin(2.1 * y + np.pi * phase_x)
    y = y + 0.04 * np.sin(2.1 * x + np.pi * phase_y)
    x, y = x * (1 + 0.06 * stretch) * mirror, y * (1 - 0.06 * stretch)
    c, s = np.cos(0.09 * tilt), np.sin(0.09 * tilt)
    size = 0.33 * (1 + 0.12 * scale)
    return np.stack([0.5 + 0.08 * shift_x + size * (c * x - s * y), 0.52 + 0.08 * shift_y + size * (s * x + c * y)], 1)


def _role_colours(colour: str) -> dict[str, Floats]:
    main = np.array(MAIN_COLOURS[colour], np.float32) / 255
    fixed = {role: np.array(rgb, np.float32) / 255 for role, rgb in FIXED_ROLES.items()}
    return fixed | {"main": main, "dark": main * 0.7, "light": main * 0.6 + 0.4}


def _hex(colour: str) -> Floats:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def _view(scene: Scene, size: int) -> View:
    rng = np.random.default_rng([scene.seed, 0])
    pose, mirror = rng.uniform(-1, 1, 7), rng.choice([-1.0, 1.0])
    drift, flip = rng.uniform(-0.08, 0.08, 2), rng.choice([-1.0, 1.0])
    back, front = _layers(scene.background, rng), _object_layers(scene.object)
    scale = size * SUPERSAMPLING
    image = Image.new("L", (scale, scale))
    draw = ImageDraw.Draw(image)
    for label, layer in enumerate(back):
        for polygon in layer.polygons:
            draw.polygon(((polygon * [flip, 1] + drift + 1) * scale / 2).ravel().tolist(), fill=label)
    for label, layer in enumerate(front, len(back)):
        for polygon in layer.polygons:
            draw.polygon((_transform(polygon, pose, mirror) * scale).ravel().tolist(), fill=label)
    roles = _role_colours(scene.colour)
    colours = np.stack([_hex(layer.role) for layer in back] + [roles[layer.role] for layer in front])
    depths = [min(i, OBJECT_DEPTH - 1) for i in range(len(back))]
    depths += [OBJECT_DEPTH + round(3 * i / max(len(front) - 1, 1)) for i in range(len(front))]
    return View(np.asarray(image), colours, np.array(depths, np.uint8), roles["main"])


# ---------------------------------------------------------------- brushes shared by styles


def _blur(plane: Floats, radius: float) -> Floats:
    """Box blur of [H, W] in 0..1; the radius may be a fraction."""
    image = Image.fromarray((np.clip(plane, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.BoxBlur(max(radius, 0))), np.float32) / 255


def _soften(picture: Floats, radius: float) -> Floats:
    """Gaussian blur of [H, W, 3]."""
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _noise(rng: np.random.Generator, cells: int, size: int) -> Floats:
    """Smooth noise [size, size] in about -1..1 with `cells` bumps a side."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), np.float32)


def _mix(below: Floats, above: Floats, alpha: Floats | float) -> Floats:
    """`above` over `below`; alpha is [H, W] or a number."""
    alpha = alpha if isinstance(alpha, float) else alpha[..., None]
    return below + (above - below) * alpha


def _vivid(colours: Floats, saturation: float, gain: float = 1.0) -> Floats:
    grey = (colours @ LUMA)[..., None]
    return np.clip((grey + (colours - grey) * saturation) * gain, 0, 1)


def _wobbled(view: View, rng: np.random.Generator, pixels: float, cells: int) -> View:
    """The view with its contours shaken by smooth noise, as by a hand."""
    amount, side = pixels * view.unit * SUPERSAMPLING, view.size * SUPERSAMPLING
    row, column = np.indices((view.size, view.size), np.int32) * SUPERSAMPLING
    dx, dy = (np.round(amount * _noise(rng, cells, view.size)).astype(np.int32) for _ in range(2))
    dx = np.clip(dx, -column, side - SUPERSAMPLING - column)
    dy = np.clip(dy, -row, side - SUPERSAMPLING - row)
    step = (dy * side + dx).repeat(SUPERSAMPLING, 0).repeat(SUPERSAMPLING, 1)
    return replace(view, labels=view.labels.ravel()[np.arange(side * side, dtype=np.int32).reshape(side, side) + step])


def _grid(view: View) -> tuple[Floats, Floats]:
    """Pixel centres (x, y), each [H, W], in units of a 128 px picture."""
    y, x = ((np.indices((view.size, view.size)) + 0.5) / view.unit).astype(np.float32)
    return x, y


def _cell_map(view: View, rng: np.random.Generator, pitch: float, jitter: float) -> tuple[Floats, Floats, Floats]:
    """Distances to the nearest and second nearest of jittered grid points, and a number in -1..1 of the nearest.

    All are [H, W]; pitch and jitter are in 128 px units, and jitter stays below half a pitch.
    """
    x, y = _grid(view)
    column, row = (x // pitch).astype(int) + 1, (y // pitch).astype(int) + 1
    count = int(128 / pitch) + 4
    dx, dy = rng.uniform(-jitter, jitter, (2, count, count)).astype(np.float32)
    numbers = rng.uniform(-1, 1, (count, count)).astype(np.float32)
    nearest, second, number = np.full_like(x, 1e6), np.full_like(x, 1e6), np.zeros_like(x)
    for i, j in product((-1, 0, 1), repeat=2):
        r, c = row + i, column + j
        away = np.hypot(x - (c - 0.5) * pitch - dx[r, c], y - (r - 0.5) * pitch - dy[r, c])
        closer = away < nearest
        second = np.where(closer, nearest, np.minimum(second, away))
        number = np.where(closer, numbers[r, c], number)
        nearest = np.where(closer, away, nearest)
    return nearest, second, number


# ---------------------------------------------------------------- base styles


def _flat(view: View, rng: np.random.Generator) -> Floats:
    return view.flat


def _outline(view: View, rng: np.random.Generator) -> Floats:
    """Ink lines on paper, the object washed in its colour, the background barely."""
    strength = np.where(view.of_object, 0.75, 0.22)[:, None].astype(np.float32)
    wash = view.filled(PAPER + (view.colours - PAPER) * strength)
    return _mix(wash, INK, view.edges(2, skip_ink=True))


def _watercolour(view: View, rng: np.random.Generator) -> Floats:
    """Bleeding edges, pigment gathered at the rims, slow variation in its density."""
    shaken = _wobbled(view, rng, 1.6, 14)
    pigment = 1 - _vivid(shaken.colours, 1.1)
    wet = 1 - _soften(shaken.filled(1 - pigment), 0.7 * view.unit)
    density = 0.78 + 0.24 * _noise(rng, 5, view.size) + 0.1 * _noise(rng, 12, view.size)
    rim = _blur(shaken.edges(1.2), 1.2 * view.unit) * 0.5
    washed: Floats = PAPER * (1 - wet * np.clip(density + rim, 0.3, 1.15)[..., None])
    return washed


def _pixel(view: View, rng: np.random.Generator) -> Floats:
    """Blocks of 4 px, hard steps, a dark contour around the object."""
    step = round(4 * view.unit) * SUPERSAMPLING
    labels = view.labels[step // 2 :: step, step // 2 :: step]
    inside = view.of_object[labels]
    padded = np.pad(inside, 1)
    near = padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    picture: Floats = _vivid(view.colours, 1.15)[labels]
    picture[near & ~inside] = INK
    return picture.repeat(step // SUPERSAMPLING, 0).repeat(step // SUPERSAMPLING, 1)[: view.size, : view.size]


def _clay(view: View, rng: np.random.Generator) -> Floats:
    """Plump shapes: the blurred depth order is a relief, lit from the upper left."""
    depth = view.lookup(view.depths.astype(np.float32) * 20 + view.of_object * 90)
    relief = _blur(_blur(depth, 3 * view.unit), 3 * view.unit) + 0.35 * _blur(depth, 1.5 * view.unit)
    light: Floats = np.add(*np.gradient(relief * view.unit)) * 9
    shade = np.clip(1 + light, 0.55, 1.03 + 0.27 * view.mask)
    glow = np.clip(light - 0.25, 0, 0.4) * view.mask
    lit: Floats = _soften(view.flat, 0.8 * view.unit) * shade[..., None] + glow[..., None]
    return np.clip(lit, 0, 1)


def _cutout(view: View, rng: np.random.Generator) -> Floats:
    """Sheets of paper, each casting a shadow on those below."""
    picture = view.flat * 0.95 + 0.04
    offset = round(3 * view.unit)
    shadow = np.zeros((view.size, view.size), np.float32)
    for level in range(1, 8):
        if not (view.depths == level).any():
            continue
        sheet = view.lookup((view.depths >= level) * 255)
        cast = _blur(np.pad(sheet, ((offset, 0), (offset, 0)), "edge")[:-offset, :-offset], 1.6 * view.unit)
        shadow = np.maximum(shadow, cast * (1 - sheet))
    return picture * (1 - 0.58 * shadow)[..., None]


def _crayon(view: View, rng: np.random.Generator) -> Floats:
    """Broad diagonal strokes of wax with paper showing between them, one way in the object, the other behind it."""
    shaken = _wobbled(view, rng, 1.3, 20)
    x, y = _grid(view)
    bend = 2.2 * _noise(rng, 6, view.size)
    there = 0.5 + 0.5 * np.sin((x + y) * np.pi / 4.2 + bend)
    back = 0.5 + 0.5 * np.sin((x - y) * np.pi / 4.2 + bend)
    wax = 0.55 + 0.45 * np.where(shaken.mask > 0.5, there, back)
    return _mix(np.broadcast_to(PAPER, view.flat.shape), _vivid(shaken.flat, 1.2, 0.97), wax)


def _poster(view: View, rng: np.random.Generator) -> Floats:
    """Two tones and a thick dark contour, before a burst of rays."""
    picture = _vivid(view.colours, 1.35)
    picture = view.filled(picture)
    x, y = _grid(view)
    rays = np.clip(np.sin(np.arctan2(y - 70, x - 64) * 9 + rng.uniform(0, 6)) * 6, -1, 1)
    shift = round(9 * view.unit)
    shadow = view.mask * (1 - np.roll(view.mask, (-shift, -shift), (0, 1)))
    tone = 1 - 0.13 * (rays + 1) * (1 - view.mask) - 0.32 * shadow
    return _mix(picture * tone[..., None], INK * 0.6, view.edges(3.4, skip_ink=True))


# ---------------------------------------------------------------- held-out styles


def _glass(view: View, rng: np.random.Generator) -> Floats:
    """Panes of glowing colour, cut along the contours and into cells, joined by black lead."""
    nearest, second, number = _cell_map(view, rng, pitch=23, jitter=8)
    glow = 1.12 + 0.16 * number - 0.012 * nearest
    panes = np.clip(view.filled(_vivid(view.colours, 1.45)) * glow[..., None], 0, 1)
    lead = np.maximum(np.clip(2.4 - (second - nearest), 0, 1), view.edges(3, skip_ink=True))
    return _mix(panes, INK * 0.25, lead)


def _stipple(view: View, rng: np.random.Generator) -> Floats:
    """Dots on cream, larger where it is darker: of ink around the object, of its colour inside."""
    nearest, _, _ = _cell_map(view, rng, pitch=5.4, jitter=1.1)
    tone = _blur(1 - view.flat @ LUMA, 1.5 * view.unit)
    radius = 0.9 + 1.6 * tone + (1.5 - 1.1 * tone) * view.mask
    dots = np.clip((radius - nearest) * view.unit + 0.5, 0, 1)
    ink = _mix(np.broadcast_to(INK, view.flat.shape), _vivid(view.flat, 1.3, 0.9), view.mask)
    return _mix(np.broadcast_to(PAPER, view.flat.shape), ink, dots)


def _crosshatch(view: View, rng: np.random.Generator) -> Floats:
    """Pen lines both ways, more of them where it is darker, in the object's ink."""
    x, y = _grid(view)
    dark = 1 - view.flat @ LUMA
    bend = 0.5 * _noise(rng, 6, view.size)
    one, two = (np.abs(((x + sign * y) / 1.414 / 6.5 + bend) % 1 - 0.5) * 6.5 for sign in (1, -1))
    width = 0.5 + 2.3 * dark + 0.9 * view.mask
    first = np.clip(width / 2 + 0.6 - one, 0, 1)
    other = np.clip(width / 2 + 0.6 - two, 0, 1) * np.clip(view.mask + 4 * dark - 1.4, 0, 1)
    ink = _mix(np.broadcast_to(INK + 0.1, view.flat.shape), _vivid(view.flat, 1.4, 0.9), view.mask)
    page = _mix(np.broadcast_to(PAPER, view.flat.shape), ink, np.maximum(first, other))
    return _mix(page, INK, view.edges(1.8))


def _neon(view: View, rng: np.random.Generator) -> Floats:
    """Glowing tubes on near-black; the object's tubes in its colour, the others dim teal."""
    tube = view.main / max(view.main.max(), 0.72)
    lines = view.edges(2.4)
    near = np.clip(_blur(view.mask, 2 * view.unit) * 3, 0, 1)
    colour = _mix(np.broadcast_to(np.array([0.1, 0.42, 0.45], np.float32), view.flat.shape), tube, near)
    halo = _blur(_blur(lines, 3 * view.unit), 4 * view.unit)
    base = np.array([0.035, 0.03, 0.07], np.float32) + view.mask[..., None] * tube * 0.25
    core = _mix(colour, np.ones(3, np.float32), 0.14)
    return np.clip(_mix(base + colour * halo[..., None] * 0.9, core, lines), 0, 1)


def _mosaic(view: View, rng: np.random.Generator) -> Floats:
    """Tesserae of about 8 px in dark grout, each with a shade of its own, cut along the contours."""
    x, y = _grid(view)
    pitch = 8.0
    x, y = (a + 0.9 * _noise(rng, 8, view.size) + np.float32(4) for a in (x, y))
    row = (y // pitch).astype(int)
    x = np.where(row % 2, x + pitch / 2, x)
    shade = rng.uniform(0.8, 1.14, (20, 20)).astype(np.float32)[row, (x // pitch).astype(int)]
    to_joint = np.minimum(*(pitch / 2 - np.abs(a % pitch - pitch / 2) for a in (x, y)))
    grout = np.maximum(np.clip((0.7 - to_joint) * view.unit + 0.5, 0, 1), view.edges(1.5))
    tiles = np.clip(view.filled(_vivid(view.colours, 1.2)) * shade[..., None], 0, 1)
    return _mix(tiles, np.array([0.3, 0.28, 0.29], np.float32), grout)


def _halftone(view: View, rng: np.random.Generator) -> Floats:
    """Round dots of colour on white, on a grid turned by 45 degrees; larger dots in the object and the dark."""
    x, y = _grid(view)
    pitch = 7.6
    u, v = (((x + sign * y) / 1.414 + pitch * rng.uniform()) % pitch - pitch / 2 for sign in (1, -1))
    cover = np.clip(0.16 + 0.6 * (1 - view.flat @ LUMA), 0, 1) * (1 - view.mask) + 0.78 * view.mask
    dots = np.clip(pitch * np.sqrt(cover / np.pi) - np.hypot(u, v) + 0.5, 0, 1)
    return _mix(np.ones_like(view.flat), _vivid(view.flat, 1.5, 0.92), dots)


_PAINTERS: dict[str, Style] = {
    "flat": _flat,
    "outline": _outline,
    "watercolour": _watercolour,
    "pixel": _pixel,
    "clay": _clay,
    "cutout": _cutout,
    "crayon": _crayon,
    "poster": _poster,
    "glass": _glass,
    "stipple": _stipple,
    "crosshatch": _crosshatch,
    "neon": _neon,
    "mosaic": _mosaic,
    "halftone": _halftone,
}


def paint(scene: Scene, size: int = 128) -> Painting:
    """Paint one scene at size x size; the same scene gives the same bytes."""
    view = _view(scene, size)
    picture = _PAINTERS[scene.style](view, np.random.default_rng([scene.seed, 1]))
    depth = view.lookup(view.depths * DEPTH_STEP)
    return Painting(*(np.round(np.clip(a, 0, 1) * 255).astype(np.uint8) for a in (picture, view.edges(1.5), depth)))


# ---------------------------------------------------------------- captions and splits


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(scene: Scene) -> str:
    """The canonical caption: "a red boat at night in watercolour style"."""
    return f"{_subject(scene)} {BACKGROUNDS[scene.background]} in {STYLE_DESCRIPTORS[scene.style]} style"


def _subject(scene: Scene) -> str:
    return _with_article(f"{scene.colour} {scene.object}")


def caption_variant(scene: Scene, rng: np.random.Generator) -> str:
    """A caption for training: half canonical, else with a part dropped or the style said first."""
    subject, place, style = _subject(scene), BACKGROUNDS[scene.background], STYLE_DESCRIPTORS[scene.style]
    variants = (
        f"{subject} {place}",
        f"{subject} in {style} style",
        f"{_with_article(style)} picture of {subject} {place}",
        f"{_with_article(style)} picture of {subject}",
    )
    return caption(scene) if rng.random() < 0.5 else variants[rng.integers(len(variants))]


def is_unseen(object: str, colour: str, background: str, style: str) -> bool:
    """Whether this combination is kept out of training, about one in 25; a property of the words alone."""
    digest = hashlib.sha256(f"{object}|{colour}|{background}|{style}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % UNSEEN_ONE_IN == 0


def training_scenes(n: int, seed: int) -> list[Scene]:
    """n scenes of base objects and styles, uniform over every attribute, none of them unseen."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < n:
        words = (_pick(rng, OBJECTS), _pick(rng, COLOURS), _pick(rng, tuple(BACKGROUNDS)), _pick(rng, STYLES))
        if not is_unseen(*words):
            scenes.append(Scene(*words, int(rng.integers(2**31))))
    return scenes


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def unseen_scenes(n: int, seed: int) -> list[Scene]:
    """n scenes of unseen base combinations only, each combination once before any comes twice."""
    rng = np.random.default_rng(seed)
    unseen = [words for words in product(OBJECTS, COLOURS, BACKGROUNDS, STYLES) if is_unseen(*words)]
    order = [int(i) for i in rng.permutation(len(unseen))]
    return [Scene(*unseen[order[i % len(order)]], int(rng.integers(2**31))) for i in range(n)]


# ---------------------------------------------------------------- confetti for the VAE


def _confetti(rng: np.random.Generator, side: int) -> Image.Image:
    """One picture [side, side]: a ground texture under random shapes."""
    image = Image.new("RGB", (side, side), _any_colour(rng))
    draw = ImageDraw.Draw(image)
    (_stripes, _dots, _cells)[rng.integers(3)](draw, rng, side)
    for _ in range(rng.integers(0, 10)):
        _shape(draw, rng, side)
    return image


def _any_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return r, g, b


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


def textures(n: int, seed: int) -> Bytes:
    """n pictures uint8 [n, 128, 128, 3] of shapes and patterns in random colours."""
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(_confetti(rng, 384).reduce(3)) for _ in range(n)])


# ---------------------------------------------------------------- contact sheet


def contact_sheet(
    pictures: Sequence[Painting | Bytes], columns: int, labels: Sequence[str] | None = None
) -> Image.Image:
    """A grid of paintings or uint8 [H, W, 3] arrays, row by row, with small labels below."""
    images = [p.image if isinstance(p, Painting) else p for p in pictures]
    size, text = len(images[0]), 14 if labels else 0
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (size + 4), rows * (size + 4 + text)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = i % columns * (size + 4) + 2, i // columns * (size + 4 + text) + 2
        sheet.paste(Image.fromarray(image), (x, y))
        if labels:
            draw.text((x + 2, y + size), labels[i], fill="black")
    return sheet


def main() -> None:
    """Write a contact sheet of every object in every style."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    places = tuple(BACKGROUNDS)
    scenes = [
        Scene(thing, COLOURS[(i + j) % 8], places[(i + 2 * j + j // 3) % 6], style, options.seed + 31 * i + j)
        for i, thing in enumerate(OBJECTS + HELD_OUT_OBJECTS)
        for j, style in enumerate(STYLE_DESCRIPTORS)
    ]
    labels = [f"{s.object}, {STYLE_DESCRIPTORS[s.style]}" for s in scenes]
    contact_sheet([paint(s) for s in scenes], len(STYLE_DESCRIPTORS), labels).save(options.out)


if __name__ == "__main__":
    main()
