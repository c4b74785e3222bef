"""A tour of guidance: one seed under growing strengths, on one labelled sheet.

impasto serve --quiet --port 0 --bundle .impasto/bundle -- \\
    python docs/examples/guidance.py dual --style stained-glass-ti
impasto serve --quiet --port 0 --bundle .impasto/muse -- \\
    python docs/examples/guidance.py compose --style glass-drop --content rocket-drop --prompt "a red rocket"

dual: how strongly the style counts (λs, a row each) by how strongly the content does (λc, a column each), by Eq. 11 of
DreamStyler. At 0 and 0 it is plain guidance by the whole prompt. compose: two adapters of StyleDrop's, from the style
alone (γ = 0) to the content alone (γ = 1).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from impasto_client import Client, Compose, Options, StyleContent

CELL, GAP, LABEL = 160, 12, 18  # pixels
STYLES, CONTENTS = (0.0, 0.5, 1.0, 2.0), (0.0, 1.0, 3.0, 6.0)  # λs, λc
GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Cell:
    """A place on the sheet: what stands above it, and what is asked for."""

    label: str
    options: Options


def dual(style: str) -> list[list[Cell]]:
    """A row for each λs, a column for each λc."""
    return [
        [
            Cell(f"style {s:g}, content {c:g}", {"style": style, "guidance": StyleContent(style=s, content=c)})
            for c in CONTENTS
        ]
        for s in STYLES
    ]


def compose(style: str, content: str) -> list[list[Cell]]:
    """One row."""
    return [[Cell(f"gamma {g:g}", {"style": style, "content": content, "guidance": Compose(gamma=g)}) for g in GAMMAS]]


def sheet(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Every picture, with its label above."""
    width, height = CELL + GAP, LABEL + CELL + GAP
    canvas = Image.new("RGB", (GAP + width * max(map(len, rows)), GAP + height * len(rows)), "white")
    pen = ImageDraw.Draw(canvas)
    for down, row in enumerate(rows):
        for along, (label, picture) in enumerate(row):
            x, y = GAP + along * width, GAP + down * height
            pen.text((x, y), label, "black")
            canvas.paste(picture.convert("RGB").resize((CELL, CELL)), (x, y + LABEL))
    return canvas


def main() -> None:
    """Ask for all pictures at once, and lay them out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tour", choices=["dual", "compose"])
    parser.add_argument("--style", required=True, help="dual: an embedding; compose: an adapter")
    parser.add_argument("--content", help="compose: the content's adapter")
    parser.add_argument("--prompt", default="a house")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=Path("guidance.png"))
    parser.add_argument("--url", default=os.environ.get("IMPASTO_URL", "localhost:8001"))
    said = parser.parse_args()
    if (said.tour == "compose") is (said.content is None):
        parser.error("--content: compose needs it, dual has none")
    rows = dual(said.style) if said.tour == "dual" else compose(said.style, said.content)
    with Client(said.url) as client, ThreadPoolExecutor(8) as pool:

        def painted(cell: Cell) -> tuple[str, Image.Image]:
            asked: Options = {**cell.options, "seed": said.seed, "steps": said.steps}
            return cell.label, client.generate(said.prompt, **asked).image

        futures = [[pool.submit(painted, cell) for cell in row] for row in rows]
        sheet([[future.result() for future in row] for row in futures]).save(said.out)
    print(said.out)


if __name__ == "__main__":
    main()
