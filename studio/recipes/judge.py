"""The judge, trained on what is to be read and on what is not: see judge_lessons.py. Used only to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from studio import painter
from studio.nets.diffusion import load_checkpoint
from impasto_fit.nets.precision import half_precision
from studio.nets.upscaler import FINE_SIDE, FINE_VQ
from studio.nets.vq import load_vq
from studio.painter import ALL_OBJECTS, ALL_STYLES, HELD_OUT_STYLES, Scene, any_scenes
from studio.pictures import cached, paint_all, to_tensor
from studio.places import CHECKPOINT, DOCS, RUNS
from studio.reading.judge import IGNORED, JUDGE, UNCLEAR, Doubt, Judge, Labels, Network, verdict
from studio.reading.labelled import LEARNT, load
from studio.recipes.judge_lessons import Lesson, coarse, fine, missed_objects, missed_styles, through
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.loop import Budget
from studio.training.optimisers import Optimisers

FAR_RATE, NEAR_RATE = 6e-4, 2.5e-3
PAINTINGS, STYLE_MISSES, OBJECT_MISSES, COARSE, FINE = 6800, 5400, 1100, 1300, 640
DECODED = 4  # every fourth painting has gone through the autoencoder
HELD_OUT = 0.7  # of the style misses and of the coarse pictures
OWN = 3.0  # how often a picture that was labelled by eye is drawn, where a painted one is drawn once
SMOOTHING = 0.03
WEIGHTS = (1.0, 0.5, 1.5)  # of the losses of object, colour and style
DOUBT = Doubt(object=0.5, style=0.5)  # errs as often either way on the pictures labelled by eye
LABELS = Labels((*ALL_OBJECTS, UNCLEAR), painter.COLOURS, (*ALL_STYLES, UNCLEAR))


def held_out(scenes: Sequence[Scene], rng: np.random.Generator) -> list[Scene]:
    """Most of the scenes in a held-out style in place of their own."""
    return [
        replace(scene, style=str(rng.choice(HELD_OUT_STYLES))) if rng.random() < HELD_OUT else scene for scene in scenes
    ]


def painted(seed: int) -> Lesson:
    """Everything that is learnt but what was labelled by eye."""
    rng = np.random.default_rng(seed)
    scenes = any_scenes(PAINTINGS, seed + 21)
    images = cached("judge", scenes)
    images[::DECODED] = through(load_checkpoint(CHECKPOINT).vae, images[::DECODED])
    blurry, large = held_out(any_scenes(COARSE, seed + 24), rng), any_scenes(FINE, seed + 25)
    return (
        Lesson(images, tuple(scenes))
        + missed_styles(held_out(any_scenes(STYLE_MISSES, seed + 22), rng))
        + missed_objects(any_scenes(OBJECT_MISSES, seed + 23))
        + coarse(load_vq(), Lesson(paint_all(blurry), tuple(blurry)))
        + fine(load_vq(FINE_VQ), Lesson(paint_all(large, FINE_SIDE), tuple(large)))
    )


def softened(pixels: Tensor, deviation: float) -> Tensor:
    """A Gaussian blur of so many pixels, at most one."""
    taps = torch.exp(-(torch.arange(-2.0, 3) ** 2) / (2 * deviation**2))
    row = (taps / taps.sum()).expand(3, 1, 1, 5)
    wide = F.pad(pixels, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(wide, row, groups=3), row.transpose(2, 3), groups=3)


def roughen(pixels: Tensor) -> Tensor:
    """Shifts, mirrors, a softening that leaves the marks, noise, contrast: what generated pictures differ by."""
    x, y = (int(torch.randint(-8, 9, ())) for _ in range(2))
    pixels = torch.roll(pixels, (y, x), (2, 3))
    if torch.rand(()) < 0.5:
        pixels = pixels.flip(3)
    kind = int(torch.randint(5, ()))
    if kind == 1:
        pixels = softened(pixels, float(0.4 + 0.5 * torch.rand(())))
    if kind == 2:
        small = F.interpolate(pixels, scale_factor=0.75, mode="bilinear", antialias=True)
        pixels = F.interpolate(small, pixels.shape[-1], mode="bilinear")
    gain = 1 + 0.1 * torch.randn(len(pixels), 1, 1, 1)
    offset = 0.05 * torch.randn(len(pixels), 1, 1, 1)
    noise = torch.randn_like(pixels) * torch.rand(len(pixels), 1, 1, 1) * 0.08
    return pixels * gain + offset + noise


def started(path: Path | None) -> Network:
    """A new network, or with the weights in this folder as far as their shapes fit."""
    network = Network(*(len(row) for row in astuple(LABELS)))
    if path:
        fresh = network.state_dict()
        known = load_file(path / "judge.safetensors")
        network.load_state_dict(
            {name: known[name].float() if _fits(known, name, value) else value for name, value in fresh.items()}
        )
    return network


def _fits(known: dict[str, Tensor], name: str, value: Tensor) -> bool:
    return name in known and known[name].shape == value.shape


def main() -> None:
    options = recipe_arguments("Train the judge.", 600, 20).parse_args()
    torch.manual_seed(options.seed)
    lesson = painted(options.seed)
    own, labels = load(LEARNT)
    images = np.concatenate([lesson.images, own])
    targets = torch.cat([LABELS.targets(lesson.scenes), LABELS.targets([label.seen for label in labels])])
    drawn = torch.cat([torch.ones(len(lesson.images)), torch.full((len(own),), OWN)])
    network = started(options.init).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    far = [*network.trunk.parameters(), *network.heads.parameters()]
    near = [*network.near.parameters(), *network.style.parameters()]
    parts = (torch.optim.AdamW(part, lr=rate) for part, rate in ((far, FAR_RATE), (near, NEAR_RATE)))
    budget = Budget(options.steps, options.minutes)
    kept = Kept.of(RUNS / "judge.pt", network, Optimisers(*parts, clip=5.0), budget, decay=0.98, warmup=20)
    kept.resume()

    def loss() -> Tensor:
        which = torch.multinomial(drawn, options.batch)
        pixels = roughen(to_tensor(images[which.numpy()])).contiguous(memory_format=torch.channels_last)
        with half_precision(options.device):
            heads = network(pixels)
        parts = [
            weight * F.cross_entropy(row.float(), told, ignore_index=IGNORED, label_smoothing=SMOOTHING)
            for weight, row, told in zip(WEIGHTS, heads, targets[which].T, strict=True)
        ]
        return torch.stack(parts).sum()

    kept.run(loss)
    network.load_state_dict(kept.average.state)
    Judge(LABELS, network.eval(), DOUBT).save(JUDGE)
    draw_curve(kept.loop.losses, "judge: cross entropy, three heads", DOCS / "judge-loss.png")
    print(
        f"{kept.loop.step} steps, {kept.loop.seconds / 60:.1f} min", report(Judge.load(), options.seed + 31), sep="\n"
    )


def report(judge: Judge, seed: int, count: int = 600) -> str:
    """What it reads in paintings that it hasn't seen, and how often it is fooled by near misses."""
    scenes = any_scenes(count, seed)
    held = [replace(scene, style=HELD_OUT_STYLES[i % len(HELD_OUT_STYLES)]) for i, scene in enumerate(scenes)]
    styles, objects = missed_styles(held[: count // 2]), missed_objects(scenes[: count // 2])
    named = np.mean([reading.style != UNCLEAR for reading in judge.read(styles.images)])
    taken = np.mean([reading.object != UNCLEAR for reading in judge.read(objects.images)])
    return (
        f"paintings: {verdict(judge.read(paint_all(scenes)), scenes)}\n"
        f"near misses that are named: style {named:.1%}, object {taken:.1%} of {count // 2} each"
    )


if __name__ == "__main__":
    main()
