"""Styles as learnt words: what do stages, context prompts and dual guidance bring, and what do four lanes cost?

python benchmarks/dreamstyler.py --json FILE [--count 64] [--sheets DIR]

All pictures come through a Triton whose bundle and registry are made for it: mini-diffusion with mini-controlnet, and
every embedding that the studio has of a style. The judge reads the pictures; edges are found as the server finds them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common import sheets
from benchmarks.common.asking import (
    JUDGED,
    Asker,
    Pixels,
    Report,
    Samples,
    Wish,
    cell,
    picture_of,
    png,
    readings,
    run,
    with_all,
)
from benchmarks.common.bench import ROOT
from benchmarks.common.sheets import Axis
from benchmarks.parts.dreamstyler import dual
from studio import painter
from studio.painter import Scene
from studio.reading.judge import Judge

from impasto_client import Client, Options, StyleContent
from impasto_export import manifest
from impasto_export.adapters import importer
from impasto_export.adapters.registry import Registry
from impasto_export.checkpoints.control import Control
from impasto_export.link import link
from impasto_server.ops.serve import serve
from impasto_server.pictures.content import edges
from impasto_server.settings import Settings

EMBEDDINGS = ROOT / "studio" / "embeddings"
FILE, PICTURE = "learned_embeds.safetensors", "picture.png"
VARIANTS = {  # where the embeddings lie: of one stage or more, learnt without the content in the prompt or with it
    "plain": "ablation/plain",
    "plain-context": "ablation/plain-context",
    "stages": "ablation/stages",
    "context": ".",
}
STYLES = {painter.STYLE_DESCRIPTORS[style].replace(" ", "-"): style for style in painter.HELD_OUT_STYLES}
STAGES, FINE = 6, 3  # of a mix, and how many of them are the fine half

STEPS, SCALE = 25, 3.0
STYLE, CONTENT = 1.0, 2.0  # λs and λc, chosen on other scenes
GUIDANCE = StyleContent(style=STYLE, content=CONTENT, scale=SCALE)
FULL_SCALE = SCALE + STYLE + CONTENT  # what the full prompt's lane is weighted with then
STYLE_STRENGTHS, CONTENT_STRENGTHS = (0.0, 1.0, 2.0, 3.0, 5.0), (0.0, 1.5, 3.0, 5.0)
STRENGTH = 0.8
TRANSFER = Options(steps=30, scheduler="unipc", strength=STRENGTH)  # the paper's
CONTROL = (0.0, 0.8, 1.0)
NEAR = 2  # pixels between edges that agree
SHOWN = 2  # contents of each style on the sheet of transfers
SHOWN_PROMPT, SHOWN_SEED = "a red house in the snow", 7
SCENE_SEED, CONTENT_SEED, FIRST_SEED = 20_003, 20_004, 2_000
MAX_RATIO = 2.1
NOTES = [
    "ablation: every prompt is an unseen scene's without its style, STYLE names the learnt one; all methods are asked "
    f"for the same scenes with the same seeds, as far as a style has the embedding. Classifier-free scale {SCALE:g}, "
    "where no other is named; + guidance: the embedding of + context prompt under the rule dreamstyler (Eq. 11), its "
    f"strengths in `guidance`; scale {FULL_SCALE:g} weights the full prompt as + guidance does, and has no lanes for "
    "style and content. all: of what every style has. half_widths: 95 %, Wilson's.",
    f"transfer: content painted flat, unipc, strength {STRENGTH:g} of 30 steps, classifier-free scale "
    f"{SCALE:g}, no depth map. edges_f1: Canny edges of content and result, harmonic mean of the shares of either that "
    f"lie within {NEAR} px of the other's; half_widths: 95 %, normal. painter's own: of a content and his own "
    f"picture of it in the style; another's: of a content and another content's result at control {CONTROL[1]:g}.",
    "latency: one picture at a time, each with words of its own; ratio: median seconds of a picture of four lanes ÷ of "
    "one of two lanes, both in the same learnt style; concurrent_ratio: two of four lanes, asked at once ÷ one. "
    "*_interval_95: bootstrap over rounds. identical_images: rounds in which the rule dreamstyler with λs = λc = 0 "
    "painted what classifier-free guidance did, byte for byte.",
]


class Method(NamedTuple):
    """A row of the ablation: which embedding, under which rule."""

    title: str
    variant: str
    guidance: StyleContent | None = None
    scale: float = SCALE


METHODS = (
    Method("textual inversion", "plain"),
    Method("+ stages", "stages"),
    Method("+ context prompt", "context"),
    Method("+ guidance", "context", GUIDANCE),
    Method("one stage, context prompt", "plain-context"),
    Method(f"+ context prompt, scale {FULL_SCALE:g}", "context", scale=FULL_SCALE),
)


@dataclass(frozen=True)
class Learnt:
    """A style: the painter's word for it, the picture it was learnt from, and its embeddings' names by variant."""

    name: str
    style: str
    picture: Pixels
    variants: Mapping[str, str]

    @property
    def served(self) -> str:
        """The embedding that is meant for use."""
        return self.variants["context"]


@dataclass(frozen=True)
class Bench:
    """The parts of the measurement that look at pictures, and what they share."""

    asker: Asker
    judge: Judge
    styles: Sequence[Learnt]
    count: int

    # ablation

    def ablation(self) -> Report:
        """What the judge reads by style and method, as far as a style has the method's embedding."""
        scenes = painter.unseen_scenes(self.count, SCENE_SEED)
        return with_all({learnt.name: self._methods(learnt, scenes) for learnt in self.styles})

    def _methods(self, learnt: Learnt, scenes: Sequence[Scene]) -> dict[str, Samples]:
        found = {}
        for method in METHODS:
            if method.variant not in learnt.variants:
                continue
            options = guided(learnt.variants[method.variant], method.guidance, method.scale)
            wishes = [
                Wish(painter.context(scene), {**options, "seed": FIRST_SEED + i}) for i, scene in enumerate(scenes)
            ]
            found[method.title] = readings(
                self.judge, self.asker.ask(f"{learnt.name}, {method.title}", wishes), learnt.style, scenes
            )
        return found

    # grids

    def guidance_grid(self) -> Image.Image:
        """λs by λc; Pillow's own letters have no λ."""
        learnt = self.styles[0]
        down = Axis(f"style guidance: {learnt.name}", [f"{value:g}" for value in STYLE_STRENGTHS])
        across = Axis(f"content guidance: {SHOWN_PROMPT}", [f"{value:g}" for value in CONTENT_STRENGTHS])
        strengths = product(STYLE_STRENGTHS, CONTENT_STRENGTHS)
        wishes = [shown(learnt.served, StyleContent(style, content, SCALE)) for style, content in strengths]
        return sheets.grid(list(self.asker.ask("guidance grid", wishes)), down, across)

    def mixing_grid(self) -> Image.Image:
        """One style in the noisy half of the stages, another in the fine half."""
        names = [learnt.name for learnt in self.styles]
        down = Axis(f"noisy half, stages {FINE} to {STAGES - 1}", names)
        across = Axis(f"fine half, stages 0 to {FINE - 1}", names)
        return sheets.grid(list(self.asker.ask("mixing grid", mixes(self.styles))), down, across)

    # transfer

    def transfer(self) -> tuple[Report, Image.Image]:
        """Flat pictures painted anew in each style: the judge's readings and the edges that were kept; and a sheet."""
        scenes = flat_scenes(self.count, CONTENT_SEED)
        content = np.stack([painter.paint(scene).image for scene in scenes])
        painted = {learnt.name: self._transfers(learnt, scenes, content) for learnt in self.styles}
        kept = {learnt.name: self._kept(learnt, scenes, content, painted[learnt.name]) for learnt in self.styles}
        return with_all(kept), self._transfer_sheet(content, painted)

    def _transfers(self, learnt: Learnt, scenes: Sequence[Scene], content: Pixels) -> dict[float, Pixels]:
        """By control scale."""
        found = {}
        for scale in CONTROL:
            options = guided(learnt.served) | TRANSFER | Options(control_scale=scale)
            wishes = [
                Wish(painter.context(scene), {**options, "seed": FIRST_SEED + i, "image": png(content[i])})
                for i, scene in enumerate(scenes)
            ]
            found[scale] = self.asker.ask(f"{learnt.name}, {control(scale)}", wishes)
        return found

    def _kept(
        self, learnt: Learnt, scenes: Sequence[Scene], content: Pixels, painted: Mapping[float, Pixels]
    ) -> dict[str, Samples]:
        own = np.stack([painter.paint(replace(scene, style=learnt.style)).image for scene in scenes])
        found = {control(scale): pictures for scale, pictures in painted.items()} | {"painter's own": own}
        kept = {
            kind: {**readings(self.judge, pictures, learnt.style, scenes), "edges_f1": agreements(content, pictures)}
            for kind, pictures in found.items()
        }
        return {**kept, "another's": {"edges_f1": agreements(content, np.roll(painted[CONTROL[1]], 1, axis=0))}}

    def _transfer_sheet(self, content: Pixels, painted: Mapping[str, Mapping[float, Pixels]]) -> Image.Image:
        rows = [(learnt, i) for learnt in self.styles for i in range(min(SHOWN, len(content)))]
        pictures = [
            picture
            for learnt, i in rows
            for picture in (content[i], learnt.picture, *(made[i] for made in painted[learnt.name].values()))
        ]
        columns = ["content", "style", *(control(scale) for scale in CONTROL)]
        return sheets.grid(
            pictures, Axis("style", [learnt.name for learnt, _ in rows]), Axis(f"strength {STRENGTH:g}", columns)
        )


def flat_scenes(n: int, seed: int) -> list[Scene]:
    """Scenes in the flat style that nobody has seen."""
    many = painter.unseen_scenes(2 * len(painter.STYLES) * n + 1000, seed)
    return [scene for scene in many if scene.style == "flat"][:n]


def guided(style: str | Sequence[str], guidance: StyleContent | None = None, scale: float = SCALE) -> Options:
    """A learnt style under guidance of style and content, or else under classifier-free guidance of a scale."""
    return Options(style=style, guidance=guidance, guidance_scale=scale if guidance is None else None, steps=STEPS)


def shown(style: str | Sequence[str], guidance: StyleContent | None = None) -> Wish:
    """A cell of a grid."""
    return Wish(SHOWN_PROMPT, {**guided(style, guidance), "seed": SHOWN_SEED})


def mixes(styles: Sequence[Learnt]) -> list[Wish]:
    """Row by row: the row's style in the noisy half of the stages, the column's in the fine half."""
    pairs = product(styles, repeat=2)
    return [shown([fine.served] * FINE + [noisy.served] * (STAGES - FINE)) for noisy, fine in pairs]


def control(scale: float) -> str:
    return f"control {scale:g}" if scale else "no control"


def agreements(contents: Pixels, results: Pixels) -> NDArray[np.float64]:
    """Of each pair of pictures, how well their edges agree."""
    return np.array([agreement(edges(one) > 0, edges(two) > 0) for one, two in zip(contents, results, strict=True)])


def agreement(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> float:
    """F1 of edges [H, W]: harmonic mean of the shares of either that lie within NEAR pixels of the other's."""
    if not one.any() or not two.any():
        return float(one.any() == two.any())
    precision, recall = near(two, one), near(one, two)
    return 2 * precision * recall / max(precision + recall, 1e-9)


def near(these: NDArray[np.bool_], those: NDArray[np.bool_]) -> float:
    """Which share of these pixels has one of those within NEAR pixels."""
    distance = cv2.distanceTransform((~those).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[these] <= NEAR).mean())


@contextmanager
def workspace(folder: Path) -> Iterator[tuple[Settings, list[Learnt]]]:
    """A bundle with the studio's ControlNet, and a registry of all embeddings in `folder`; gone afterwards.

    Raises ExportError for what does not fit, SystemExit where there is no embedding.
    """
    with TemporaryDirectory(prefix="impasto-dreamstyler-") as place:
        steering = Control(ROOT / "studio" / "mini-controlnet", ("edges", "edges", "depth"), ("depth",))
        bundle = link(ROOT / "studio" / "mini-diffusion", Path(place) / "bundle", steering=steering).folder
        registry = Registry(Path(place) / "registry")
        facts = manifest.load(bundle)
        styles = [
            Learnt(name, style, picture_of(folder / name / PICTURE), registered(registry, facts, folder, name))
            for name, style in STYLES.items()
            if (folder / name / FILE).is_file()
        ]
        if not styles:
            raise SystemExit(f"{folder} has no embeddings; train them with studio.recipes.inversion")
        yield Settings(bundle, registry.folder), styles


def registered(registry: Registry, facts: Mapping[str, Any], folder: Path, name: str) -> dict[str, str]:
    """The names under which a style's embeddings are registered, by variant."""
    names = {}
    for variant, where in VARIANTS.items():
        path = folder / where / name / FILE
        if path.is_file():
            names[variant] = f"{name}-{variant}"
            registry.put(names[variant], importer.convert(path, dict(facts)).data)
    return names


def measure(asked: argparse.Namespace, bar: Progress) -> tuple[Report, dict[str, Image.Image]]:
    """Everything that --json holds of the figures, and the sheets by name."""
    with (
        workspace(asked.embeddings) as (settings, styles),
        serve(settings) as server,
        Client(server.grpc_url) as client,
    ):
        task = bar.add_task("latency", total=dual.WARM_UP + asked.rounds)
        latency = dual.report(dual.Latency(client, styles[0].served).rounds(asked.rounds, lambda: bar.advance(task)))
        bench = Bench(Asker(client, bar), Judge.load(), styles, asked.count)
        ablation = bench.ablation()
        transfer, transfer_sheet = bench.transfer()
        drawn = {"guidance": bench.guidance_grid(), "mixing": bench.mixing_grid(), "transfer": transfer_sheet}
        meta = client.generate(SHOWN_PROMPT, **guided(styles[0].served)).meta
    return {
        "bars": bars(latency),
        "ablation": ablation,
        "guidance": asdict(GUIDANCE),
        "transfer": transfer,
        "latency": latency,
        "count": asked.count,
        "seeds": {"scenes": SCENE_SEED, "contents": CONTENT_SEED, "first_image": FIRST_SEED},
        **{key: meta[key] for key in ("engine", "precision", "bundle")},
        "notes": NOTES,
    }, drawn


def bars(latency: Report) -> list[Report]:
    """What was asked for, and whether it is so."""
    ratio, same, rounds = latency["ratio"], latency["identical_images"], latency["rounds"]
    return [
        {"key": "latency.ratio", "value": ratio, "bar": f"≤ {MAX_RATIO:g}", "met": ratio <= MAX_RATIO},
        {"key": "latency.identical_images", "value": same, "bar": f"all {rounds}", "met": same == rounds},
    ]


def tables(report: Report) -> Iterator[Table]:
    """The figures, for a person."""
    for name, columns in (("ablation", JUDGED), ("transfer", (*JUDGED, "edges_f1"))):
        shown = Table("style", "", *columns, title=name)
        for style, row in report[name].items():
            for kind, found in row.items():
                shown.add_row(style, kind, *(cell(found, column) for column in columns))
        yield shown
    shown = Table("figure", "value", "bar", "")
    for bar in report["bars"]:
        shown.add_row(bar["key"], str(bar["value"]), bar["bar"], "[green]met[/]" if bar["met"] else "[red]missed[/]")
    shown.add_row("latency.concurrent_ratio", str(report["latency"]["concurrent_ratio"]), "", "")
    yield shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="where the grids go, as PNG files; default: nowhere")
    parser.add_argument("--count", type=int, default=64, help="scenes for each style and method (default 64)")
    parser.add_argument("--rounds", type=int, default=30, help="of the latency (default 30)")
    parser.add_argument("--embeddings", type=Path, default=EMBEDDINGS, metavar="DIR", help="default: the studio's")
    return parser.parse_args()


def main() -> None:
    run("dreamstyler", arguments(), measure, tables)


if __name__ == "__main__":
    main()
