"""Export the skeletons that ship with impasto, from the configs kept here: `python export/shipped.py [NAME …]`.

A backbone's configs are in `architectures/NAME`, laid out as a checkpoint without weights. They are those that its
first checkpoint was published with, without the keys that no graph depends on. The studio's own models have their
configs beside their weights. mini-muse is an exception: it is served with and without its second stage, so `small/NAME`
has the configs of each. For a backbone that is also published as a single file, `original.json` describes that file's
layout; it is copied along.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from impasto_export.architecture import SHIPPED, Architecture
from impasto_export.tracing import clip_graphs, graphs

LAYOUT = "original.json"
HERE = Path(__file__).parent
PUBLIC, SMALL, STUDIO = HERE / "architectures", HERE / "small", HERE.parent / "studio"
NO_SKELETON = "mini-stylizer"  # a style net needs none: link makes its graphs from its file
OURS = [path for path in sorted(STUDIO.glob("mini-*")) if path.name != NO_SKELETON]
SOURCES = {path.name: path for path in (*sorted(PUBLIC.iterdir()), *OURS, *sorted(SMALL.iterdir()))}


def exporter(source: Path) -> Callable[..., Architecture]:
    if "controlnet" in source.name:
        return graphs.export_controlnet
    return clip_graphs.export if "clip" in source.name else graphs.export


def main(names: list[str]) -> None:
    for name in names or SOURCES:
        source, out = SOURCES[name], SHIPPED / name
        found = exporter(source)(source, out, name, print)
        if (source / LAYOUT).is_file():
            shutil.copyfile(source / LAYOUT, out / LAYOUT)
        print(f"{name}: {found.digest[:12]}")


if __name__ == "__main__":
    main(sys.argv[1:])
