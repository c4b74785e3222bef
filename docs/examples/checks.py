"""Two checks for a gateway: refuse pictures by the words that they were asked with, and draw a visible corner mark.

python docs/examples/checks.py boat.png --check corner --out boat-marked.png

tries one on a file. A gateway is started with `--check checks:corner`, where Python finds this file.

A list of words is easily walked around: it stops the careless, not the determined, and it refuses innocent requests.
A real check looks at the pixels, with a classifier of your choice. A corner mark is cut off as easily; it tells people,
and proves nothing. What proves something is a signature.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from impasto_gateway.checks import Check, Refused, checked
from impasto_gateway.errors import Refusal

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
    """Write AI into the lower right corner, black on white, a fourteenth of the picture's height."""
    scale = max(1, rgb.shape[0] // 100)
    letters = np.kron(np.pad(1 - LETTERS, 1, constant_values=1), np.ones((scale, scale), np.int64))
    height, width = letters.shape
    if height > rgb.shape[0] or width > rgb.shape[1]:
        return rgb  # too small for letters
    marked = rgb.copy()
    marked[-height:, -width:] = (255 * letters[..., None]).astype(np.uint8)
    return marked


CHECKS: dict[str, Check] = {"words": words, "corner": corner}


def main() -> None:
    """Try a check on a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--check", choices=CHECKS, default="corner")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--out", type=Path, default=Path("checked.png"))
    said = parser.parse_args()
    try:
        said.out.write_bytes(checked(said.picture.read_bytes(), said.prompt, CHECKS[said.check]).data)
    except Refusal as refusal:
        raise SystemExit(refusal.message) from None


if __name__ == "__main__":
    main()
