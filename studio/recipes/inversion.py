"""Teach mini-diffusion a style in words that it doesn't have: textual inversion in stages of the noise (DreamStyler).

Nothing of the networks is trained, only what stands in a prompt for the style's name: n vectors for each of T stages.
An example with timestep t trains the vectors of its stage, t * T // 1000, alone; stage 0 is the finest detail. What
a style is learnt from is what its adapter is learnt from (styles.py): one picture, and transfers of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from studio import painter
from studio.nets.diffusion import encode, load_checkpoint, new_scheduler
from impasto_fit.nets.precision import half_precision
from studio.nets.tokenizer import TOKENS, tokenise
from studio.painter import Bytes, Scene
from studio.pictures import paint_all, to_images
from studio.places import CHECKPOINT, HERE
from studio.reading.judge import Judge, Verdict, verdict
from studio.reading.quality import BATCH, GUIDANCE, STEPS
from studio.recipes.styles import ADAPTERS, STYLE_VIEWS, STYLE_ZOOM, TRANSFERS, Adapter, transfer, views, wanted
from studio.training.curve import draw_curve
from studio.training.loop import Budget, Loop
from studio.training.optimisers import Optimisers

EMBEDDINGS = HERE / "embeddings"
PROMPT = "{context} in {style} style"
STYLE_PROMPT = "a painting in {style} style"
LEARNING_RATE = 4e-2
TIMESTEPS = 1000
CROSSHATCH = Adapter("crosshatch", (Scene("fish", "red", "plain", "crosshatch", 7),), blur=4, strength=1.25)
STYLES = {adapter.name: adapter for adapter in (*ADAPTERS, CROSSHATCH) if adapter.is_style}


@dataclass(frozen=True)
class Plan:
    """How a style is put into words: the stages, the vectors in each, and whether prompts name the content."""

    stages: int = 6
    vectors: int = 16
    context: bool = True

    def stage(self, t: Tensor) -> Tensor:
        """The stage of a training timestep: 0 (finest) to stages - 1 (noisiest)."""
        return t * self.stages // TIMESTEPS

    def prompt(self, context: str) -> str:
        """What is trained on; `{style}` is left in it."""
        return PROMPT.replace("{context}", context) if self.context else STYLE_PROMPT


@dataclass(frozen=True)
class Guidance:
    """DreamStyler's three scales (Eq. 11), as they weigh what the UNet predicts; without the last two, CFG."""

    scale: float = GUIDANCE
    style: float = 0.0
    content: float = 0.0

    def weights(self) -> tuple[float, float, float, float]:
        """Of no prompt, of the whole, of the context alone, of the style alone."""
        both = self.scale + self.style + self.content
        return 1 - both, both, self.content - self.style, self.style - self.content


class Words(nn.Module):
    """A text encoder's table of embeddings with rows to be learnt beside it: token -1 - i stands for row i."""

    def __init__(self, table: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.table = table.requires_grad_(False)
        self.rows = nn.Parameter(rows)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] to float [..., D]."""
        learnt = self.rows[(-1 - tokens).clamp(min=0)]
        return torch.where((tokens < 0)[..., None], learnt, self.table(tokens.clamp(min=0)))


def prompt_tokens(tokenizer: CLIPTokenizer, prompt: str, vectors: int) -> list[int]:
    """32 tokens; -1 ... -vectors, the rows of stage 0, stand where the prompt says {style}."""
    before, after = (tokenizer(part, add_special_tokens=False).input_ids for part in prompt.split("{style}"))
    tokens = [tokenizer.bos_token_id, *before, *range(-1, -1 - vectors, -1), *after]
    return [*tokens[: TOKENS - 1], *[tokenizer.eos_token_id] * (TOKENS - len(tokens[: TOKENS - 1]))]


def at_stage(tokens: Tensor, stage: Tensor | int, vectors: int) -> Tensor:
    """The same prompts with another stage's rows; `stage` is one for all, or int64 [N, 1]."""
    return torch.where(tokens < 0, tokens - vectors * stage, tokens)


def lessons(adapter: Adapter, rng: np.random.Generator) -> tuple[list[str], Bytes]:
    """Contexts and pictures: views of the one given, and its transfers."""
    given = painter.paint(adapter.scenes[0]).image
    others = painter.training_scenes(TRANSFERS, int(rng.integers(2**31)))
    flat = paint_all([replace(scene, style="flat") for scene in others])
    transfers = np.stack([transfer(content, given, adapter, rng) for content in flat])
    contexts = [painter.context(adapter.scenes[0])] * STYLE_VIEWS + [painter.context(scene) for scene in others]
    return contexts, np.concatenate([views(given, rng, STYLE_VIEWS, STYLE_ZOOM), transfers])


@dataclass
class Lesson:
    """One style's vectors in training on one frozen pipeline; they start as the base styles' words."""

    adapter: Adapter
    plan: Plan
    pipe: StableDiffusionPipeline
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.scheduler = new_scheduler()
        self.unet, self.text = self.pipe.unet.requires_grad_(False), self.pipe.text_encoder.requires_grad_(False)
        self.unet.set_attn_processor(AttnProcessor())  # as in diffusion.py
        contexts, pictures = lessons(self.adapter, self.rng)
        self.latents = encode(self.pipe.vae, pictures).float()
        self.tokens = self.tokenise([self.plan.prompt(context) for context in contexts])
        table = self.text.embeddings.token_embedding
        count = self.plan.stages * self.plan.vectors
        self.words = Words(table, table.weight.mean(0).repeat(count, 1))
        self.text.embeddings.token_embedding = self.words

    def tokenise(self, prompts: Sequence[str]) -> Tensor:
        """int64 [N, 32]."""
        return torch.tensor([prompt_tokens(self.pipe.tokenizer, prompt, self.plan.vectors) for prompt in prompts])

    def loss(self, n: int) -> Tensor:
        which = torch.from_numpy(self.rng.integers(0, len(self.latents), n))
        t = torch.randint(TIMESTEPS, (n,))
        return self.errors(which, t, torch.randn(n, *self.latents.shape[1:])).mean()

    def errors(self, which: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of v, float [N]."""
        tokens = at_stage(self.tokens[which], self.plan.stage(t)[:, None], self.plan.vectors)
        context = self.text(tokens).last_hidden_state
        noisy = self.scheduler.add_noise(self.latents[which], noise, t)
        velocity = self.scheduler.get_velocity(self.latents[which], noise, t)
        return F.mse_loss(self.unet(noisy, t, context).sample, velocity, reduction="none").mean((1, 2, 3))

    @torch.no_grad()
    def start(self, n: int = 96) -> list[str]:
        """Begin each stage with the base style's name that fits it best; returns those names, stage 0 first."""
        which = torch.from_numpy(self.rng.integers(0, len(self.latents), n))
        t, noise = torch.arange(n) * TIMESTEPS // n, torch.randn(n, *self.latents.shape[1:])
        stage = self.plan.stage(t)
        names = [painter.STYLE_DESCRIPTORS[style] for style in painter.STYLES]
        found, costs = [], []
        for name in names:
            tokens = self.pipe.tokenizer(name, add_special_tokens=False, return_tensors="pt").input_ids
            found.append(self.words.table(tokens)[0].mean(0))
            self.words.rows.copy_(found[-1].expand_as(self.words.rows))
            with half_precision(self.pipe.device.type):
                errors = self.errors(which, t, noise).float()
            costs.append(torch.stack([errors[stage == k].mean() for k in range(self.plan.stages)]))
        best = torch.stack(costs).argmin(0)
        self.words.rows.copy_(torch.stack(found)[best].repeat_interleave(self.plan.vectors, 0))
        return [names[i] for i in best]

    @torch.no_grad()
    def sample(self, contexts: Sequence[str], seed: int, guidance: Guidance = Guidance()) -> Bytes:
        """uint8 [N, 128, 128, 3]; every step is guided by its own stage's prompts."""
        noise = torch.Generator().manual_seed(seed)
        return np.concatenate(
            [self._sample(contexts[i : i + BATCH], noise, guidance) for i in range(0, len(contexts), BATCH)]
        )

    def _sample(self, contexts: Sequence[str], noise: torch.Generator, guidance: Guidance) -> Bytes:
        scheduler = new_scheduler()
        scheduler.set_timesteps(STEPS)
        latents = torch.randn(len(contexts), *self.latents.shape[1:], generator=noise)
        weights = torch.tensor([weight for weight in guidance.weights() if weight])
        with half_precision(self.pipe.device.type):
            states = self._states(contexts, guidance)
            for t in scheduler.timesteps:
                lanes = self.unet(latents.repeat(len(weights), 1, 1, 1), t, states[int(self.plan.stage(t))]).sample
                velocity = torch.einsum("w,wn...->n...", weights, lanes.float().unflatten(0, (len(weights), -1)))
                latents = scheduler.step(velocity, t, latents).prev_sample
        return to_images(self.pipe.vae.decode(latents).sample)

    def _states(self, contexts: Sequence[str], guidance: Guidance) -> list[Tensor]:
        """One for each stage: what the text encoder makes of the prompts that have a weight, one after another."""
        whole = self.tokenise([PROMPT.replace("{context}", context) for context in contexts])
        empty, context = (tokenise(self.pipe.tokenizer, list(row)) for row in ([""] * len(contexts), contexts))
        lanes = (empty, whole, context, self.tokenise([STYLE_PROMPT] * len(contexts)))
        tokens = torch.cat([lane for lane, weight in zip(lanes, guidance.weights(), strict=True) if weight])
        stages = range(self.plan.stages)
        return [self.text(at_stage(tokens, stage, self.plan.vectors)).last_hidden_state for stage in stages]


def train(lesson: Lesson, steps: int, batch: int, rate: float) -> list[float]:
    """The loss of every step."""
    optimisers = Optimisers(torch.optim.Adam([lesson.words.rows], lr=rate, betas=(0.9, 0.99)))

    def loss() -> Tensor:
        with half_precision(lesson.pipe.device.type):
            return lesson.loss(batch)

    loop = Loop(lesson.adapter.name, Budget(steps), optimisers, warmup=20)
    loop.run(loss)
    return loop.losses


def learned_embeds(name: str, rows: Tensor, plan: Plan) -> dict[str, Tensor]:
    """DreamStyler's keys, NAME-T0 to NAME-T5 (a lone stage: NAME): float32 [D], or [n, D] for n vectors."""
    stages = rows.detach().view(plan.stages, plan.vectors, -1)
    keys = [f"{name}-T{k}" for k in range(plan.stages)] if plan.stages > 1 else [name]
    return {key: (stage[0] if plan.vectors == 1 else stage).clone() for key, stage in zip(keys, stages, strict=True)}


def save(lesson: Lesson, folder: Path) -> None:
    """The vectors, with the templates that they were trained in as metadata; beside them the one picture."""
    folder.mkdir(parents=True, exist_ok=True)
    embeds = learned_embeds(lesson.adapter.name, lesson.words.rows, lesson.plan)
    metadata = {"prompt": PROMPT, "style_prompt": STYLE_PROMPT}
    save_file(embeds, folder / "learned_embeds.safetensors", metadata=metadata)
    Image.fromarray(painter.paint(lesson.adapter.scenes[0]).image).save(folder / "picture.png", optimize=True)


def assess(lesson: Lesson, n: int, sheet: Path | None = None) -> tuple[Verdict, Bytes]:
    """What the judge reads in unseen scenes, asked for in the learnt words."""
    scenes = wanted(lesson.adapter, n, seed=17)
    pictures = lesson.sample([painter.context(scene) for scene in scenes], seed=3)
    if sheet:
        painter.contact_sheet(list(pictures[:8]), 8).quantize(128, dither=Image.Dither.NONE).save(sheet, optimize=True)
    return verdict(Judge.load().read(pictures), scenes), pictures


def learn(adapter: Adapter, plan: Plan, options: argparse.Namespace) -> tuple[Lesson, list[float]]:
    torch.manual_seed(options.seed)
    lesson = Lesson(adapter, plan, load_checkpoint(CHECKPOINT, options.device), np.random.default_rng(options.seed))
    print(f"{adapter.name} {plan}: starts as {lesson.start()}", flush=True)
    return lesson, train(lesson, options.steps, options.batch, options.rate)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn styles as embeddings.")
    parser.add_argument("--only", nargs="*", choices=list(STYLES), default=list(STYLES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--stages", type=int, default=6)
    parser.add_argument("--vectors", type=int, default=16)
    parser.add_argument("--no-context", action="store_true", help="train on the style prompt alone, for the ablation")
    parser.add_argument("--judged", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=EMBEDDINGS)
    options = parser.parse_args()
    plan = Plan(options.stages, options.vectors, not options.no_context)
    for name in options.only:
        lesson, losses = learn(STYLES[name], plan, options)
        save(lesson, options.out / name)
        draw_curve(losses, f"{name}: v-prediction MSE", options.out / name / "loss.png")
        read, _ = assess(lesson, options.judged, options.out / name / "sheet.png")
        print(f"{name} {plan}: {read}", flush=True)


if __name__ == "__main__":
    main()
