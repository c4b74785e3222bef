"""`python -m studio.painter --out sheet.png`: everything the painter knows at a glance."""

import argparse
from pathlib import Path

from studio.painter.painting import paint
from studio.painter.scene import BACKGROUNDS, COLOURS, HELD_OUT_OBJECTS, OBJECTS, STYLE_DESCRIPTORS, Scene
from studio.painter.sheet import contact_sheet


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
