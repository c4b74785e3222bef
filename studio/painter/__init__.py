"""Seeded pictures with captions, contours and depth order: everything the small models are trained and judged on.

    scene ──► view ──► style ──► painting

scene     five words and a seed: what to paint
view      the drawings of shapes.txt as one label map, placed and bent by the seed
style     a pure function of that view and a generator
painting  picture, contours and depth, as bytes
"""

from studio.painter.arrays import Bytes
from studio.painter.captions import caption, caption_variant, context
from studio.painter.confetti import fine_textures, textures
from studio.painter.painting import paint
from studio.painter.scene import (
    ALL_OBJECTS,
    ALL_STYLES,
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_OBJECTS,
    HELD_OUT_STYLES,
    OBJECTS,
    STYLE_DESCRIPTORS,
    STYLES,
    Scene,
    any_scenes,
    training_scenes,
    unseen_scenes,
)
from studio.painter.sheet import contact_sheet

__all__ = [
    "ALL_OBJECTS",
    "ALL_STYLES",
    "BACKGROUNDS",
    "COLOURS",
    "HELD_OUT_OBJECTS",
    "HELD_OUT_STYLES",
    "OBJECTS",
    "STYLES",
    "STYLE_DESCRIPTORS",
    "Bytes",
    "Scene",
    "any_scenes",
    "caption",
    "caption_variant",
    "contact_sheet",
    "context",
    "fine_textures",
    "paint",
    "textures",
    "training_scenes",
    "unseen_scenes",
]
