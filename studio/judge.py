"""The judge: one small CNN that names the object, the colour and the style of a picture. Used only to measure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import painter
from model import CHECKPOINT, DOCS, HERE, RUNS, load_checkpoint
from painter import Bytes, Scene
from pictures import cached, to_images, to_tensor
from training import Average, Budget, Loop, draw_curve, half_precision, one_cycle, recipe_arguments

JUDGE = HERE / "judge"
SIDE = 64
WIDTHS = (24, 48, 96, 128)
LEARNING_RATE = 3e-3
DECODED = 3  # every third picture has gone through the autoencoder
NOISE = 0.5
ALL_OBJECTS = painter.OBJECTS + painter.HELD_OUT_OBJECTS
ALL_STYLES = painter.STYLES + painter.HELD_OUT_STYLES


@dataclass(frozen=True)
class Reading:
    object: str
    colour: str
    style: str


@dataclass(frozen=True)
class Labels:
    """The names behind each head's logits."""

    objects: tuple[str, ...]
    colours: tuple[str, ...]
    styles: tuple[str, ...]

    def targets(self, scenes: Sequence[Scene]) -> Tensor:
        """int64 [N, 3]."""
        rows = [
            (self.objects.index(s.object), self.colours.index(s.colour), self.styles.index(s.style)) for s in scenes
        ]
        return torch.tensor(rows)


class Network(nn.Module):
    """float [N, 3, 64, 64] in -1..1 to three rows of logits."""

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out in zip((3, *WIDTHS), (*WIDTHS, WIDTHS[-1]), strict=True):
            layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleList(nn.Linear(WIDTHS[-1] * (SIDE // 32) ** 2, n) for n in classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        seen = self.trunk(pixels)
        return tuple(head(seen) for head in self.heads)


@dataclass(frozen=True)
class Judge:
    labels: Labels
    network: Network

    @classmethod
    def load(cls, path: Path = JUDGE) -> Judge:
        names = json.loads((path / "labels.json").read_text())
        labels = Labels(**{head: tuple(values) for head, values in names.items()})
        network = Network([len(row) for row in astuple(labels)])
        network.half().load_state_dict(load_file(path / "judge.safetensors"))
        return cls(labels, network.float().eval())

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        names = {"objects": self.labels.objects, "colours": self.labels.colours, "styles": self.labels.styles}
        (path / "labels.json").write_text(json.dumps(names, indent=2) + "\n")
        save_file(self.network.half().state_dict(), path / "judge.safetensors")
        self.network.float()

    @torch.no_grad()
    def read(self, images: Bytes) -> list[Reading]:
        """What each picture, uint8 [N, H, W, 3], shows."""
        logits = [self.network(shrink(to_tensor(part))) for part in np.array_split(images, max(1, len(images) // 64))]
        heads = [torch.cat(head).argmax(1).tolist() for head in zip(*logits, strict=True)]
        names = (self.labels.objects, self.labels.colours, self.labels.styles)
        rows = zip(*([row[i] for i in best] for row, best in zip(names, heads, strict=True)), strict=True)
        return [Reading(*row) for row in rows]


@dataclass(frozen=True)
class Verdict:
    """Shares of pictures in which the judge reads what the scene asked for."""

    object: float
    colour: float
    style: float
    count: int

    def __str__(self) -> str:
        return f"object {self.object:.1%}, colour {self.colour:.1%}, style {self.style:.1%} of {self.count}"


def verdict(readings: Sequence[Reading], scenes: Sequence[Scene]) -> Verdict:
    pairs = list(zip(readings, scenes, strict=True))

    def share(name: str) -> float:
        return float(np.mean([getattr(r, name) == getattr(s, name) for r, s in pairs]))

    return Verdict(share("object"), share("colour"), share("style"), len(pairs))


def shrink(pixels: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(pixels, SIDE)


def roughen(pixels: Tensor) -> Tensor:
    """Small shifts, softening, noise and a change of contrast: what generated pictures differ by."""
    x, y = (int(torch.randint(-4, 5, ())) for _ in range(2))
    pixels = torch.roll(pixels, (y, x), (2, 3))
    kind = int(torch.randint(4, ()))
    if kind == 1:
        pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    if kind == 2:
        small = F.interpolate(pixels, scale_factor=0.625, mode="bilinear", antialias=True)
        pixels = F.interpolate(small, SIDE, mode="bilinear")
    gain = 1 + 0.1 * torch.randn(len(pixels), 1, 1, 1)
    offset = 0.05 * torch.randn(len(pixels), 1, 1, 1)
    noise = torch.randn_like(pixels) * torch.rand(len(pixels), 1, 1, 1) * 0.08
    return pixels * gain + offset + noise


@torch.no_grad()
def through(vae: AutoencoderKL, images: Bytes) -> Bytes:
    """What the autoencoder makes of pictures, their latents as noisy as sampled ones may be.

    A judge that has only seen paintings takes the decoder's roughness for a style.
    """
    parts = []
    for part in track(np.array_split(images, max(1, len(images) // 32)), "decoding", refresh_per_second=0.2):
        with half_precision(vae.device.type):
            latents = vae.encode(to_tensor(part)).latent_dist.mode()
            strength = NOISE * torch.rand(len(latents), 1, 1, 1)
            latents += strength * latents.std((0, 2, 3), keepdim=True) * torch.randn_like(latents)
            parts.append(to_images(vae.decode(latents).sample.float()))
    return np.concatenate(parts)


def any_scenes(n: int, seed: int) -> list[Scene]:
    """Scenes over everything the painter knows, held-out objects and styles included."""
    rng = np.random.default_rng(seed)
    names = (ALL_OBJECTS, painter.COLOURS, tuple(painter.BACKGROUNDS), ALL_STYLES)
    scenes: list[Scene] = []
    for _ in range(n):
        seed_of_scene = int(rng.integers(2**31))
        thing, colour, place, style = (str(rng.choice(row)) for row in names)
        scenes.append(Scene(thing, colour, place, style, seed_of_scene))
    return scenes


def main() -> None:
    options = recipe_arguments("Train the judge.", 900, 8).parse_args()
    torch.manual_seed(options.seed)
    scenes = any_scenes(12_000, seed=options.seed + 21)
    labels = Labels(ALL_OBJECTS, painter.COLOURS, ALL_STYLES)
    images = cached("judge", scenes)
    images[::DECODED] = through(load_checkpoint(CHECKPOINT).vae, images[::DECODED])
    small = torch.cat([shrink(to_tensor(part)) for part in np.array_split(images, 64)])
    targets = labels.targets(scenes)
    network = Judge.load(options.init).network if options.init else Network([len(row) for row in astuple(labels)])
    network.train()
    average = Average(network, 0.99)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    loop = Loop(RUNS / "judge.pt", Budget(options.steps, options.minutes))
    if saved := loop.resume():
        network.load_state_dict(saved["model"])
        average.state = saved["average"]
        optimiser.load_state_dict(saved["optimiser"])

    def train_step(spent: float) -> Tensor:
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * one_cycle(spent, loop.step, warmup=50)
        which = torch.randint(len(small), (options.batch,))
        logits = network(roughen(small[which]))
        losses = [F.cross_entropy(row, targets[which, i]) for i, row in enumerate(logits)]
        optimiser.zero_grad()
        loss = torch.stack(losses).sum()
        loss.backward()
        optimiser.step()
        average.update(network, loop.step)
        return loss.detach()

    loop.run(
        train_step,
        lambda: {"model": network.state_dict(), "average": average.state, "optimiser": optimiser.state_dict()},
    )
    network.load_state_dict(average.state)
    judge = Judge(labels, network.eval())
    judge.save(JUDGE)
    draw_curve(loop.losses, "judge: cross entropy, three heads", DOCS / "judge-loss.png")
    fresh = any_scenes(1500, seed=options.seed + 22)
    figures = verdict(Judge.load().read(cached("judge-test", fresh)), fresh)
    print(f"{loop.step} steps, {loop.seconds / 60:.1f} min: {figures}")


if __name__ == "__main__":
    main()
