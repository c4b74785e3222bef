"""What a style sees of a scene: one label map at 4x supersampling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from studio.painter.arrays import Bytes, Floats, Mask, Points
from studio.painter.palette import from_hex, role_colours
from studio.painter.scene import Scene
from studio.painter.shapes import Layer, layers, object_layers

SUPERSAMPLING = 4
OBJECT_DEPTH = 4  # background layers are 0..3, object layers 4..7


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
    def of_object(self) -> Mask:
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
    def _changes(self) -> tuple[Mask, Mask]:
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


Style = Callable[[View, np.random.Generator], Floats]


def look_at(scene: Scene, size: int) -> View:
    """Draw the scene's layers as labels, far to near; its seed poses the object and shifts the background."""
    return _drawn(scene, size, object_layers(scene.object))


def backdrop(scene: Scene, size: int) -> View:
    """The scene without its object; its labels are the lowest of the scene's."""
    return _drawn(scene, size, [])


def _drawn(scene: Scene, size: int, front: Sequence[Layer]) -> View:
    rng = np.random.default_rng([scene.seed, 0])
    pose, mirror = rng.uniform(-1, 1, 7), rng.choice([-1.0, 1.0])
    drift, flip = rng.uniform(-0.08, 0.08, 2), rng.choice([-1.0, 1.0])
    back = layers(scene.background, rng)
    scale = size * SUPERSAMPLING
    image = Image.new("L", (scale, scale))
    draw = ImageDraw.Draw(image)
    for label, layer in enumerate(back):
        for polygon in layer.polygons:
            draw.polygon(((polygon * [flip, 1] + drift + 1) * scale / 2).ravel().tolist(), fill=label)
    for label, layer in enumerate(front, len(back)):
        for polygon in layer.polygons:
            draw.polygon((_transform(polygon, pose, mirror) * scale).ravel().tolist(), fill=label)
    roles = role_colours(scene.colour)
    colours = np.stack([from_hex(layer.role) for layer in back] + [roles[layer.role] for layer in front])
    depths = [min(i, OBJECT_DEPTH - 1) for i in range(len(back))]
    depths += [OBJECT_DEPTH + round(3 * i / max(len(front) - 1, 1)) for i in range(len(front))]
    return View(np.asarray(image), colours, np.array(depths, np.uint8), roles["main"])


def _transform(points: Points, pose: NDArray[np.float64], mirror: float) -> Points:
    """Place an object's points: bend, stretch, tilt, mirror, scale, shift; the result is in 0..1 picture units."""
    phase_x, phase_y, stretch, tilt, scale, shift_x, shift_y = pose
    x, y = points.T
    x = x + 0.04 * np.sin(2.1 * y + np.pi * phase_x)
    y = y + 0.04 * np.sin(2.1 * x + np.pi * phase_y)
    x, y = x * (1 + 0.06 * stretch) * mirror, y * (1 - 0.06 * stretch)
    c, s = np.cos(0.09 * tilt), np.sin(0.09 * tilt)
    size = 0.33 * (1 + 0.12 * scale)
    return np.stack([0.5 + 0.08 * shift_x + size * (c * x - s * y), 0.52 + 0.08 * shift_y + size * (s * x + c * y)], 1)
