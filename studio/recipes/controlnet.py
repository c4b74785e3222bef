"""Train mini-controlnet: a picture's edges, and its depth where it is known, steer the frozen mini-diffusion."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from impasto_server.pictures.content import edges
from studio import painter
from studio.nets.controlnet import CONTROLNET, Controlled, hints, new_controlnet
from studio.nets.diffusion import encode, load_checkpoint, new_scheduler, save_model
from impasto_fit.nets.precision import half_precision
from studio.nets.tokenizer import tokenise
from studio.painter import Bytes, Scene
from studio.pictures import paint_all, to_tensor
from studio.places import RUNS
from studio.reading.judge import Judge, Verdict, verdict
from studio.reading.quality import BATCH, GUIDANCE, STEPS
from studio.recipes.diffusion import diffusion_loss
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.log import note
from studio.training.loop import Budget
from studio.training.optimisers import muon_and_adam

PICTURES = 8_000
CONTOURS = 0.5  # share of the hints that are the painter's own contours; the others are found as the server finds them
DEPTH = 0.5  # share of the hints with depth
EMPTY = 0.1
MUON_RATE = 0.005
ADAM_RATE = 1e-3
EXPORT_SECONDS = 480.0
NEAR = 2  # pixels between edges that agree
SCALE = 0.8
SHOWN = (0, 1, 2, 4, 5)  # rows of the sheet: flat pictures; strength 0.8 without, with; strength 1 without, with


@dataclass(frozen=True)
class Drawing:
    """uint8: a scene's image [H, W, 3]; its contours, its edges, those of it painted flat, and its depth: [H, W]."""

    image: Bytes
    contours: Bytes
    own: Bytes
    flat: Bytes
    depth: Bytes


def as_bytes(values: NDArray[np.float32]) -> Bytes:
    result: Bytes = np.round(values * 255).astype(np.uint8)
    return result


def draw(scene: Scene) -> Drawing:
    """Edges of the flat picture are what a content picture has when a style is asked for."""
    painting, flat = painter.paint(scene), painter.paint(replace(scene, style="flat"))
    own, plain = (as_bytes(edges(picture)) for picture in (painting.image, flat.image))
    return Drawing(painting.image, painting.edges, own, plain, painting.depth)


def draw_all(scenes: Sequence[Scene]) -> list[Drawing]:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(draw, scenes, chunksize=64))


@dataclass(frozen=True)
class Examples:
    """Latents [N, 16, 16, 16], tokens [N, 32], uint8 edges [N, 3, H, W] (contours, own, flat) and depth [N, H, W]."""

    latents: Tensor
    tokens: Tensor
    empty: Tensor
    edges: Tensor
    depth: Tensor

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, tokens and hints of n examples."""
        which = torch.randint(len(self.latents), (n,))
        tokens = self.tokens[which]
        tokens[torch.rand(n) < EMPTY] = self.empty
        found = torch.randint(1, 3, (n,))
        kind = torch.where(torch.rand(n) < CONTOURS, 0, found)
        depth = self.depth[which]
        depth[torch.rand(n) >= DEPTH] = 0
        return self.latents[which].float(), tokens, hints(self.edges[which, kind], depth)


def examples(options: argparse.Namespace) -> Examples:
    """Painted and encoded once; kept under runs/ for the next start."""
    pipe = load_checkpoint()
    scenes = painter.training_scenes(PICTURES, options.seed + 51)
    path = RUNS / f"drawings-{options.seed}.pt"
    if not path.exists():
        drawings = draw_all(scenes)
        stacked = {
            "latents": encode(pipe.vae, np.stack([d.image for d in drawings])),
            "edges": torch.from_numpy(np.stack([[d.contours, d.own, d.flat] for d in drawings])),
            "depth": torch.from_numpy(np.stack([d.depth for d in drawings])),
        }
        torch.save(stacked, path)
    parts = torch.load(path, weights_only=True)
    rng = np.random.default_rng(options.seed)
    tokens = tokenise(pipe.tokenizer, [painter.caption_variant(scene, rng) for scene in scenes])
    return Examples(tokens=tokens, empty=tokenise(pipe.tokenizer, [""])[0], **parts)


def near(mask: Tensor) -> Tensor:
    """Where an edge lies within NEAR pixels, of float [N, H, W]."""
    return F.max_pool2d(mask[:, None], 2 * NEAR + 1, stride=1, padding=NEAR)[:, 0]


def agreement(wanted: Bytes, painted: Bytes) -> float:
    """Mean F1 of the edges in two rows of pictures [N, H, W, 3], where 2 px apart is agreement."""
    one, two = (torch.from_numpy(np.stack([edges(picture) for picture in row])) for row in (wanted, painted))
    precision, recall = (
        ((a * near(b)).sum((1, 2)) + 1e-6) / (a.sum((1, 2)) + 1e-6) for a, b in ((two, one), (one, two))
    )
    return float((2 * precision * recall / (precision + recall)).mean())


@dataclass(frozen=True)
class Transfer:
    """Flat pictures of unseen scenes, painted anew in the scenes' styles through SDEdit."""

    scenes: Sequence[Scene]
    content: Bytes

    @classmethod
    def of(cls, count: int, seed: int = 23) -> Transfer:
        scenes = painter.unseen_scenes(count, seed)
        return cls(scenes, paint_all([replace(scene, style="flat") for scene in scenes]))

    def sample(self, controlnet: ControlNetModel, strength: float, scale: float, depth: bool = False) -> Bytes:
        """uint8 [N, H, W, 3]; `scale` 0 is without control."""
        base = load_checkpoint()
        pipe = StableDiffusionControlNetImg2ImgPipeline(
            **base.components | {"controlnet": controlnet.eval()}, requires_safety_checker=False
        )
        pipe.set_progress_bar_config(disable=True)
        drawn = [draw(scene) for scene in self.scenes]
        maps = [torch.from_numpy(np.stack([getattr(d, name) for d in drawn])) for name in ("flat", "depth")]
        hint = hints(maps[0], maps[1] if depth else torch.zeros_like(maps[1]))
        noise = torch.Generator().manual_seed(3)
        parts = [
            pipe(
                [painter.caption(scene) for scene in self.scenes[i : i + BATCH]],
                image=to_tensor(self.content[i : i + BATCH]),
                control_image=hint[i : i + BATCH],
                strength=strength,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                controlnet_conditioning_scale=scale,
                generator=noise,
                output_type="np",
            ).images
            for i in range(0, len(self.scenes), BATCH)
        ]
        return as_bytes(np.concatenate(parts))

    def report(self, painted: Bytes) -> str:
        read: Verdict = verdict(Judge.load().read(painted), self.scenes)
        return f"edges {agreement(self.content, painted):.3f}, {read}"


@dataclass
class Trainer:
    """The ControlNet, its average, and the jobs the loop calls."""

    options: argparse.Namespace
    data: Examples

    def __post_init__(self) -> None:
        pipe = load_checkpoint(device=self.options.device)
        self.unet, self.text = pipe.unet.requires_grad_(False), pipe.text_encoder.requires_grad_(False)
        self.controlnet = new_controlnet(self.unet).train()
        for network in (self.unet, self.controlnet):
            network.to(memory_format=torch.channels_last)
            network.set_attn_processor(AttnProcessor())  # as in diffusion.py
        self.scheduler = new_scheduler()
        budget = Budget(self.options.steps, self.options.minutes)
        optimisers = muon_and_adam(self.controlnet, MUON_RATE, ADAM_RATE)
        self.kept = Kept.of(RUNS / "controlnet.pt", self.controlnet, optimisers, budget, decay=0.995)

    def loss(self) -> Tensor:
        latents, tokens, hint = (part.to(self.options.device) for part in self.data.draw(self.options.batch))
        with half_precision(self.options.device):
            context = self.text(tokens).last_hidden_state
            return diffusion_loss(Controlled(self.unet, self.controlnet, hint), latents, context, self.scheduler)

    def export(self, count: int = 16) -> None:
        """Write the averaged weights, and note how well sampled pictures follow their hints."""
        controlnet = new_controlnet(self.unet)
        controlnet.load_state_dict(self.kept.average.state)
        save_model(controlnet, CONTROLNET)
        draw_curve(self.kept.loop.losses, "controlnet: v-prediction MSE", CONTROLNET / "loss.png")
        transfer = Transfer.of(count)
        followed = transfer.report(transfer.sample(controlnet, strength=1.0, scale=SCALE))
        note(f"controlnet step {self.kept.loop.step}: {followed}")


def compare(controlnet: ControlNetModel, count: int) -> None:
    """Print figures for two strengths of SDEdit, with and without control; draw some of the pictures."""
    transfer = Transfer.of(count)
    rows = [transfer.content[:8]]
    for strength in (0.8, 1.0):
        for scale, depth in ((0.0, False), (SCALE, False), (SCALE, True)):
            painted = transfer.sample(controlnet, strength, scale, depth)
            rows.append(painted[:8])
            print(f"strength {strength}, control {scale}, depth {depth}: {transfer.report(painted)}", flush=True)
    sheet = [picture for i in SHOWN for picture in rows[i]]
    painter.contact_sheet(sheet, 8).quantize(256).save(CONTROLNET / "sheet.png", optimize=True)


def main() -> None:
    options = recipe_arguments("Train mini-controlnet.", 20_000, 40).parse_args()
    torch.manual_seed(options.seed)
    trainer = Trainer(options, examples(options))
    trainer.kept.resume()
    torch.manual_seed(options.seed + 1 + trainer.kept.loop.step)
    trainer.kept.run(trainer.loss, {EXPORT_SECONDS: trainer.export})
    trainer.export()
    compare(ControlNetModel.from_pretrained(CONTROLNET, dtype=torch.float32), 48)


if __name__ == "__main__":
    main()
