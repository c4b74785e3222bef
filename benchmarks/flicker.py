"""How much do painted films flicker, with smoothing and without?

python benchmarks/flicker.py --json FILE [--net studio/mini-stylizer --styles studio/vectors] [--clip FILE ...]

Frames go through `Client.stylize_frames`, once as they are and once smoothed. A painting is held against the one
before, carried along the content's motion, where the content was in sight. Who says how it moved matters: the
smoother's own flow (DIS) flatters it, so another one (Farneback) is asked, too, and for clips that are made here the
truth is known. Beside it what a simple blend with the painting before does, as others have it: its price is ghosts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from impasto_client import Client

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common.bars import Bar, Report, held_against_bars, table
from benchmarks.common.bench import ROOT, machine, write
from benchmarks.parts.flicker.clips import Clip, Motion, Pixels
from benchmarks.parts.flicker.films import made, real
from benchmarks.parts.flicker.meter import flicker, ghosts, motions_of, sharpness

from impasto_export.adapters.importer import NOTHING, adapters
from impasto_export.adapters.registry import Registry
from impasto_export.feedforward.link import link
from impasto_server.ops.serve import serve
from impasto_server.settings import Settings

FRAMES, STYLES, SMOOTH = 24, 3, 0.8
PATIENCE_S = 600.0
NOTES = {
    "flicker": "mean |painting - painting before, carried along|, levels of 255, where the content was in sight.",
    "ratio": "smoothed ÷ plain, by who says how the content moved: dis (the smoother's own), farneback, truth. "
    "flicker_ratio is the worst of these, mean over styles.",
    "sharpness": "mean step between neighbouring pixels, smoothed ÷ plain: blurring lowers flicker, too, and some of "
    "what is lost is the flicker itself.",
    "ghosts": "mean levels by which smoothing changes what has come into sight, where nothing should be kept.",
    "blend": "the same of painting·(1 - smooth) + the one before·smooth at the same place.",
}


@dataclass(frozen=True)
class Watched:
    """A clip, and how its content moves by who says so."""

    clip: Clip
    motions: Mapping[str, Sequence[Motion]]

    @classmethod
    def of(cls, clip: Clip) -> Watched:
        return cls(clip, motions_of(clip))

    def figures(self, paintings: Sequence[Pixels], plain: Sequence[Pixels]) -> Report:
        """Of paintings beside those that nobody smoothed."""
        surest = [*self.motions.values()][-1]
        return {
            "ratio": {
                name: flicker(paintings, motions) / flicker(plain, motions) for name, motions in self.motions.items()
            },
            "sharpness": sharpness(paintings) / sharpness(plain),
            "ghosts": ghosts(paintings, plain, surest),
        }


def measured(client: Client, style: str, watched: Watched, smooth: float) -> Report:
    frames = watched.clip.frames
    plain = list(client.stylize_frames(frames, style, smooth=0))
    smoothed = list(client.stylize_frames(frames, style, smooth=smooth))
    return {
        "flicker_plain": {name: flicker(plain, motions) for name, motions in watched.motions.items()},
        "smoothed": watched.figures(smoothed, plain),
        "blend": watched.figures(blended(plain, smooth), plain),
    }


def blended(paintings: Sequence[Pixels], smooth: float) -> list[Pixels]:
    """Each with the one before, at the same place."""
    last = paintings[0].astype(np.float32)
    found = []
    for painting in paintings:
        last = painting + smooth * (last - painting)
        found.append(np.rint(last).astype(np.uint8))
    return found


def of_clip(by_style: Mapping[str, Report]) -> Report:
    """The worst flow's ratio, mean over styles."""
    ratios = [one["smoothed"]["ratio"] for one in by_style.values()]
    worst = max(mean(one[name] for one in ratios) for name in ratios[0])
    return {"flicker_ratio": worst, "styles": dict(by_style)}


@contextmanager
def serving(net: Path, styles: Path) -> Iterator[tuple[Client, list[str]]]:
    """A client of a new server with this net, and the names of its styles."""
    with TemporaryDirectory(prefix="impasto-bench-") as folder:
        bundle, registry = link(net, Path(folder) / "bundle").folder, Registry(Path(folder) / "registry")
        manifest = json.loads((bundle / "manifest.json").read_text())
        found = adapters(styles, "" if styles.is_dir() else "style", manifest, NOTHING, bundle)
        for name, adapter in found.items():
            registry.put(name, adapter.data)
        with serve(Settings(bundle, registry.folder)) as server, Client(server.grpc_url, timeout=PATIENCE_S) as client:
            yield client, sorted(found)


def chosen(names: Sequence[str], said: Sequence[str]) -> list[str]:
    """Those that are asked for, else some that lie far apart."""
    count = min(STYLES, len(names))
    return list(said) or [names[place * len(names) // count] for place in range(count)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--net", type=Path, default=ROOT / "studio/mini-stylizer", help="what `impasto link` takes")
    parser.add_argument("--styles", type=Path, default=ROOT / "studio/vectors", help="what `adapters import` takes")
    parser.add_argument("--style", action="append", default=[], help=f"only this one; default {STYLES} of them")
    parser.add_argument("--clip", type=Path, action="append", default=[], metavar="FILE", help="a real one, too")
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"of each clip; default {FRAMES}")
    parser.add_argument("--smooth", type=float, default=SMOOTH, help=f"0 to 1; default {SMOOTH}")
    return parser.parse_args()


def main() -> None:
    said, console, figures = arguments(), Console(stderr=True), dict[str, Report]()
    clips = [*made(said.frames), *(real(path, said.frames) for path in said.clip)]
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with serving(said.net, said.styles) as (client, names), Progress(*columns, console=console) as bar:
        styles = chosen(names, said.style)
        task = bar.add_task("films", total=len(clips) * len(styles))
        for clip in clips:
            watched, by_style = Watched.of(clip), {}
            for style in styles:
                by_style[style] = measured(client, style, watched, said.smooth)
                bar.advance(task)
            figures[clip.name] = of_clip(by_style)
    held = held_against_bars(figures, (Bar("flicker_ratio", tuple(figures), at_most=0.5),))
    settings = {"net": said.net.name, "frames": said.frames, "smooth": said.smooth}
    write({"bars": held, **settings, **figures, "notes": NOTES, "machine": machine()}, said.json)
    console.print(table(held))


if __name__ == "__main__":
    main()
