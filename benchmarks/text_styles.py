"""From a text to a style: is the asked look read in the pictures, does the content stay, how long does a fit take?

python benchmarks/text_styles.py --json FILE --sheet PNG [--vgg VGG19.pth] [--perceptual FILE]

Twelve texts, each the name of a look, on eight photographs that no reader has seen, by

clipstyler         a U-Net for each text and photograph
fast               a decoder for each text, over an encoder eight times narrower than the paper's, trained here first
styletransferclip  an embedding of mini-stylizer for each text
gatys              pixels, from a picture of the same look; with --vgg alone, whose weights can't be fetched here
procedural         the look itself, drawn: what both readers learnt from

Two readers name one of 55 looks in nine cuts of each picture: texture-clip, which the fits were led by, and a judge
that they never met. `edges` is F1 of Canny's edges of picture and photograph, within 2 px. Beside them, `photo` is what
is read in the photographs themselves: how often a look is seen where there is none.

A small run: --texts 2 --photos 2 --steps 4 --lessons 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common import sheets
from benchmarks.common.bench import machine, warning, write
from benchmarks.common.sheets import Axis
from benchmarks.parts.text_styles.methods import (
    FromPicture,
    Method,
    OneDecoder,
    OneEmbedding,
    OneNetEach,
    Painted,
    Procedural,
    autoencoder,
)
from benchmarks.parts.text_styles.readings import Readers, Reading
from studio.gallery.looks.examples import Sources
from studio.gallery.packages import fetch
from studio.gallery.paintings import paintings
from studio.nets import look_judge
from studio.places import LOOK_JUDGE, STYLIZER, TEXTURE_CLIP

from impasto_fit.pictures import Picture
from impasto_fit.text import content, texture
from impasto_fit.text.clipstyler import ClipStyler
from impasto_fit.text.content import Sense, Towers
from impasto_fit.text.fast import ClipStylerFast
from impasto_fit.text.ghiasi import Ghiasi
from impasto_fit.text.prior import Prior, embedded
from impasto_fit.text.styletransferclip import StyleTransferClip
from impasto_fit.views import squared

TEXTS = (
    "fire", "mosaic", "pencil sketch", "waves", "neon", "gold leaf", "stained glass", "woodcut", "ice", "blueprint",
    "starry night", "thermal camera",
)  # fmt: skip
SHOWN = 112  # px of a picture on the sheet
ASKED = 0.70

Rows = Mapping[str, Mapping[str, Sequence[Reading]]]


def methods(options: argparse.Namespace, clip: texture.TextureClip, lessons: Sequence[Picture]) -> dict[str, Method]:
    sense: Sense = content.opened(options.perceptual) if options.perceptual else Towers(clip)
    packages = fetch()
    net = Ghiasi.opened(STYLIZER)
    painted = [np.asarray(picture) for picture in paintings(packages / "gcompris-qt-data").values()]
    prior = Prior.of(embedded(net.predictor, painted))
    side, crop = options.side, min(options.side, 96)
    net_each = ClipStyler(clip, sense, side=side, crop=crop, crops=options.crops, content=options.content)
    decoding = autoencoder(lessons, crop, 10 * options.steps)
    fast = ClipStylerFast(decoding, clip, sense, side=crop, batch=2, perspectives=4, rate=1e-3)
    found: dict[str, Method] = {
        "clipstyler": OneNetEach(net_each, options.steps),
        "fast": OneDecoder(fast, lessons, options.steps),
        "styletransferclip": OneEmbedding(StyleTransferClip(net, clip, prior, side=crop), lessons, options.steps),
    }
    if options.vgg:
        found["gatys"] = FromPicture(options.vgg, lessons[0], options.steps)
    return found | {"procedural": Procedural()}


def figures(rows: Rows, seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Means over texts and photographs."""
    found = {}
    for name, texts in rows.items():
        readings = [reading for row in texts.values() for reading in row]
        found[name] = {
            "texture_clip": mean(reading.clip for reading in readings),
            "judge": mean(reading.judge for reading in readings),
            "edges_f1": round(mean(reading.edges for reading in readings), 3),
            "seconds_a_fit": round(mean(seconds[name]), 2) if seconds.get(name) else 0.0,
        }
    return found


def page(
    photographs: Sequence[Picture], done: Mapping[str, Mapping[str, Painted]], texts: Sequence[str]
) -> Image.Image:
    rows = [("photograph", photographs)]
    rows += [(f"{text}, {name}", done[name][text].pictures) for text in texts for name in done]
    pictures = [np.asarray(Image.fromarray(one).resize((SHOWN, SHOWN))) for _, row in rows for one in row]
    across = Axis("photograph", [str(i + 1) for i in range(len(photographs))])
    return sheets.grid(pictures, Axis("text, method", [label for label, _ in rows]), across)


def shown(found: Mapping[str, Mapping[str, float]]) -> Table:
    made = Table("method", *next(iter(found.values())))
    for name, row in found.items():
        made.add_row(name, *(f"{value:.3g}" for value in row.values()))
    return made


def main() -> None:
    options = arguments().parse_args()
    console, facts = Console(), machine()
    console.print(warning(facts))
    torch.manual_seed(0)
    sources = Sources.of(fetch())
    lessons = [squared(photo, options.side) for photo in sources.learnt[:: max(1, 100 // options.lessons)]]
    photographs = [squared(photo, options.side) for photo in sources.unseen[: options.photos]]
    clip = texture.load(TEXTURE_CLIP)
    readers, texts = Readers(clip, look_judge.load(LOOK_JUDGE)), TEXTS[: options.texts]
    ways = methods(options, clip, lessons[: options.lessons])
    done: dict[str, dict[str, Painted]] = {name: {} for name in ways}
    rows: dict[str, dict[str, list[Reading]]] = {name: {} for name in (*ways, "photo")}
    for name, text in track([*product(ways, texts)], "fitting", console=console, refresh_per_second=0.2):
        found = done[name][text] = ways[name].paint(text, photographs)
        pairs = zip(found.pictures, photographs, strict=True)
        rows[name][text] = [readers.read(painted, photo, text) for painted, photo in pairs]
    for text in texts:
        rows["photo"][text] = [readers.read(photo, photo, text) for photo in photographs]
    seconds = {name: [s for one in row.values() for s in one.seconds] for name, row in done.items()}
    measured = figures(rows, seconds)
    write(report(options, facts, measured, rows), options.json)
    sheets.save(page(photographs, done, texts), options.sheet)
    console.print(shown(measured))


def report(
    options: argparse.Namespace, facts: Mapping[str, Any], measured: Mapping[str, Mapping[str, float]], rows: Rows
) -> dict[str, Any]:
    said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    each = {name: {text: [asdict(one) for one in row] for text, row in texts.items()} for name, texts in rows.items()}
    missing = {} if options.vgg else {"left_out": "gatys: without --vgg"}
    return {"machine": facts, "options": said, "bar": ASKED, **missing, "figures": measured, "readings": each}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--vgg", type=Path, help="VGG19's weights, for Gatys beside the fits")
    parser.add_argument(
        "--perceptual", type=Path, help="VGG19, or SqueezeNet 1.0 as .npz; texture-clip's maps otherwise"
    )
    parser.add_argument("--texts", type=int, default=len(TEXTS))
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument(
        "--lessons", type=int, default=12, help="photographs that fast and styletransferclip learn from"
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--side", type=int, default=192, help="px; the paper's is 512")
    parser.add_argument("--crops", type=int, default=16, help="patches a step; the paper's are 64")
    parser.add_argument("--content", type=float, default=150.0, help="the weight of content; the paper's is 150")
    return parser


if __name__ == "__main__":
    main()
