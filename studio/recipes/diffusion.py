"""Train the text encoder and the UNet together on the autoencoder's latents, v-prediction."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from studio import painter
from studio.nets.diffusion import encode, load_checkpoint, new_scheduler, new_text_encoder, new_unet, save_checkpoint
from impasto_fit.nets.precision import half_precision
from studio.nets.tokenizer import TOKENS, learn_tokenizer, tokenise
from studio.painter import ALL_STYLES, any_scenes
from studio.pictures import paint_all
from studio.places import CHECKPOINT, DOCS, RUNS
from studio.reading.quality import assess
from studio.recipes.captions import EMPTY, VARIANTS, training_caption
from studio.training import workers
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.log import note
from studio.training.loop import Budget, one_cycle
from studio.training.optimisers import muon_and_adam

PICTURES = 16_000
MUON_RATE = 0.01
ADAM_RATE = 1e-3
EXPORT_SECONDS = 720.0


@dataclass(frozen=True)
class Examples:
    """Latents [N, 8, 16, 16] with `VARIANTS` tokenised captions each [N, V, 32]."""

    latents: Tensor
    tokens: Tensor
    empty: Tensor

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        which = torch.randint(len(self.latents), (n,))
        tokens = self.tokens[which, torch.randint(VARIANTS, (n,))]
        tokens[torch.rand(n) < EMPTY] = self.empty
        return self.latents[which].float(), tokens


def examples(vae: AutoencoderKL, tokenizer: CLIPTokenizer, seed: int) -> Examples:
    """This worker's share, painted and encoded once; kept under runs/ for the next start."""
    scenes = painter.training_scenes(PICTURES, seed)[workers.rank() :: workers.count()]
    path = RUNS / f"latents-{workers.rank()}-of-{workers.count()}.pt"
    if not path.exists():
        torch.save(encode(vae, paint_all(scenes)), path)
    latents: Tensor = torch.load(path, weights_only=True)
    rng = np.random.default_rng(seed + workers.rank())
    captions = [training_caption(scene, rng) for scene in scenes for _ in range(VARIANTS)]
    tokens = tokenise(tokenizer, captions).view(len(scenes), VARIANTS, TOKENS)
    return Examples(latents, tokens, tokenise(tokenizer, [""])[0])


def diffusion_loss(unet: nn.Module, latents: Tensor, context: Tensor, scheduler: DDIMScheduler) -> Tensor:
    """Mean squared error of v = sqrt(a) noise - sqrt(1 - a) latents, unweighted, t twice as likely where twice as high.

    The noisy steps are where the caption decides what is drawn, and shapes are learnt last: min-SNR weights would all
    but switch those steps off, and with t uniform colours were right long before objects.
    """
    noise = torch.randn_like(latents)
    t = (torch.rand(len(latents), device=latents.device).sqrt() * scheduler.config.num_train_timesteps).long()
    noisy = scheduler.add_noise(latents, noise, t)
    return F.mse_loss(unet(noisy, t, context).sample, scheduler.get_velocity(latents, noise, t))


def teach_words(text: CLIPTextModel, tokenizer: CLIPTokenizer, steps: int, seed: int) -> float:
    """Warm-start: the text encoder names object, colour, background and style before it meets a picture.

    Parts that a caption leaves out are not asked for. Returns the last loss.
    """
    names = (painter.OBJECTS, painter.COLOURS, tuple(painter.BACKGROUNDS), painter.STYLES)
    fields = ("object", "colour", "background", "style")
    scenes = painter.training_scenes(64 * steps, seed)
    rng = np.random.default_rng(seed)
    captions = [training_caption(scene, rng) for scene in scenes]
    tokens = tokenise(tokenizer, captions)
    said = {"background": painter.BACKGROUNDS, "style": painter.STYLE_DESCRIPTORS}
    targets = torch.tensor(
        [
            [
                row.index(getattr(s, f)) if f not in said or said[f][getattr(s, f)] in caption else -100
                for f, row in zip(fields, names, strict=True)
            ]
            for s, caption in zip(scenes, captions, strict=True)
        ]
    )
    heads = nn.ModuleList(nn.Linear(text.config.hidden_size, len(row)) for row in names)
    optimiser = torch.optim.AdamW([*text.parameters(), *heads.parameters()], lr=2e-3, weight_decay=0.0)
    loss = torch.zeros(())
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * one_cycle(step / steps, step, warmup=20)
        part = slice(64 * step, 64 * step + 64)
        pooled = text(tokens[part]).pooler_output
        losses = [F.cross_entropy(head(pooled), targets[part, i]) for i, head in enumerate(heads)]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss)


@dataclass
class Trainer:
    """The two networks, their averages, and the jobs the loop calls."""

    options: argparse.Namespace
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    text: CLIPTextModel
    unet: UNet2DConditionModel

    def __post_init__(self) -> None:
        device = self.options.device
        self.both = nn.ModuleDict({"text": self.text, "unet": self.unet}).to(device).train()
        self.unet.to(memory_format=torch.channels_last)
        self.unet.set_attn_processor(AttnProcessor())  # torch's fused attention takes 1.7 times as long on a CPU
        self.scheduler = new_scheduler()
        budget = Budget(self.options.steps, self.options.minutes)
        optimisers = muon_and_adam(self.both, MUON_RATE, ADAM_RATE)
        self.kept = Kept.of(RUNS / "diffusion.pt", self.both, optimisers, budget, decay=0.998)
        self.data = examples(self.vae, self.tokenizer, self.options.seed + 31)

    def loss(self) -> Tensor:
        latents, tokens = (part.to(self.options.device) for part in self.data.draw(self.options.batch))
        with half_precision(self.options.device):
            return diffusion_loss(self.unet, latents, self.text(tokens).last_hidden_state, self.scheduler)

    def export(self, count: int = 16) -> None:
        """Write the averaged weights as studio/mini-diffusion, sample from them, and note what the judge reads."""
        if workers.rank() > 0:
            return
        averaged, loop = self.kept.average.state, self.kept.loop
        text, unet = new_text_encoder(self.options.size, self.tokenizer), new_unet(self.options.size)
        for name, module in (("text", text), ("unet", unet)):
            module.load_state_dict(
                {key.removeprefix(f"{name}."): v for key, v in averaged.items() if key.startswith(f"{name}.")}
            )
        newest = load_checkpoint(CHECKPOINT).vae  # its decoder may have been refined meanwhile
        save_checkpoint(CHECKPOINT, newest, unet.eval(), text.eval(), self.tokenizer)
        draw_curve(loop.losses, "diffusion: v-prediction MSE", DOCS / "diffusion-loss.png")
        figures = assess(load_checkpoint(device=self.options.device), count, DOCS / "diffusion.png")
        note(f"step {loop.step}, {loop.seconds / 60:.1f} min: {figures}")


def every_caption() -> list[str]:
    """Captions over the painter's whole vocabulary: held-out words get tokens of their own, though never a picture."""
    rng = np.random.default_rng(0)
    return [painter.caption_variant(scene, rng) for scene in any_scenes(400 * len(ALL_STYLES), seed=0)]


def main() -> None:
    workers.join()
    options = recipe_arguments("Train the text encoder and UNet of mini-diffusion.", 20_000, 60).parse_args()
    torch.manual_seed(options.seed)
    vae = load_checkpoint(CHECKPOINT, options.device).vae.eval()
    if options.init:
        start = load_checkpoint(options.init)
        trainer = Trainer(options, vae, start.tokenizer, start.text_encoder, start.unet)
    else:
        tokenizer = learn_tokenizer(every_caption())
        text = new_text_encoder(options.size, tokenizer)
        trainer = Trainer(options, vae, tokenizer, text, new_unet(options.size))
    if not trainer.kept.resume() and not options.init and workers.rank() == 0:
        print(f"words: loss {teach_words(trainer.text, trainer.tokenizer, 300, options.seed + 41):.3f}", flush=True)
    workers.share(trainer.both)
    torch.manual_seed(options.seed + 1 + workers.rank() + 1000 * trainer.kept.loop.step)
    trainer.kept.run(trainer.loss, {EXPORT_SECONDS: trainer.export})
    trainer.export(48)


if __name__ == "__main__":
    main()
