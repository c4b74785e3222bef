"""Seeded pictures with captions, contours and depth order: everything the small models are trained and judged on.

    scene ──► view ──► style ──► painting

scene     five words and a seed: what to paint
view      the drawings of shapes.txt as one label map, placed and bent by the seed
style     a pure function of that view and a generator
painting  picture, contours and depth, as bytes
"""

from painter.arrays import Bytes
from painter.captions import caption, caption_variant
from painter.confetti import textures
from painter.painting import paint
from painter.scene import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_OBJECTS,
    HELD_OUT_STYLES,
    OBJECTS,
    STYLE_DESCRIPTORS,
    STYLES,
    Scene,
    training_scenes,
    unseen_scenes,
)
from painter.sheet import contact_sheet

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "HELD_OUT_OBJECTS",
    "HELD_OUT_STYLES",
    "OBJECTS",
    "STYLES",
    "STYLE_DESCRIPTORS",
    "Bytes",
    "Scene",
    "caption",
    "caption_variant",
    "contact_sheet",
    "paint",
    "textures",
    "training_scenes",
    "unseen_scenes",
]
