"""Does the served model paint what it is asked for? The judge reads pictures that came through Triton.

python benchmarks/quality.py --json FILE

Unseen captions first, then, for every style of the registry that the studio knows, held-out captions in that style with
and without the adapter. The one figure that no request can yield, how well the VAE reconstructs a painted picture, is
taken from the bundle's own graphs in this process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from impasto_client import Client, Generation, Options
from impasto_server.ops.serve import serve
from impasto_server.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common.asking import Asker, Wish, pixels
from benchmarks.common.bench import CONFIDENT, ROOT, half_width
from studio import painter
from studio.painter import Scene
from studio.reading.judge import Judge, Verdict, verdict
from studio.reading.psnr import psnr_db

Report = dict[str, object]

STEPS = 25
SCENE_SEED, ADAPTER_SCENE_SEED, FIRST_IMAGE_SEED = 20_001, 20_002, 1_000
NOTES = [
    "Accuracies: share of pictures that came through Triton which the judge reads as asked; half_widths are 95 % "
    "confidence half-widths (Wilson's interval for shares, normal for the PSNR).",
    "vae_psnr_db: mean over painted pictures of unseen captions, encoded and decoded by the bundle's VAE graphs in "
    "onnxruntime f32 in this process, not through Triton, which serves no encoder.",
    "adapters: every picture's prompt names the adapter's style; with and without share prompts and seeds, weight 1.",
    "content_adapters: every picture's prompt names the adapter's object in a base style; weight 1.",
]


@dataclass(frozen=True)
class Bench:
    """The three parts of the measurement, and what they share."""

    asker: Asker
    judge: Judge
    scenes: Sequence[Scene]
    adapter_scenes: Sequence[Scene]

    def backbone(self) -> tuple[Report, Generation]:
        """Accuracies on unseen captions; also one answer, which says what served them."""
        made = self.asker.made("unseen captions", wishes(self.scenes, None))
        read = verdict(self.judge.read(pixels(made)), self.scenes)
        return {"object_acc": read.object, "colour_acc": read.colour, "style_acc": read.style}, made[0]

    def style(self, adapter: str, style: str) -> dict[str, float]:
        """How often the style, and with it still the object, is read in prompts that name the style."""
        scenes = [replace(scene, style=style) for scene in self.adapter_scenes]
        given, plain = self._with_and_without(adapter, scenes)
        return {
            "style_acc_with": given.style,
            "style_acc_without": plain.style,
            "object_acc_with": given.object,
        }

    def content(self, adapter: str, thing: str) -> dict[str, float]:
        """How often the object, and with it still the asked style, is read in prompts that name the object."""
        scenes = [replace(scene, object=thing) for scene in self.adapter_scenes]
        given, plain = self._with_and_without(adapter, scenes)
        return {
            "object_acc_with": given.object,
            "object_acc_without": plain.object,
            "style_acc_with": given.style,
        }

    def _with_and_without(self, adapter: str, scenes: Sequence[Scene]) -> tuple[Verdict, Verdict]:
        given = self.asker.ask(f"{adapter}, with", wishes(scenes, adapter))
        plain = self.asker.ask(f"{adapter}, without", wishes(scenes, None))
        return verdict(self.judge.read(given), scenes), verdict(self.judge.read(plain), scenes)


def wishes(scenes: Sequence[Scene], adapter: str | None) -> list[Wish]:
    """A picture of each scene, by seeds that count up."""
    asked: Options = {"adapters": adapter, "steps": STEPS, "format": "png"}
    return [Wish(painter.caption(scene), {**asked, "seed": FIRST_IMAGE_SEED + i}) for i, scene in enumerate(scenes)]


def known_adapters(registry: Path) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Names in the registry: held-out styles and held-out objects, each to what it stands for, and the others."""
    names = sorted(path.stem for path in (registry / "names").glob("*.json"))
    spoken = {painter.STYLE_DESCRIPTORS[style].replace(" ", "-"): style for style in painter.HELD_OUT_STYLES}
    styles = {**{style: style for style in painter.HELD_OUT_STYLES}, **spoken}
    found_styles = {name: styles[name] for name in names if name in styles}
    found_objects = {name: name for name in names if name in painter.HELD_OUT_OBJECTS}
    return found_styles, found_objects, [name for name in names if name not in {**found_styles, **found_objects}]


def vae_psnr(bundle: Path, scenes: Sequence[Scene], done: Callable[[], None]) -> list[float]:
    """dB of each painted scene after encoding (mean latents) and decoding."""
    run = {name: onnxruntime.InferenceSession(bundle / f"{name}.onnx") for name in ("vae_encoder", "vae_decoder")}
    found = []
    for scene in scenes:
        painted = painter.paint(scene).image
        image = (painted.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
        (mean,) = run["vae_encoder"].run(["mean"], {"image": image})
        (back,) = run["vae_decoder"].run(["image"], {"latents": mean})
        decoded = np.round((np.clip(back[0], -1, 1) + 1) * 127.5).transpose(1, 2, 0)
        found.append(psnr_db(decoded, painted))
        done()
    return found


def half_widths(shares: object, n: int) -> object:
    """The same tree with a half-width for each share."""
    if isinstance(shares, dict):
        return {name: half_widths(share, n) for name, share in shares.items()}
    assert isinstance(shares, float)
    return half_width(shares, n)


def measure(bench: Bench, bundle: Path, registry: Path) -> Report:
    """Everything that --json holds."""
    n, n_adapter = len(bench.scenes), len(bench.adapter_scenes)
    bar = bench.asker.bar
    task = bar.add_task("VAE", total=n)
    psnr = vae_psnr(bundle, bench.scenes, lambda: bar.advance(task))
    accuracies, sample = bench.backbone()
    styles, things, others = known_adapters(registry)
    adapters = {name: bench.style(name, style) for name, style in styles.items()}
    contents = {name: bench.content(name, thing) for name, thing in things.items()}
    widths = {
        "vae_psnr_db": CONFIDENT * float(np.std(psnr)) / math.sqrt(n),
        **{name: half_widths(share, n) for name, share in accuracies.items()},
        "adapters": half_widths(adapters, n_adapter),
        "content_adapters": half_widths(contents, n_adapter),
    }
    unmeasured = [f"Not measured, for the studio knows no such style or object: {', '.join(others)}."] if others else []
    return {
        "vae_psnr_db": float(np.mean(psnr)),
        **accuracies,
        "adapters": adapters,
        "content_adapters": contents,
        "half_widths": widths,
        "n": n,
        "n_adapter": n_adapter,
        "seeds": {"scenes": SCENE_SEED, "adapter_scenes": ADAPTER_SCENE_SEED, "first_image": FIRST_IMAGE_SEED},
        **{key: sample.meta[key] for key in ("engine", "precision", "bundle", "steps", "guidance_scale", "scheduler")},
        "notes": [*NOTES, *unmeasured],
    }


@contextmanager
def served(url: str | None, settings: Settings) -> Iterator[str]:
    """`url`, or that of a server of our own for as long as it is needed."""
    if url is not None:
        yield url
        return
    with serve(settings) as server:
        yield server.grpc_url


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--url", help="gRPC endpoint of a server of this bundle and registry; default: start one")
    parser.add_argument("--n", type=int, default=256, help="unseen captions (default 256)")
    parser.add_argument("--n-adapter", type=int, default=64, help="captions for each adapter (default 64)")
    parser.add_argument("--precision", default="auto", help="of the server that is started: auto, bf16 or f32")
    parser.add_argument("--bundle", type=Path, default=ROOT / ".impasto" / "bundle")
    parser.add_argument("--registry", type=Path, default=None, help="default: IMPASTO_REGISTRY, else .impasto/registry")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    here = ROOT / ".impasto" / "registry"
    registry = asked.registry or Path(os.environ.get("IMPASTO_REGISTRY") or here)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    scenes = painter.unseen_scenes(asked.n, SCENE_SEED)
    adapter_scenes = painter.unseen_scenes(asked.n_adapter, ADAPTER_SCENE_SEED)
    with (
        served(asked.url, Settings(asked.bundle, registry, precision=asked.precision)) as url,
        Client(url) as client,
        Progress(*columns, TimeRemainingColumn(), console=console) as bar,
    ):
        bench = Bench(Asker(client, bar), Judge.load(), scenes, adapter_scenes)
        report = measure(bench, asked.bundle, registry)
    asked.json.write_text(json.dumps(report, indent=2) + "\n")
    console.print_json(data={key: value for key, value in report.items() if key != "notes"})


if __name__ == "__main__":
    main()
