"""StyleDrop on mini-muse: bottleneck adapters for a style from ONE picture, in two rounds, and for an object.

round 1   views of the picture ──► adapter, 4 wide, shared ──► 64 pictures of other contents, under runs/drops
select    the 10 best of those: by mini-clip's scores, by a person, or at random
round 2   views of the picture and of these ──► a fresh adapter, 32 wide, every site its own
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AmusedPipeline
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor

from studio import painter
from studio.nets.bottleneck import Bottleneck, Form, attached
from studio.nets.folders import replaced
from studio.nets.maskgit import guided, paint
from studio.nets.muse import SMOOTHING, Muse, load_muse, masked_loss
from studio.nets.precision import half_precision
from studio.nets.tokenizer import tokenise
from studio.nets.vq import MUSE, PATCH, tokens_of
from studio.painter import Bytes, Scene
from studio.places import HERE, RUNS
from studio.reading.judge import Judge, Verdict, verdict
from studio.reading.scorer import Scorer
from studio.recipes.inversion import PROMPT
from studio.training.curve import draw_curve
from studio.training.loop import Budget, Loop
from studio.training.optimisers import Optimisers

DROPS = HERE / "drops"
WEIGHTS = "bottleneck.safetensors"
STYLE_REACH = 2
OBJECT_REACH = 1  # an object is never cut
OBJECT_PICTURES = 96
SAMPLES = 64
PICKED = 10
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
OBJECTS = {name: portraits(name) for name in painter.HELD_OUT_OBJECTS}


@dataclass(frozen=True)
class Recipe:
    """The paper's table S3 scaled down: 3e-5 and 1000 steps are for a transformer two hundred times as large."""

    rank: int
    shared: bool
    steps: int
    rate: float
    batch: int = 8
    smoothing: float = SMOOTHING


ROUNDS = {1: Recipe(4, True, 120, 1e-2), 2: Recipe(32, False, 250, 3e-3)}
OBJECT = Recipe(64, False, 1200, 3e-3, smoothing=0.0)  # a style balances it at a lower γ than if it were smoothed


@dataclass(frozen=True)
class Shown:
    """Pictures uint8 [N, 128, 128, 3], each with its caption."""

    pictures: Bytes
    captions: tuple[str, ...]

    def __add__(self, other: Shown) -> Shown:
        return Shown(np.concatenate([self.pictures, other.pictures]), self.captions + other.captions)

    def shifted(self, reach: int) -> Shown:
        """Each picture's `shifted` views in its place."""
        seen = [shifted(picture, reach) for picture in self.pictures]
        captions = [caption for caption, part in zip(self.captions, seen, strict=True) for _ in part]
        return Shown(np.concatenate(seen), tuple(captions))


def shifted(picture: Bytes, reach: int) -> Bytes:
    """The picture and its mirror image [N, H, W, 3], shifted over their own reflection by up to `reach` whole tokens.

    What tokens a texture has depends on where it lies in them: shifted by less, it would be another style.
    """
    height, width, _ = picture.shape
    edge = PATCH * reach
    wide = np.pad(picture, ((edge, edge), (edge, edge), (0, 0)), mode="reflect")
    offsets = range(0, 2 * edge + 1, PATCH)
    parts = [wide[y : y + height, x : x + width] for y in offsets for x in offsets]
    return np.stack([*parts, *(part[:, ::-1] for part in parts)])


def painted(scenes: Sequence[Scene]) -> Shown:
    pictures = np.stack([painter.paint(scene).image for scene in scenes])
    return Shown(pictures, tuple(painter.caption(scene) for scene in scenes))


def template(style: str) -> str:
    """What the style is asked for in: "{context} in stained glass style"."""
    return PROMPT.replace("{style}", painter.STYLE_DESCRIPTORS[style])


def load(folder: Path) -> AmusedPipeline:
    pipe = load_muse(folder)
    pipe.transformer.set_attn_processor(AttnProcessor())  # as in muse.py
    return pipe


def save_pictures(pictures: Bytes, names: Sequence[str], folder: Path) -> None:
    """PNGs in a folder that holds nothing else any more."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for picture, name in zip(pictures, names, strict=True):
        Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)


def save_sheet(pictures: Bytes, columns: int, path: Path) -> None:
    sheet = painter.contact_sheet(list(pictures), columns)
    sheet.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def train(pipe: AmusedPipeline, adapter: Bottleneck, lesson: Shown, recipe: Recipe) -> list[float]:
    """Fit the adapter alone to the lesson's tokens; returns the loss of every step."""
    tokens = tokens_of(pipe.vqvae, lesson.pictures)
    captions = tokenise(pipe.tokenizer, list(lesson.captions))
    muse = Muse(pipe.text_encoder, pipe.transformer).requires_grad_(False)
    optimisers = Optimisers(torch.optim.Adam(adapter.parameters(), lr=recipe.rate), clip=1.0)

    def loss() -> Tensor:
        which = torch.randint(len(tokens), (recipe.batch,))
        with half_precision(pipe.device.type):
            return masked_loss(muse, tokens[which], captions[which], recipe.smoothing)

    loop = Loop("adapter", Budget(recipe.steps), optimisers, warmup=20)
    with attached(pipe.transformer, adapter):
        loop.run(loss)
    adapter.requires_grad_(False)
    return loop.losses


def feedback_scenes(style: str) -> list[Scene]:
    """Contents that the base was trained on, so that those it is judged by are new to the second round as well."""
    return [replace(scene, style=style) for scene in painter.training_scenes(SAMPLES, FEEDBACK_SEED)]


def samples(pipe: AmusedPipeline, style: str, adapter: Path) -> tuple[Bytes, Path]:
    """Pictures [N, 128, 128, 3] of `feedback_scenes`, and the folder where they are 00.png, 01.png and so on.

    They are painted once for an adapter; a person copies those that are good out of that folder.
    """
    folder = RUNS / "drops" / f"{style}-{hashlib.sha256(adapter.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        captions = [painter.caption(scene) for scene in feedback_scenes(style)]
        pictures = paint(pipe, guided(captions, Bottleneck.load(adapter), FEEDBACK_STRENGTH), FEEDBACK_SEED)
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


def assess(pipe: AmusedPipeline, adapter: Bottleneck, scenes: Sequence[Scene], sheet: Path) -> Verdict:
    """What the judge reads in pictures of these scenes, the first eight of which are drawn to `sheet`."""
    pictures = paint(pipe, guided([painter.caption(scene) for scene in scenes], adapter), seed=3)
    save_sheet(pictures[:8], 8, sheet)
    return verdict(Judge.load().read(pictures), scenes)


@dataclass(frozen=True)
class Drop:
    """One adapter to be trained: where it goes, from what, how, what it is asked for in, what it is judged by."""

    folder: Path
    lesson: Shown
    recipe: Recipe
    prompt: str | None
    judged: Sequence[Scene]

    def make(self, pipe: AmusedPipeline) -> Verdict:
        form = Form.of(pipe.transformer, self.recipe.shared, self.prompt)
        adapter = Bottleneck(form, pipe.transformer.config.hidden_size, self.recipe.rank)
        losses = train(pipe, adapter, self.lesson, self.recipe)
        adapter.save(self.folder / WEIGHTS)
        draw_curve(losses, f"{self.folder.name}: cross entropy of masked tokens", self.folder / "loss.png")
        return assess(pipe, Bottleneck.load(self.folder / WEIGHTS), self.judged, self.folder / "sheet.png")


def first_round(style: str, out: Path, judged: Sequence[Scene]) -> Drop:
    given, folder = painted([SOURCES[style]]), out / style / "round1"
    save_pictures(given.pictures, ["picture"], folder)
    seen = given.shifted(STYLE_REACH)
    return Drop(folder, seen, ROUNDS[1], template(style), [replace(scene, style=style) for scene in judged])


def second_round(pipe: AmusedPipeline, style: str, how: str, out: Path, judged: Sequence[Scene]) -> Drop:
    """On the picture, and on what is selected of the first round's samples."""
    given, scenes = painted([SOURCES[style]]), feedback_scenes(style)
    pictures, kept = samples(pipe, style, out / style / "round1" / WEIGHTS)
    which = select(how, pictures, [painter.context(scene) for scene in scenes], given.pictures[0])
    read = Judge.load().read(pictures)
    print(f"{kept}: {verdict(read, scenes)}")
    print(f"of them by {how}: {verdict([read[i] for i in which], [scenes[i] for i in which])}", flush=True)
    picked = Shown(pictures[which], tuple(painter.caption(scenes[i]) for i in which))
    folder = out / style / f"round2-{how.partition(':')[0]}"
    save_pictures(given.pictures, ["picture"], folder)
    save_sheet(picked.pictures, 5, folder / "picked.png")
    seen = (given + picked).shifted(STYLE_REACH)
    return Drop(folder, seen, ROUNDS[2], template(style), [replace(scene, style=style) for scene in judged])


def an_object(name: str, out: Path, judged: Sequence[Scene]) -> Drop:
    given, folder = painted(OBJECTS[name]), out / name
    save_pictures(given.pictures, [f"picture-{i + 1}" for i in range(len(given.pictures))], folder)
    contexts = Shown(given.pictures, tuple(painter.context(scene) for scene in OBJECTS[name]))
    scenes = [replace(scene, object=name) for scene in judged]
    return Drop(folder, (given + contexts).shifted(OBJECT_REACH), OBJECT, None, scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train bottleneck adapters on mini-muse.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--style", choices=SOURCES)
    what.add_argument("--object", choices=OBJECTS)
    parser.add_argument("--round", type=int, choices=ROUNDS, default=1)
    parser.add_argument("--select", default="clip", help="for round 2: clip, random, or folder:DIR of copied samples")
    parser.add_argument("--judged", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, default=MUSE)
    parser.add_argument("--out", type=Path, default=DROPS)
    options = parser.parse_args()
    started = time.monotonic()
    torch.manual_seed(options.seed)
    pipe, judged = load(options.base), painter.unseen_scenes(options.judged, JUDGED_SEED)
    if options.object:
        drop = an_object(options.object, options.out, judged)
    elif options.round == 1:
        drop = first_round(options.style, options.out, judged)
    else:
        drop = second_round(pipe, options.style, options.select, options.out, judged)
    read = drop.make(pipe)
    print(f"{drop.folder}: {read}, {(time.monotonic() - started) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
