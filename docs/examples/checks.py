"""Two checks for a gateway: refuse pictures by the words that they were asked with, and draw a visible corner mark.

impasto gateway --check docs.examples.checks:corner     # or any MODULE:NAME that Python can import

A list of words is easily walked around: it stops the careless, not the determined, and it refuses innocent requests.
A real check looks at the pixels, with a classifier of your choice. A corner mark is cut off as easily; it tells
people, and proves nothing. What proves something is a signature (`impasto gateway --certificate`).
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from impasto_gateway.checks import Refused

Pixels = NDArray[np.uint8]

UNWANTED = ("gore", "nude")  # yours will be longer
# "AI", five pixels high.
LETTERS = np.array([[int(dot) for dot in row] for row in ("0100111", "1010010", "1110010", "1010010", "1010111")])


def words(rgb: Pixels, words: str) -> Pixels | Refused:
    """Refuse requests that have one of the words UNWANTED, whole and in any case."""
    found = {*re.findall(r"\w+", words.casefold())} & {*UNWANTED}
    if found:
        return Refused(f"{sorted(found)[0]!r} is not painted here; ask for something else")
    return rgb


def corner(rgb: Pixels, words: str) -> Pixels:
    """Write AI into the lower right corner, black on white, a twentieth of the picture's height."""
    scale = max(1, rgb.shape[0] // 100)
    letters = np.kron(np.pad(1 - LETTERS, 1, constant_values=1), np.ones((scale, scale), np.int64))
    height, width = letters.shape
    if height > rgb.shape[0] or width > rgb.shape[1]:
        return rgb  # too small for letters
    marked = rgb.copy()
    marked[-height:, -width:] = (255 * letters[..., None]).astype(np.uint8)
    return marked
