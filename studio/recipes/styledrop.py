"""StyleDrop on mini-muse: bottleneck adapters for a style from ONE picture, in two rounds, and for an object.

round 1   views of the picture, and its texture on other contents
          ──► adapters, the base's 4 wide and shared ──► 64 pictures of other contents
select    the 10 best of those, which are under runs/drops: by mini-clip's scores, by a person, or at random
round 2   views of the picture and of these ──► fresh adapters, the base's 32 wide, every site its own

An adapter is a pair: the base's half, and the second stage's, which is 32 wide in both rounds (the paper's table S3).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AmusedPipeline
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn

from studio import painter
from impasto_fit.masked.bottleneck import Bottleneck, Form, attached
from studio.nets.folders import replaced
from studio.nets.maskgit import (
    FINE_STYLE_STRENGTH,
    FINE_TEXT_STRENGTH,
    STYLE_STRENGTH,
    guessed,
    guided,
    paint_fine,
)
from studio.nets.muse import Muse, load_muse, masked_loss
from impasto_fit.nets.precision import half_precision
from studio.nets.tokenizer import tokenise
from studio.nets.upscaler import FINE_SIDE, FINE_VQ, UPSCALER, Cascade, load_cascade
from studio.nets.upscaler import masked_loss as fine_loss
from studio.nets.vq import MUSE, PATCH, tokens_of
from studio.painter import Bytes, Scene
from studio.pictures import halved
from studio.places import HERE, RUNS
from studio.reading.judge import Judge, Verdict, verdict
from studio.reading.scorer import Scorer
from studio.recipes.inversion import PROMPT
from studio.recipes.styles import Adapter, transfer
from studio.training.curve import draw_curve
from studio.training.loop import Budget, Loop
from studio.training.optimisers import Optimisers

DROPS = HERE / "drops"
WEIGHTS = "bottleneck.safetensors"
FINE_WEIGHTS = "upscaler.safetensors"
ZOOM = 2
STYLE_REACH = 2
OBJECT_REACH = 1  # an object is never cut
OBJECT_PICTURES = 96
SAMPLES = 64
STEPS = 18  # half the paper's, so that a round takes minutes; the benchmark paints in as many
PICKED = 10
TRANSFERS, TRANSFER_SEED = 96, 29
FEEDBACK_STRENGTH = 0.5
FEEDBACK_SEED = 23
JUDGED_SEED = 17


def portraits(name: str) -> tuple[Scene, ...]:
    """An object twelve times in each of the base styles, in all colours and places."""
    colours, places = painter.COLOURS, tuple(painter.BACKGROUNDS)
    return tuple(
        Scene(name, colours[(3 * i + i // 8) % 8], places[i % 6], painter.STYLES[i % 8], i)
        for i in range(OBJECT_PICTURES)
    )


SOURCES = {style: Scene("balloon", "red", "sunset", style, 3) for style in painter.HELD_OUT_STYLES}
# How a picture's texture is put on other contents (styles.py). Neon has none: its light is in lines alone.
TEXTURES = {
    "glass": Adapter("glass", (SOURCES["glass"],), blur=16, strength=1.25),
    "mosaic": Adapter("mosaic", (SOURCES["mosaic"],), blur=16, strength=1.2, colours=0.6, grain=12),
    "stipple": Adapter("stipple", (SOURCES["stipple"],), blur=8, strength=1.5),
    "halftone": Adapter("halftone", (SOURCES["halftone"],), blur=8, strength=2.0),
    "crosshatch": Adapter("crosshatch", (SOURCES["crosshatch"],), blur=8, strength=1.5),
}
OBJECTS = {name: portraits(name) for name in painter.HELD_OUT_OBJECTS}


@dataclass(frozen=True)
class Recipe:
    """The paper's table S3 scaled down: 3e-5 and 1000 steps are for a transformer two hundred times as large."""

    rank: int
    shared: bool
    steps: int
    rate: float
    batch: int = 8


ROUNDS = {1: Recipe(4, True, 300, 1e-2), 2: Recipe(32, False, 250, 3e-3)}
OBJECT = Recipe(64, False, 1200, 3e-3)
FINE_STYLE = Recipe(32, False, 200, 3e-3)
FINE_OBJECT = Recipe(32, False, 300, 3e-3)


@dataclass(frozen=True)
class Shown:
    """Pictures uint8 [N, 256, 256, 3], each with its caption."""

    pictures: Bytes
    captions: tuple[str, ...]

    def __add__(self, other: Shown) -> Shown:
        return Shown(np.concatenate([self.pictures, other.pictures]), self.captions + other.captions)

    def shifted(self, reach: int) -> Shown:
        """Each picture's `shifted` views in its place."""
        seen = [shifted(picture, reach) for picture in self.pictures]
        captions = [caption for caption, part in zip(self.captions, seen, strict=True) for _ in part]
        return Shown(np.concatenate(seen), tuple(captions))

    @property
    def small(self) -> Bytes:
        """As the base sees them, uint8 [N, 128, 128, 3]."""
        return halved(self.pictures)


def shifted(picture: Bytes, reach: int) -> Bytes:
    """The picture and its mirror image [N, H, W, 3], shifted over their own reflection by up to `reach` of the base's
    tokens.

    What tokens a texture has depends on where it lies in them: shifted by less, it would be another style.
    """
    height, width, _ = picture.shape
    step = PATCH * ZOOM
    edge = step * reach
    wide = np.pad(picture, ((edge, edge), (edge, edge), (0, 0)), mode="reflect")
    offsets = range(0, 2 * edge + 1, step)
    parts = [wide[y : y + height, x : x + width] for y in offsets for x in offsets]
    return np.stack([*parts, *(part[:, ::-1] for part in parts)])


def painted(scenes: Sequence[Scene]) -> Shown:
    pictures = np.stack([painter.paint(scene, FINE_SIDE).image for scene in scenes])
    return Shown(pictures, tuple(painter.caption(scene) for scene in scenes))


def transferred(style: str, picture: Bytes) -> Shown:
    """The picture's texture on other contents, which are painted flat."""
    rng = np.random.default_rng(TRANSFER_SEED)
    scenes = painter.training_scenes(TRANSFERS, TRANSFER_SEED)
    flat = painted([replace(scene, style="flat") for scene in scenes]).pictures
    pictures = [transfer(content, picture, TEXTURES[style], rng) for content in flat]
    return Shown(np.stack(pictures), tuple(painter.caption(replace(scene, style=style)) for scene in scenes))


def template(style: str) -> str:
    """What the style is asked for in: "{context} in stained glass style"."""
    return PROMPT.replace("{style}", painter.STYLE_DESCRIPTORS[style])


def load(folder: Path) -> Cascade:
    base = load_muse(folder)
    base.transformer.set_attn_processor(AttnProcessor())  # as in muse.py
    return load_cascade(base, folder / UPSCALER.name, folder / FINE_VQ.name)


def save_pictures(pictures: Bytes, names: Sequence[str], folder: Path) -> None:
    """PNGs in a folder that holds nothing else any more."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for picture, name in zip(pictures, names, strict=True):
        Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)


def save_picture(picture: Bytes, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / "picture.png", optimize=True)


def save_sheet(pictures: Bytes, columns: int, path: Path) -> None:
    sheet = painter.contact_sheet(list(pictures), columns)
    sheet.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def fit(name: str, adapter: Bottleneck, recipe: Recipe, on: nn.Module, loss: Callable[[], Tensor]) -> list[float]:
    """Bring the loss down by the adapter alone, which is on a network; returns the loss of every step."""
    optimisers = Optimisers(torch.optim.Adam(adapter.parameters(), lr=recipe.rate), clip=1.0)
    loop = Loop(name, Budget(recipe.steps), optimisers, warmup=20)
    with attached(on, adapter):
        loop.run(loss)
    adapter.requires_grad_(False)
    return loop.losses


def train(pipe: AmusedPipeline, adapter: Bottleneck, lesson: Shown, recipe: Recipe) -> list[float]:
    """Fit the base's half to the lesson's tokens."""
    tokens = tokens_of(pipe.vqvae, lesson.small)
    captions = tokenise(pipe.tokenizer, list(lesson.captions))
    muse = Muse(pipe.text_encoder, pipe.transformer).requires_grad_(False)

    def loss() -> Tensor:
        which = torch.randint(len(tokens), (recipe.batch,))
        with half_precision(pipe.device.type):
            return masked_loss(muse, tokens[which], captions[which])

    return fit("adapter", adapter, recipe, pipe.transformer, loss)


def train_fine(cascade: Cascade, adapter: Bottleneck, base: Bottleneck, lesson: Shown, recipe: Recipe) -> list[float]:
    """Fit the second stage's half to the lesson's fine tokens, under what the base draws with its own half on."""
    fine, low = tokens_of(cascade.vq, lesson.pictures), tokens_of(cascade.base.vqvae, lesson.small)
    captions = tokenise(cascade.base.tokenizer, list(lesson.captions))

    def loss() -> Tensor:
        which = torch.randint(len(fine), (recipe.batch,))
        with half_precision(cascade.base.device.type):
            with torch.no_grad(), attached(cascade.base.transformer, base):
                said = cascade.base.text_encoder(captions[which], output_hidden_states=True)
                drawn = guessed(cascade.base, low[which], said.hidden_states[-2], said.text_embeds)
            return fine_loss(cascade.upscaler, fine[which], drawn, said.hidden_states[-2])

    return fit("second stage's adapter", adapter, recipe, cascade.upscaler, loss)


def feedback_scenes(style: str) -> list[Scene]:
    """Contents that the base was trained on, so that those it is judged by are new to the second round as well."""
    return [replace(scene, style=style) for scene in painter.training_scenes(SAMPLES, FEEDBACK_SEED)]


@dataclass(frozen=True)
class Pair:
    """An adapter's halves."""

    base: Bottleneck
    fine: Bottleneck

    @classmethod
    def load(cls, folder: Path) -> Pair:
        return cls(Bottleneck.load(folder / WEIGHTS), Bottleneck.load(folder / FINE_WEIGHTS))


def drawn(cascade: Cascade, pair: Pair, captions: Sequence[str], seed: int, strength: float = STYLE_STRENGTH) -> Bytes:
    """Pictures [N, 256, 256, 3] by both stages with a pair on."""
    fine = guided(captions, pair.fine, FINE_STYLE_STRENGTH, FINE_TEXT_STRENGTH)
    return paint_fine(cascade, guided(captions, pair.base, strength), fine, seed, STEPS)


def samples(cascade: Cascade, style: str, round1: Path) -> tuple[Bytes, Path]:
    """Pictures [N, 256, 256, 3] of `feedback_scenes`, and the folder where they are 00.png, 01.png and so on.

    They are painted once for a pair; a person copies those that are good out of that folder.
    """
    weights = b"".join((round1 / name).read_bytes() for name in (WEIGHTS, FINE_WEIGHTS))
    folder = RUNS / "drops" / f"{style}-{hashlib.sha256(weights).hexdigest()[:12]}"
    if not folder.exists():
        captions = [painter.caption(scene) for scene in feedback_scenes(style)]
        pictures = drawn(cascade, Pair.load(round1), captions, FEEDBACK_SEED, FEEDBACK_STRENGTH)
        with replaced(folder) as fresh:
            save_pictures(pictures, [f"{i:02}" for i in range(SAMPLES)], fresh)
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]), folder


def standing(scores: Tensor) -> Tensor:
    """How many deviations above the mean each score [N] is."""
    return (scores - scores.mean()) / scores.std()


def highest(scores: Tensor, count: int) -> list[int]:
    return [int(i) for i in scores.argsort(descending=True)[:count]]


def clip_scores(scorer: Scorer, pictures: Bytes, contexts: Sequence[str], given: Bytes) -> Tensor:
    """[N]: how well each picture agrees with its content in words, plus how much it is like the style's picture.

    Both are cosines; they are added in deviations, since pictures are more alike than pictures and words ever are.
    """
    rows = scorer.pictures(pictures)
    text = (rows * scorer.captions(contexts)).sum(1)
    style = rows @ scorer.pictures(given[None])[0]
    return standing(text) + standing(style)


def chosen(folder: Path, count: int) -> list[int]:
    """The numbers of the samples that a person copied into `folder`."""
    names = sorted(path.stem for path in folder.glob("*.png"))
    unknown = [name for name in names if not (name.isdigit() and int(name) < count)]
    if unknown or not names:
        raise SystemExit(
            f"--select: {', '.join(unknown) or 'no picture'} in {folder}; copy samples there, names and all"
        )
    return [int(name) for name in names]


def select(how: str, pictures: Bytes, contexts: Sequence[str], given: Bytes) -> list[int]:
    """Which samples the second round learns from; `how` is clip, random or folder:DIR."""
    if how == "clip":
        return highest(clip_scores(Scorer.load(), pictures, contexts, given), PICKED)
    if how == "random":
        return torch.randperm(len(pictures))[:PICKED].tolist()
    return chosen(Path(how.removeprefix("folder:")), len(pictures))


def assess(cascade: Cascade, pair: Pair, scenes: Sequence[Scene], sheet: Path) -> Verdict:
    """What the judge reads in pictures of these scenes, the first eight of which are drawn to `sheet`."""
    pictures = drawn(cascade, pair, [painter.caption(scene) for scene in scenes], seed=3)
    save_sheet(pictures[:8], 4, sheet)
    return verdict(Judge.load().read(pictures), scenes)


@dataclass(frozen=True)
class Drop:
    """One pair to be trained: where it goes, from what, how, what it is asked for in, what it is judged by."""

    folder: Path
    lesson: Shown
    recipe: Recipe
    fine: Recipe
    prompt: str | None
    judged: Sequence[Scene]

    def make(self, cascade: Cascade, stages: Collection[str]) -> Verdict | None:
        """What the judge reads, as soon as there are both halves."""
        if "base" in stages:
            transformer = cascade.base.transformer
            form = Form.of(transformer, self.recipe.shared, self.prompt)
            adapter = Bottleneck(form, transformer.config.hidden_size, self.recipe.rank)
            self._keep(adapter, WEIGHTS, train(cascade.base, adapter, self.lesson, self.recipe))
        if "upscale" in stages:
            base = Bottleneck.load(self.folder / WEIGHTS)
            form = Form.of_upscaler(cascade.upscaler, self.prompt)
            adapter = Bottleneck(form, cascade.upscaler.config.hidden_size, self.fine.rank)
            self._keep(adapter, FINE_WEIGHTS, train_fine(cascade, adapter, base, self.lesson, self.fine))
        if not (self.folder / FINE_WEIGHTS).exists():
            return None
        return assess(cascade, Pair.load(self.folder), self.judged, self.folder / "sheet.png")

    def _keep(self, adapter: Bottleneck, name: str, losses: list[float]) -> None:
        adapter.save(self.folder / name)
        curve = self.folder / ("loss.png" if name == WEIGHTS else "upscaler-loss.png")
        draw_curve(losses, f"{self.folder.name}: cross entropy of masked tokens", curve)


def first_round(style: str, out: Path, judged: Sequence[Scene]) -> Drop:
    given, folder = painted([SOURCES[style]]), out / style / "round1"
    save_picture(given.pictures[0], folder)
    scenes = [replace(scene, style=style) for scene in judged]
    lesson = given.shifted(STYLE_REACH)
    if style in TEXTURES:
        lesson += transferred(style, given.pictures[0])
    return Drop(folder, lesson, ROUNDS[1], FINE_STYLE, template(style), scenes)


def second_round(cascade: Cascade, style: str, how: str, out: Path, judged: Sequence[Scene]) -> Drop:
    """On the picture, and on what is selected of the first round's samples."""
    given, scenes = painted([SOURCES[style]]), feedback_scenes(style)
    pictures, kept = samples(cascade, style, out / style / "round1")
    which = select(how, pictures, [painter.context(scene) for scene in scenes], given.pictures[0])
    read = Judge.load().read(pictures)
    print(f"{kept}: {verdict(read, scenes)}")
    print(f"of them by {how}: {verdict([read[i] for i in which], [scenes[i] for i in which])}", flush=True)
    picked = Shown(pictures[which], tuple(painter.caption(scenes[i]) for i in which))
    folder = out / style / f"round2-{how.partition(':')[0]}"
    save_picture(given.pictures[0], folder)
    save_sheet(picked.pictures, 5, folder / "picked.png")
    seen = (given + picked).shifted(STYLE_REACH)
    judged = [replace(scene, style=style) for scene in judged]
    return Drop(folder, seen, ROUNDS[2], FINE_STYLE, template(style), judged)


def an_object(name: str, out: Path, judged: Sequence[Scene]) -> Drop:
    given, folder = painted(OBJECTS[name]), out / name
    folder.mkdir(parents=True, exist_ok=True)
    save_sheet(given.pictures[:24], 8, folder / "pictures.png")
    contexts = Shown(given.pictures, tuple(painter.context(scene) for scene in OBJECTS[name]))
    scenes = [replace(scene, object=name) for scene in judged]
    return Drop(folder, (given + contexts).shifted(OBJECT_REACH), OBJECT, FINE_OBJECT, None, scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train pairs of bottleneck adapters on mini-muse.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--style", choices=SOURCES)
    what.add_argument("--object", choices=OBJECTS)
    parser.add_argument("--stage", choices=("base", "upscale", "both"), default="both", help="which half to train")
    parser.add_argument("--round", type=int, choices=ROUNDS, default=1)
    parser.add_argument("--select", default="clip", help="for round 2: clip, random, or folder:DIR of copied samples")
    parser.add_argument("--judged", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, default=MUSE)
    parser.add_argument("--out", type=Path, default=DROPS)
    options = parser.parse_args()
    started = time.monotonic()
    torch.manual_seed(options.seed)
    cascade, judged = load(options.base), painter.unseen_scenes(options.judged, JUDGED_SEED)
    if options.object:
        drop = an_object(options.object, options.out, judged)
    elif options.round == 1:
        drop = first_round(options.style, options.out, judged)
    else:
        drop = second_round(cascade, options.style, options.select, options.out, judged)
    read = drop.make(cascade, ("base", "upscale") if options.stage == "both" else (options.stage,))
    print(f"{drop.folder}: {read or 'the base alone'}, {(time.monotonic() - started) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
