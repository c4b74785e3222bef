"""Generated pictures that were labelled by eye, and how the judge agrees with the labels.

python -m studio.reading.labelled

`studio/judge/labelled` holds sheets of pictures, each with a file that says of every picture where it is from, what was
asked for, what was seen before that was known, and what the judge before this one read. What was seen is a name,
`unclear` (nothing that could be named, no style's marks), or `?`: it couldn't be said, and isn't counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from studio.painter import ALL_STYLES, Bytes
from studio.places import DOCS
from studio.reading.judge import JUDGE, UNCLEAR, Judge, Reading

LABELLED = JUDGE / "labelled"
LEARNT = JUDGE / "learnt" / "sheets.json"  # others, that it has learnt from
UNSAID = "?"
HEADS = ("object", "colour", "style")


@dataclass(frozen=True)
class Labelled:
    """One picture's source, and three readings of it: what was asked for, what was seen, the former judge's."""

    source: str
    asked: Reading
    seen: Reading
    before: Reading


@dataclass(frozen=True)
class Agreement:
    """Shares of a head: right of all; taken for what was asked, of those that aren't; refused, of those that are."""

    right: float
    falsely_accepted: float
    falsely_refused: float
    count: int
    good: int

    def __str__(self) -> str:
        shares = (f"{share:6.1%}" for share in (self.right, self.falsely_accepted, self.falsely_refused))
        return " | ".join(shares) + f" | {self.count}, {self.good} as asked"


def load(path: Path) -> tuple[Bytes, list[Labelled]]:
    """Pictures uint8 [N, side, side, 3] of the sheet beside this .json file."""
    facts = json.loads(path.read_text())
    side, columns, rows = facts["side"], facts["columns"], facts["pictures"]
    sheet = np.asarray(Image.open(path.with_suffix(".jpg")).convert("RGB"))
    corners = [(i // columns * side, i % columns * side) for i in range(len(rows))]
    unsaid = [UNSAID] * len(HEADS)
    readings = [[Reading(*row.get(key, unsaid)) for key in ("asked", "seen", "before")] for row in rows]
    labels = [Labelled(row["source"], *three) for row, three in zip(rows, readings, strict=True)]
    return np.stack([sheet[y : y + side, x : x + side] for y, x in corners]), labels


def agreement(labels: Sequence[Labelled], readings: Sequence[Reading], head: str) -> Agreement:
    told = [
        (getattr(label.asked, head), getattr(label.seen, head), getattr(reading, head))
        for label, reading in zip(labels, readings, strict=True)
        if getattr(label.seen, head) != UNSAID and (head != "colour" or label.seen.colour != UNCLEAR)
    ]
    good = [(asked, read) for asked, seen, read in told if seen == asked]
    bad = [(asked, read) for asked, seen, read in told if seen != asked]
    return Agreement(
        share([seen == read for _, seen, read in told]),
        share([asked == read for asked, read in bad]),
        share([asked != read for asked, read in good]),
        len(told),
        len(good),
    )


def as_asked(labels: Sequence[Labelled], readings: Sequence[Reading], head: str) -> str:
    """How many of a source's pictures show what was asked for: by eye, by the judge, by the one before it."""
    triples = [
        (getattr(label.asked, head), *(getattr(one, head) for one in (label.seen, reading, label.before)))
        for label, reading in zip(labels, readings, strict=True)
        if getattr(label.seen, head) != UNSAID
    ]
    counts = [sum(row[0] == row[place] for row in triples) for place in (1, 2, 3)]
    return " / ".join(map(str, counts)) + f" of {len(triples)}"


def share(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if hits else 0.0


def confusion(labels: Sequence[Labelled], readings: Sequence[Reading]) -> NDArray[np.int64]:
    """How often each style that was seen (row) was read as each (column); `unclear` is the last of both."""
    names = (*ALL_STYLES, UNCLEAR)
    counts = np.zeros((len(names), len(names)), np.int64)
    for label, reading in zip(labels, readings, strict=True):
        if label.seen.style != UNSAID:
            counts[names.index(label.seen.style), names.index(reading.style)] += 1
    return counts


def draw(tables: Sequence[tuple[str, NDArray[np.int64]]], path: Path, cell: int = 26, margin: int = 76) -> None:
    """Tables of counts side by side, the darker the larger a share of its row; right readings lie on the diagonal."""
    names = (*ALL_STYLES, UNCLEAR)
    side = margin + cell * len(names) + 12
    image = Image.new("RGB", (side * len(tables), side + 20), "white")
    pen = ImageDraw.Draw(image)
    for left, (title, counts) in zip(range(0, image.width, side), tables, strict=True):
        pen.text((left + margin, 4), title, fill="black")
        for i, name in enumerate(names):
            pen.text((left + 4, 20 + margin + cell * i + 7), name, fill="black")
            pen.text((left + margin + cell * i + 2, 20 + (margin - 30) + 14 * (i % 2)), name[:8], fill="black")
            for j, count in enumerate(counts[i]):
                weight = count / max(1, counts[i].sum())
                colour = (52, 150, 66) if i == j else (214, 40, 40)
                x, y = left + margin + cell * j, 20 + margin + cell * i
                shade = tuple(round(255 + (part - 255) * weight) for part in colour)
                pen.rectangle((x, y, x + cell, y + cell), fill=shade, outline="lightgrey")
                if count:
                    pen.text((x + 6, y + 7), str(count), fill="black")
    image.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="How the judge agrees with labels given by eye.")
    parser.add_argument("--draw", type=Path, nargs="?", const=DOCS / "judge-confusion.png", help="styles, as a picture")
    options = parser.parse_args()
    judge = Judge.load()
    labels: list[Labelled] = []
    now: list[Reading] = []
    for path in sorted(LABELLED.glob("*.json")):
        pictures, of_sheet = load(path)
        labels += of_sheet
        now += judge.read(pictures)
    before = [label.before for label in labels]
    print("| head, judge | right | falsely accepted | falsely refused | pictures |\n|---|---|---|---|---|")
    for head in HEADS:
        for title, readings in (("before", before), ("now", now)):
            print(f"| {head}, {title} | {agreement(labels, readings, head)} |")
    print("\n| source | object: seen / now / before | style: seen / now / before |\n|---|---|---|")
    for source in sorted({label.source for label in labels}):
        rows = [i for i, label in enumerate(labels) if label.source == source]
        those, read = [labels[i] for i in rows], [now[i] for i in rows]
        print(f"| {source} | " + " | ".join(as_asked(those, read, head) for head in ("object", "style")) + " |")
    if options.draw:
        draw([(title, confusion(labels, read)) for title, read in (("before", before), ("now", now))], options.draw)


if __name__ == "__main__":
    main()
