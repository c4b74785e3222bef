"""StyleDrop: bottleneck adapters of a style from one picture (arXiv 2306.00983), for one stage or for two.

Its rounds with feedback are in rounds.py: what is picked of the first round's samples is given to the second as more
pictures, with their contexts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn

from impasto_fit import pictures as looked_at
from impasto_fit.backbone import Said
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import CheckpointError
from impasto_fit.examples import prompts_of
from impasto_fit.file import dump
from impasto_fit.loop import OneCycle, Session, Task
from impasto_fit.masked.backbone import Fine, Masked, pixels_a_token, tokens_of
from impasto_fit.masked.bottleneck import ENTRY, Bottleneck, Form, Gelu, attached
from impasto_fit.masked.lanes import FINE, Guidance, Pair, paint
from impasto_fit.masked.loss import fine_loss
from impasto_fit.nets.precision import half_precision
from impasto_fit.opened import opened
from impasto_fit.pictures import Picture
from impasto_fit.progress import Progress
from impasto_fit.provenance import Provenance
from impasto_fit.recipe import Words
from impasto_fit.views import shifted, squared

FINE_ENTRY = "bottleneck_upscaler"  # of a file that holds both halves: the form of the second
GUESSED, MOST_GUESSED = 0.7, 0.6  # pictures that have guesses, and the most of a picture's tokens that are
QUICK = 8  # steps of a preview


@dataclass(frozen=True)
class Half:
    """Table S3 of one stage: `rank` is the paper's H."""

    rank: int
    shared: bool
    rate: float
    batch: int = 8


@dataclass(frozen=True)
class Drop:
    """The checkpoint's folder, and table S3's constants of round 1; 1000 steps a stage are its budget.

    A picture is seen shifted by up to `reach` tokens, and mirrored. `text` and `style` are λB and λA of previews.
    """

    checkpoint: Path
    base: Half = Half(4, True, 3e-5)
    fine: Half = Half(32, False, 1e-4)
    gelu: Gelu = "tanh"
    prompt: str = "{context} in {style} style"
    bare_prompt: str = "a picture in {style} style"
    reach: int = 2
    style: float = 2.0
    text: float = 5.0
    seed: int = 0
    device: str = "cpu"

    def second(self, base: Half = Half(32, False, 3e-5)) -> Drop:
        """The same for round 2, whose base has an adapter of its own at every site."""
        return replace(self, base=base)

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        """A file of one half, as the studio's; of both where the checkpoint has two stages (`halves` parts them)."""
        looked_at.check(pictures)
        prompts = prompts_of(words, len(pictures), self.prompt, self.bare_prompt)
        backbone = masked_only(self.checkpoint, self.device)
        source = Provenance.of(self, backbone.digest, pictures, words)
        session = Session(source.fit, self.seed, progress)
        template = self.prompt.replace("{style}", words.style)
        lesson = Lesson.of(self, backbone, pictures, prompts)
        base = self._train_base(lesson, template, session, budget)
        fine = None
        if backbone.fine is not None:
            fine = self._train_fine(lesson, backbone.fine, base, template, session, budget)
        return file_of(Pair(base, fine), source.header(session.state.step))

    def _train_base(self, lesson: Lesson, template: str, session: Session, budget: Budget) -> Bottleneck:
        form = replace(Form.of(lesson.backbone.pipe.transformer, self.base.shared, template), gelu=self.gelu)
        draws = Draws.of(self.seed, "base", -1).torch
        adapter = Bottleneck(form, form.widths(lesson.backbone.module), self.base.rank, draws)
        task = _task(
            adapter, self.base.rate, lambda step: lesson.loss(adapter, step), lambda: lesson.paint(Pair(adapter))
        )
        session.run("base", task, budget)
        return adapter.requires_grad_(False)

    def _train_fine(
        self, lesson: Lesson, fine: Fine, base: Bottleneck, template: str, session: Session, budget: Budget
    ) -> Bottleneck:
        """The second stage hears what the base draws with its own half on."""
        form = replace(Form.of_upscaler(fine.upscaler, template), gelu=self.gelu, shared=self.fine.shared)
        draws = Draws.of(self.seed, "upscale", -1).torch
        adapter = Bottleneck(form, fine.upscaler.config.hidden_size, self.fine.rank, draws)
        tokens = tokens_of(fine.vq, lesson.views)

        def loss(step: Draws) -> Tensor:
            return lesson.fine_loss(fine, tokens, Pair(base, adapter), step)

        session.run("upscale", _task(adapter, self.fine.rate, loss, lambda: lesson.paint(Pair(base, adapter))), budget)
        return adapter.requires_grad_(False)


@dataclass(frozen=True)
class Lesson:
    """One style's examples: `views` as the last stage sees them, `codes` [N, h, w] as the first does, texts."""

    recipe: Drop
    backbone: Masked
    views: list[Picture]
    codes: Tensor
    prompts: tuple[str, ...]
    texts: Said

    @classmethod
    def of(cls, recipe: Drop, backbone: Masked, pictures: Sequence[Picture], prompts: Sequence[str]) -> Lesson:
        scale = backbone.fine.upscaler.config.scale if backbone.fine else 1
        step = pixels_a_token(backbone.pipe.vqvae) * scale
        seen = [shifted(squared(picture, backbone.side * scale), step, recipe.reach) for picture in pictures]
        views = [view for part in seen for view in part]
        codes = backbone.codes([squared(view, backbone.side) for view in views])
        said = tuple(prompt for prompt, part in zip(prompts, seen, strict=True) for _ in part)
        return cls(recipe, backbone, views, codes, said, backbone.said(said))

    def loss(self, adapter: Bottleneck, draws: Draws) -> Tensor:
        which = torch.randint(len(self.codes), (self.recipe.base.batch,), generator=draws.torch)
        with attached(self.backbone.module, adapter):
            return self.backbone.loss(self.codes[which], self.texts.rows(which), draws)

    def fine_loss(self, fine: Fine, tokens: Tensor, pair: Pair, draws: Draws) -> Tensor:
        """Of the second half, over what the base with its own draws."""
        assert pair.fine is not None
        which = torch.randint(len(tokens), (self.recipe.fine.batch,), generator=draws.torch)
        texts = self.texts.rows(which)
        with half_precision(self.backbone.device.type):
            with torch.no_grad(), attached(self.backbone.module, pair.base):
                low = guessed(self.backbone, self.codes[which], texts, draws.torch)
            with attached(fine.upscaler, pair.fine):
                return fine_loss(fine.upscaler, tokens[which], low, texts.states, draws=draws.torch)

    def paint(self, pair: Pair) -> Picture:
        """The first picture's prompt, quickly."""
        recipe = self.recipe
        guidance = Guidance(recipe.style, recipe.text, QUICK)
        return paint(self.backbone, pair, self.prompts[:1], recipe.seed, guidance, replace(FINE, steps=QUICK))[0]


def guessed(backbone: Masked, tokens: Tensor, said: Said, draws: torch.Generator) -> Tensor:
    """Tokens [n, h, w], in most pictures some of which the base has drawn, all at once, from the others and a text.

    What a second stage has to expect: the base's faults.
    """
    n = len(tokens)
    share = MOST_GUESSED * torch.rand(n, 1, 1, generator=draws) * (torch.rand(n, 1, 1, generator=draws) < GUESSED)
    unknown = (torch.rand(tokens.shape, generator=draws) < share).to(tokens.device)
    logits = backbone.logits(tokens.masked_fill(unknown, backbone.mask), said).float()
    noise = torch.rand(logits.shape, generator=draws).clamp_(1e-20, 1 - 1e-7).log_().neg_().log_().neg_()
    return torch.where(unknown, (logits + noise.to(logits.device)).argmax(1), tokens)


def masked_only(folder: Path, device: str) -> Masked:
    """
    Raises:
        CheckpointError: it isn't a masked model.
    """
    backbone = opened(folder, device)
    if not isinstance(backbone, Masked):
        raise CheckpointError(f"{folder}: is no masked model, which a drop is for; fit a LoRA or an inversion on it")
    return backbone


def _task(adapter: Bottleneck, rate: float, loss: Callable[[Draws], Tensor], preview: Callable[[], Picture]) -> Task:
    weights: dict[str, nn.Parameter] = dict(adapter.named_parameters())
    return Task(weights, torch.optim.Adam(weights.values(), lr=rate), loss, preview, OneCycle(), clip=1.0)


def file_of(pair: Pair, header: dict[str, str]) -> bytes:
    """Both halves in one file: names of the two stages' sites differ."""
    entries, tensors = {ENTRY: pair.base.form.dump()}, pair.base.tensors()
    if pair.fine is not None:
        entries[FINE_ENTRY] = pair.fine.form.dump()
        tensors |= {f"{FINE_ENTRY}.{name}": tensor for name, tensor in pair.fine.tensors().items()}
    return dump(tensors, {**entries, **header})


def halves(data: bytes) -> tuple[bytes, bytes | None]:
    """The two files that the importer reads, each with the whole header; no second of a model of one stage."""
    header, tensors = _header(data), load(data)
    entry, prefix = header.pop(FINE_ENTRY, None), f"{FINE_ENTRY}."
    base = dump({name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}, header)
    if entry is None:
        return base, None
    second = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return base, dump(second, {**header, ENTRY: entry})


def is_pair(data: bytes) -> bool:
    """Whether a file holds both halves."""
    return FINE_ENTRY in _header(data)


def pair_of(data: bytes) -> Pair:
    """The adapters of a file that `Drop.fit` gave, in float32."""
    base, fine = halves(data)
    return Pair(_adapter(base), None if fine is None else _adapter(fine))


def _adapter(data: bytes) -> Bottleneck:
    return Bottleneck.of(Form.parse(_header(data)[ENTRY]), load(data))


def _header(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    found: dict[str, Any] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found
