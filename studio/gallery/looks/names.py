"""The looks by name, with other words for each, and what may be said of them besides: a colour, a size, a light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from studio.gallery import textures
from studio.gallery.looks import built, drawn, natural
from studio.gallery.looks.tools import Colour, mixed, ramp
from studio.gallery.textures import Drawing, floats
from studio.painter.arrays import Floats


@dataclass(frozen=True)
class Look:
    """How it is drawn, and what people call it; the first word is its name in tables."""

    draw: Drawing
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.words[0]


LOOKS = (
    Look(drawn.pencil, ("pencil sketch", "a pencil drawing", "graphite on paper", "sketch with pencil")),
    Look(drawn.charcoal, ("charcoal", "a charcoal drawing", "smudged charcoal", "black charcoal")),
    Look(drawn.chalkboard, ("chalk on a blackboard", "chalkboard", "chalk lines", "white chalk")),
    Look(drawn.blueprint, ("blueprint", "a blueprint plan", "white lines on blue paper", "technical blueprint")),
    Look(drawn.oil, ("oil painting", "thick oil paint", "brush strokes of oil", "impasto")),
    Look(drawn.popart, ("pop art", "a silk screen print", "flat pop art colours", "screen print")),
    Look(drawn.engraving, ("engraving", "an engraved banknote", "banknote lines", "engraved lines")),
    Look(drawn.circles, ("concentric circles", "rings", "circles around a centre", "concentric rings")),
    Look(drawn.sepia, ("old photograph", "a faded sepia print", "sepia", "vintage sepia photograph")),
    Look(drawn.xray, ("x-ray", "an x-ray picture", "radiograph", "x-ray bones")),
    Look(drawn.heat, ("thermal camera", "heat map", "infrared heat", "thermal image")),
    Look(drawn.letters, ("green letters", "matrix code", "letters on a screen", "green computer text")),
    Look(drawn.glitch, ("glitch", "a glitch screen", "digital glitch", "broken video")),
    Look(drawn.watercolour, ("watercolour", "watercolor painting", "a wash of watercolour", "watercolour on paper")),
    Look(textures.woodcut, ("woodcut", "a woodcut print", "linocut", "woodblock print")),
    Look(textures.halftone, ("comic print", "halftone dots", "comic book", "printed comic")),
    Look(drawn.stained_glass, ("stained glass", "a stained glass window", "church window", "leaded glass")),
    Look(built.bricks, ("bricks", "a brick wall", "brick wall", "red bricks")),
    Look(built.honeycomb, ("honeycomb", "honey in a honeycomb", "hexagons of honey", "beehive")),
    Look(built.squares, ("mosaic", "a mosaic of stones", "mosaic tiles", "roman mosaic")),
    Look(built.pixels, ("pixel art", "big pixels", "eight bit game", "pixelated blocks")),
    Look(built.lowpoly, ("low poly", "flat triangles", "triangles", "polygons")),
    Look(built.crossstitch, ("cross stitch", "embroidery", "embroidered thread", "stitched embroidery")),
    Look(built.knitting, ("knitted wool", "knitting", "a wool sweater", "knit stitches")),
    Look(built.basket, ("woven basket", "basket weave", "woven straw", "wicker")),
    Look(built.stripes, ("stripes", "diagonal stripes", "striped", "slanted stripes")),
    Look(built.polka, ("polka dots", "white polka dots", "dotted fabric", "round dots")),
    Look(built.checker, ("chessboard", "a checkerboard", "checkered squares", "chess squares")),
    Look(built.cobbles, ("cobblestones", "a cobbled street", "round stones", "pebbles")),
    Look(built.scales, ("fish scales", "scales", "mermaid scales", "scaly fish")),
    Look(built.puzzle, ("jigsaw puzzle", "puzzle pieces", "a jigsaw", "puzzle")),
    Look(built.circuit, ("circuit board", "electronic circuit", "a green circuit", "copper traces")),
    Look(built.harlequin, ("harlequin", "diamonds", "harlequin diamonds", "argyle")),
    Look(built.paper, ("paper cut", "layers of cut paper", "papercut", "cut paper")),
    Look(natural.fire, ("fire", "flames", "burning fire", "a burning flame")),
    Look(natural.lava, ("lava", "glowing lava", "molten lava", "volcano")),
    Look(natural.waves, ("waves", "ocean waves", "sea waves", "rolling sea")),
    Look(natural.ice, ("ice", "cracked ice", "frozen ice", "frozen")),
    Look(natural.clouds, ("clouds", "white clouds", "cloudy sky", "puffy clouds")),
    Look(natural.neon, ("neon", "neon light", "glowing neon tubes", "neon sign")),
    Look(natural.gold, ("gold leaf", "golden foil", "shining gold", "gold")),
    Look(natural.chrome, ("chrome", "polished metal", "liquid metal", "shiny chrome")),
    Look(natural.wood, ("wood grain", "wooden boards", "wood", "carved wood")),
    Look(natural.marble, ("marble", "white marble", "veined marble", "marble stone")),
    Look(natural.sand, ("sand", "desert sand", "sand on a beach", "grains of sand")),
    Look(natural.grass, ("grass", "a meadow of grass", "blades of grass", "lawn")),
    Look(natural.drops, ("water drops", "rain on a window", "rain drops", "wet glass")),
    Look(natural.bubbles, ("soap bubbles", "bubbles", "foam bubbles", "floating bubbles")),
    Look(natural.snow, ("snow", "falling snow", "snowflakes", "a snowy winter")),
    Look(natural.galaxy, ("galaxy", "stars in space", "a nebula", "cosmic space")),
    Look(natural.rust, ("rust", "rusty iron", "rusted metal", "corroded iron")),
    Look(natural.camouflage, ("camouflage", "army camouflage", "camo", "military camouflage")),
    Look(natural.fur, ("fur", "soft fur", "animal hair", "furry")),
    Look(natural.leaves, ("autumn leaves", "fallen leaves", "leaves", "autumn foliage")),
    Look(natural.swirls, ("starry night", "swirls", "whirling strokes", "swirling night")),
)

COLOURS: Mapping[str, Colour] = {
    "red": (0.8, 0.12, 0.12),
    "orange": (0.9, 0.48, 0.08),
    "yellow": (0.9, 0.8, 0.12),
    "green": (0.15, 0.62, 0.2),
    "blue": (0.12, 0.3, 0.85),
    "purple": (0.5, 0.18, 0.72),
    "pink": (0.95, 0.45, 0.7),
    "grey": (0.5, 0.5, 0.5),
}


def tinted(picture: Floats, colour: Colour) -> Floats:
    """The picture in shades of one colour."""
    grey = picture @ np.array([0.3, 0.59, 0.11], np.float32)
    return mixed(picture, ramp(grey, (0.02, 0.02, 0.02), colour, (1.0, 1.0, 1.0)), np.full_like(grey, 0.92))


def darker(picture: Floats) -> Floats:
    return floats(picture**1.35 * 0.72)


def brighter(picture: Floats) -> Floats:
    return floats(0.22 + 0.78 * picture**0.85)


LIGHTS: Mapping[str, Callable[[Floats], Floats]] = {"dark": darker, "bright": brighter}
SIZES: Mapping[str, float] = {"large": 0.66, "small": 1.4}  # the photograph's size while the look is drawn


@dataclass(frozen=True)
class Wish:
    """A look, and what is said of it; empty words say nothing."""

    look: Look
    colour: str = ""
    light: str = ""
    size: str = ""

    def said(self, words: str) -> str:
        """In words, with one of the look's names: `large dark blue waves`."""
        return " ".join(part for part in (self.size, self.light, self.colour, words) if part)

    def plainer(self) -> Wish:
        return replace(self, light="", size="")

    def painted(self, photo: Floats, rng: np.random.Generator) -> Floats:
        """A photograph [H, W, 3] in this look, as large as it came, 0..1."""
        height, width = photo.shape[:2]
        scale = SIZES.get(self.size, 1.0)
        canvas = cv2.resize(photo, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        done = self.look.draw(floats(canvas), rng)
        if self.colour:
            done = tinted(done, COLOURS[self.colour])
        if self.light:
            done = LIGHTS[self.light](done)
        resized = cv2.resize(floats(np.clip(done, 0, 1)), (width, height), interpolation=cv2.INTER_AREA)
        return floats(np.clip(resized, 0, 1))


def named(name: str) -> Look:
    """
    Raises:
        KeyError: there is no look of this name; the message lists them.
    """
    for look in LOOKS:
        if name in look.words:
            return look
    raise KeyError(f"look: got {name!r}; there are {', '.join(look.name for look in LOOKS)}")


def held_out(look: Look, colour: str) -> bool:
    """Two of the eight colours of every look are never shown in training."""
    place = LOOKS.index(look)
    return list(COLOURS).index(colour) in (place % 8, (place * 3 + 2) % 8)
