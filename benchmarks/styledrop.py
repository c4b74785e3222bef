"""StyleDrop's cascade: what does its second stage bring to a style, and does a style go with a content?

python benchmarks/styledrop.py --json FILE [--count 12] [--composed 4] [--sheets DIR] [--parts stages ...]

All pictures and clip scores come through a Triton whose bundle and registry are made for it: mini-muse, mini-clip, and
every adapter under studio/drops. The judge reads them.

stages       each style: in words, by the base alone, by both stages, with the second stage's adapter, with feedback
composition  each style with each content, by γ
strengths    each style by the base's λA
candidates   each style, the best of four by clip score
diffusion    composition by the same rule, of mini-diffusion's LoRAs
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path

from PIL import Image
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common.asking import JUDGED, Asker, Report, cell, run
from benchmarks.parts.styledrop.adapters import DROPS, MUSE, Shop, diffusion, masked
from benchmarks.parts.styledrop.looking import (
    CONTENT_SEED,
    FIRST_SEED,
    SCENE_SEED,
    STEPS,
    STYLE_STRENGTH,
    TEMPERATURE,
    TEXT_STRENGTH,
    TOGETHER,
    UPSCALE_STEPS,
    Looking,
    decoded,
)
from studio.reading.judge import Judge

from impasto_client import Client, StyleDrop
from impasto_server.ops.serve import serve

COMPOSED_STRENGTH, COMPOSED_STRENGTH_DIFFUSION = 2.0, 1.5
STEPS_DIFFUSION = 12
GAMMAS = (0.35, 0.45, 0.55, 0.65)
GAMMAS_DIFFUSION = (0.0, 0.25, 0.5, 0.57, 0.75, 1.0)
READ, STYLES = 0.85, 5  # so many styles are to be read in so many of their pictures, and the object as well
COMPOSED, COMPOSED_DIFFUSION = 0.8, 0.7
USUAL = ("stages", "composition")
NOTES = [
    "stages: prompts are unseen scenes without their style; every method is asked for the same scenes with the same "
    f"seeds, {STEPS} steps of the base and {UPSCALE_STEPS} of the second stage, temperature {TEMPERATURE:g}. in words: "
    f"no adapter, the style said, under classifier-free guidance of scale {1 + TEXT_STRENGTH:g}; the others: rule "
    f"styledrop (Eq. 4), λA {STYLE_STRENGTH:g}, λB {TEXT_STRENGTH:g}, in the second stage the paper's 1 and 0. base "
    "alone: 128 pixels, by the base's half of the adapter; + second stage: the same under a second stage without an "
    "adapter; + its adapter: both halves; + feedback: both halves of a round that also learnt from the first one's "
    "pictures. *_acc: shares that the judge reads as asked. clip_text, clip_style: mini-clip's cosines with the prompt "
    "(which says the style, too) and with the picture that the style was learnt from.",
    "strengths: λA of the base, else as in stages, under the pair that is served.",
    "composition, composition_diffusion: rule styledrop-compose (section 3.4) of a style's adapter and a content's by "
    f"γ, λA {COMPOSED_STRENGTH:g} and {COMPOSED_STRENGTH_DIFFUSION:g}, λB {TEXT_STRENGTH:g}; of mini-muse's pairs, and "
    f"of mini-diffusion's LoRAs (dpmpp_2m, {STEPS_DIFFUSION} steps). object_acc: the judge reads the content. The bar "
    "asks for one γ at which style and object are both read in so many pictures of all styles and contents together; "
    "by_style says where each style has its own.",
    "candidates: the first of four, the best by clip score with the text, the best with the style's picture.",
    "half_widths: 95 %, Wilson's of shares, else normal. all: of all styles together.",
]

Sheets = dict[str, Image.Image]


@contextmanager
def looking(shop: AbstractContextManager[Shop], asked: argparse.Namespace, bar: Progress) -> Iterator[Looking]:
    """A server of what the shop has, and who asks it."""
    with shop as found, serve(found.settings) as server, Client(server.grpc_url) as client:
        yield Looking(Asker(client, bar), Judge.load(), found, asked.count, asked.composed)


def stages(muse: Looking) -> tuple[Report, Sheets]:
    report, sheet = muse.stages()
    return {"stages": report, "bars": [styles_bar(report)]}, {"stages": sheet}


def composition(muse: Looking) -> tuple[Report, Sheets]:
    report, drawn = muse.composition(decoded(), COMPOSED_STRENGTH, GAMMAS)
    found = {"composition": report, "by_style": by_style(report)}
    bar = composition_bar("mini-muse", report, COMPOSED)
    return {**found, "bars": [bar]}, {f"composition-{name}": sheet for name, sheet in drawn.items()}


def strengths(muse: Looking) -> tuple[Report, Sheets]:
    report, sheet = muse.strengths()
    return {"strengths": report}, {"strengths": sheet}


def candidates(muse: Looking) -> tuple[Report, Sheets]:
    return {"candidates": muse.candidates()}, {}


def others(lora: Looking) -> tuple[Report, Sheets]:
    report, drawn = lora.composition({"steps": STEPS_DIFFUSION}, COMPOSED_STRENGTH_DIFFUSION, GAMMAS_DIFFUSION)
    found = {"composition_diffusion": report, "by_style_diffusion": by_style(report)}
    bar = composition_bar("mini-diffusion", report, COMPOSED_DIFFUSION)
    return {**found, "bars": [bar]}, {f"composition-diffusion-{name}": sheet for name, sheet in drawn.items()}


MASKED: Mapping[str, Callable[[Looking], tuple[Report, Sheets]]] = {
    "stages": stages,
    "composition": composition,
    "strengths": strengths,
    "candidates": candidates,
}
DIFFUSION = "diffusion"


def measure(asked: argparse.Namespace, bar: Progress) -> tuple[Report, Sheets]:
    """Everything that --json holds of the figures, and the sheets by name."""
    found: list[tuple[Report, Sheets]] = []
    if own := [MASKED[part] for part in asked.parts if part in MASKED]:
        with looking(masked(asked.muse, asked.drops), asked, bar) as muse:
            found += [part(muse) for part in own]
            found.append((facts(muse), {}))
    if DIFFUSION in asked.parts:
        with looking(diffusion(), asked, bar) as lora:
            found.append(others(lora))
    reports, drawn = zip(*found, strict=True)
    bars = [row for report in reports for row in report.pop("bars", [])]
    merged = {key: value for report in reports for key, value in report.items()}
    return {"bars": bars, **merged, "counts": {"scenes": asked.count, "composed": asked.composed}, "notes": NOTES}, {
        name: sheet for some in drawn for name, sheet in some.items()
    }


def facts(muse: Looking) -> Report:
    """What was asked of mini-muse besides, and who answered."""
    served = muse.shop.styles[0].served
    meta = muse.asker.client.generate("a red fish", **decoded(style=served, guidance=StyleDrop())).meta
    return {
        "guidance": {
            "stages": asdict(StyleDrop(STYLE_STRENGTH, TEXT_STRENGTH)),
            "composition": asdict(StyleDrop(COMPOSED_STRENGTH, TEXT_STRENGTH)),
        },
        "seeds": {"scenes": SCENE_SEED, "contents": CONTENT_SEED, "first_image": FIRST_SEED},
        **{key: meta[key] for key in ("engine", "precision", "bundle", "steps", "scheduler", "stages")},
    }


def best_gamma(row: Mapping[str, Report]) -> Report:
    """The γ at which the rarer of style and object is read most often."""
    gamma = max(row, key=lambda gamma: rarer(row[gamma]))
    return {"gamma": float(gamma), "style_acc": row[gamma]["style_acc"], "object_acc": row[gamma]["object_acc"]}


def rarer(found: Report) -> float:
    """Of style and object, the one that is read less often."""
    return float(min(found["style_acc"], found["object_acc"]))


def by_style(composed: Mapping[str, Mapping[str, Mapping[str, Report]]]) -> Report:
    """Each content's, and of all together, best γ of each style."""
    return {name: {style: best_gamma(row) for style, row in rows.items()} for name, rows in composed.items()}


def composition_bar(backbone: str, composed: Report, least: float) -> Report:
    best = best_gamma(composed[TOGETHER]["all"])
    key = f"{backbone}: composition at gamma {best['gamma']:g}, the rarer of style and object"
    return held(key, rarer(best), least)


def styles_bar(report: Report) -> Report:
    """How many styles some pair paints so that both style and object are read."""
    pairs = {
        style: [found for title, found in row.items() if title.startswith(("+ its adapter", "+ feedback"))]
        for style, row in report.items()
        if style != "all"
    }
    value = sum(any(rarer(found) >= READ for found in each) for each in pairs.values())
    return held(f"mini-muse: styles read in {100 * READ:g} % of pictures, the object as well", value, STYLES)


def held(key: str, value: float, least: float) -> Report:
    return {"key": key, "value": value, "bar": f"≥ {least:g}", "met": value >= least}


def tables(report: Report) -> Iterator[Table]:
    """The figures, for a person."""
    clip = (*JUDGED, "clip_text", "clip_style")
    for name in ("stages", "strengths", "candidates"):
        if name in report:
            yield table(name, report[name], clip)
    for name in ("composition", "composition_diffusion"):
        for content, rows in report.get(name, {}).items():
            yield table(f"{name}: {content}", rows, JUDGED)
    shown = Table("figure", "value", "bar", "")
    for bar in report["bars"]:
        shown.add_row(
            bar["key"], f"{bar['value']:.2f}", bar["bar"], "[green]met[/]" if bar["met"] else "[red]missed[/]"
        )
    yield shown


def table(title: str, rows: Mapping[str, Mapping[str, Report]], columns: tuple[str, ...]) -> Table:
    shown = Table("style", "", *columns, title=title)
    for style, row in rows.items():
        for kind, found in row.items():
            shown.add_row(style, kind, *(_cell(found, column) for column in columns))
    return shown


def _cell(found: Report, name: str) -> str:
    return f"{found[name]:.3f}" if name.startswith("clip") else cell(found, name)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="where the sheets go, as PNGs; default: nowhere")
    parser.add_argument("--count", type=int, default=12, help="scenes for each style and method (default 12)")
    parser.add_argument(
        "--parts", nargs="+", choices=(*MASKED, DIFFUSION), default=USUAL, help="default: the first two"
    )
    parser.add_argument("--muse", type=Path, default=MUSE, metavar="DIR", help="checkpoint; default: the studio's")
    parser.add_argument("--drops", type=Path, default=DROPS, metavar="DIR", help="adapters; default: the studio's")
    return parser.parse_args()


def main() -> None:
    run("styledrop", arguments(), measure, tables)


if __name__ == "__main__":
    main()
