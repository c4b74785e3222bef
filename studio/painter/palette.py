"""Colours: those with names, the roles of a drawing's parts, ink and paper."""

import numpy as np

from studio.painter.arrays import Floats

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
FIXED_ROLES = {
    "accent": (250, 243, 226),
    "ink": (44, 40, 52),
    "wood": (122, 98, 86),
    "leaf": (104, 140, 92),
    "gold": (240, 186, 88),
}
INK = np.array([0.15, 0.13, 0.18], np.float32)
PAPER = np.array([0.965, 0.945, 0.895], np.float32)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def role_colours(colour: str) -> dict[str, Floats]:
    main = np.array(MAIN_COLOURS[colour], np.float32) / 255
    fixed = {role: np.array(rgb, np.float32) / 255 for role, rgb in FIXED_ROLES.items()}
    return fixed | {"main": main, "dark": main * 0.7, "light": main * 0.6 + 0.4}


def from_hex(colour: str) -> Floats:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def vivid(colours: Floats, saturation: float, gain: float = 1.0) -> Floats:
    grey = (colours @ LUMA)[..., None]
    return np.clip((grey + (colours - grey) * saturation) * gain, 0, 1)
