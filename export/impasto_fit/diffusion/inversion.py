"""A style as words: textual inversion in stages of the noise, with context prompts (DreamStyler, arXiv 2309.06933).

Nothing of the networks is trained, only what stands in a prompt for the style: n vectors for each of T stages. An
example with timestep t trains the vectors of its stage, t * T // 1000, alone; stage 0 is the finest detail. T = 1 is
textual inversion (arXiv 2208.01618).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from impasto_fit import pictures as looked_at
from impasto_fit.backbone import Said
from impasto_fit.budget import Budget
from impasto_fit.diffusion.backbone import Diffusion, encoders, tokenizers
from impasto_fit.diffusion.words import NewWords, at_stage, learned_embeds, names_of, prompt_tokens
from impasto_fit.draws import Draws
from impasto_fit.errors import CheckpointError, WordsError
from impasto_fit.examples import Examples, Seeing
from impasto_fit.file import dump
from impasto_fit.loop import Session, Task
from impasto_fit.opened import opened
from impasto_fit.pictures import Picture
from impasto_fit.progress import Progress
from impasto_fit.provenance import Provenance
from impasto_fit.recipe import Words


@dataclass(frozen=True)
class Inversion:
    """The checkpoint's folder, and the paper's constants: 500 steps are its budget. The vectors begin as `start`.

    Prompts say {context} and {style}. Without contexts `style_prompt` is trained in, as plain textual inversion is.
    """

    checkpoint: Path
    stages: int = 6
    vectors: int = 1
    rate: float = 2e-3
    batch: int = 8
    prompt: str = "A painting of {context}, in the style of {style}"
    style_prompt: str = "A painting in the style of {style}"
    start: str = "painting"
    seeing: Seeing = field(default_factory=Seeing)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not (self.prompt.count("{style}") == self.prompt.count("{context}") == 1):
            raise WordsError(f"prompt: got {self.prompt!r}; it must say {{context}} and {{style}}, each once")
        if self.style_prompt.count("{style}") != 1 or "{context}" in self.style_prompt:
            raise WordsError(f"style_prompt: got {self.style_prompt!r}; it must say {{style}} once, and no {{context}}")

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        looked_at.check(pictures)
        words.check(len(pictures))
        backbone = opened(self.checkpoint, self.device)
        if not isinstance(backbone, Diffusion):
            problem = "is a masked model, which has no timesteps to part into stages"
            raise CheckpointError(f"{self.checkpoint}: {problem}; fit a drop or a LoRA on it")
        source = Provenance.of(self, backbone.digest, pictures, words)
        session = Session(source.fit, self.seed, progress)
        lesson = Lesson.of(self, backbone, pictures, words)
        session.run("inversion", lesson.task(), budget)
        return lesson.file(words.style or "style", source.header(session.state.step))


@dataclass(frozen=True)
class Lesson:
    """One style's vectors in training. `tokens` are those of the examples' prompts, for each text encoder [N, L]."""

    recipe: Inversion
    backbone: Diffusion
    examples: Examples
    words: tuple[NewWords, ...]
    tokens: tuple[Tensor, ...]

    @classmethod
    def of(cls, recipe: Inversion, backbone: Diffusion, pictures: Sequence[Picture], words: Words) -> Lesson:
        contexts = words.contexts or ("",) * len(pictures)
        prompts = [recipe.prompt.replace("{context}", one) if one else recipe.style_prompt for one in contexts]
        examples = Examples.of(backbone, pictures, prompts, recipe.seeing, Draws.of(recipe.seed, "views", -1))
        both = list(zip(encoders(backbone.pipe), tokenizers(backbone.pipe), strict=True))
        tokens = tuple(_tokens(tokenizer, examples.prompts, recipe.vectors) for _, tokenizer in both)
        return cls(recipe, backbone, examples, tuple(_taught(*pair, recipe) for pair in both), tokens)

    def stage(self, t: Tensor) -> Tensor:
        """The stage of a training timestep: 0 (finest) to stages - 1 (noisiest)."""
        return t * self.recipe.stages // self.backbone.timesteps

    def task(self) -> Task:
        weights: dict[str, nn.Parameter] = {str(i): one.rows for i, one in enumerate(self.words)}
        optimiser = torch.optim.AdamW(weights.values(), lr=self.recipe.rate, weight_decay=0.0)
        return Task(weights, optimiser, self.loss, self.preview)

    def loss(self, draws: Draws) -> Tensor:
        which = self.examples.draw(self.recipe.batch, draws)
        t = torch.randint(self.backbone.timesteps, (len(which),), generator=draws.torch)
        codes = self.examples.codes[which]
        noise = torch.randn(codes.shape, generator=draws.torch).to(codes.device)
        return self.errors(which, t.to(codes.device), noise).mean()

    def errors(self, which: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Of each example [N], read with the vectors of its own stage."""
        return self.backbone.errors(self.examples.codes[which], self.said(which, self.stage(t)[:, None]), t, noise)

    def said(self, which: Tensor, stage: Tensor | int) -> Said:
        return self.backbone.read([at_stage(tokens[which], stage, self.recipe.vectors) for tokens in self.tokens])

    def preview(self) -> Picture:
        """By the middle stage's vectors alone, which is quick."""
        first = torch.zeros(1, dtype=torch.long)
        return self.backbone.paint(self.said(first, self.recipe.stages // 2), self.recipe.seed)[0]

    def file(self, name: str, header: Mapping[str, str]) -> bytes:
        """DreamStyler's layout, or of a lone stage diffusers'; the templates stand in the header."""
        recipe, called = self.recipe, names_of(len(self.words), name)
        tensors: dict[str, Tensor] = {}
        for i, one in enumerate(self.words):
            tensors |= learned_embeds(called[i], one.rows, recipe.stages, recipe.vectors)
        told = {"prompt": recipe.prompt, "style_prompt": recipe.style_prompt}
        return dump(tensors, {**told, **header})


def _tokens(tokenizer: Any, prompts: Sequence[str], vectors: int) -> Tensor:
    length = tokenizer.model_max_length
    known = {prompt: prompt_tokens(tokenizer, prompt, vectors, length) for prompt in dict.fromkeys(prompts)}
    return torch.tensor([known[prompt] for prompt in prompts])


@torch.no_grad()
def _taught(encoder: Any, tokenizer: Any, recipe: Inversion) -> NewWords:
    """The encoder reads new words from now on; they begin as the mean of the start's tokens."""
    table = encoder.get_input_embeddings()
    ids = tokenizer(recipe.start, add_special_tokens=False, return_tensors="pt").input_ids.to(table.weight.device)
    rows = table(ids)[0].mean(0).repeat(recipe.stages * recipe.vectors, 1)
    words = NewWords(table, rows)
    encoder.set_input_embeddings(words)
    return words
