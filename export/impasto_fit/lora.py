"""A LoRA of a style or of an object, for a diffusion or a masked model, in the layout of diffusers and PEFT.

With a `prior`, DreamBooth's (arXiv 2208.12242, eq. 2): the loss of pictures that the frozen checkpoint has painted of
`prior_prompt` is added, so that not all of a class becomes the one object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from impasto_fit import pictures as looked_at
from impasto_fit.backbone import Backbone
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import WordsError
from impasto_fit.examples import Examples, Seeing, prompts_of
from impasto_fit.file import dump
from impasto_fit.loop import OneCycle, Session, Task
from impasto_fit.opened import opened
from impasto_fit.pictures import Picture
from impasto_fit.progress import Progress
from impasto_fit.provenance import Provenance
from impasto_fit.recipe import Words

METADATA = "lora_adapter_metadata"  # where diffusers keeps PEFT's config
PAINTED_AT_ONCE = 4
TARGETS = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    "transformer": ("to_q", "to_k", "to_v", "to_out.0"),
}


@dataclass(frozen=True)
class Lora:
    """The checkpoint's folder, and constants. `empty` is the share of prompts that are left out, which the null lane of
    the guidance needs; `prior` weighs DreamBooth's loss of `prior_pictures` pictures."""

    checkpoint: Path
    rank: int = 16
    alpha: float = 16.0
    rate: float = 1e-4
    batch: int = 4
    prompt: str = "{context}, in the style of {style}"
    bare_prompt: str = "a painting in the style of {style}"
    empty: float = 0.1
    seeing: Seeing = field(default_factory=Seeing)
    prior: float = 0.0
    prior_prompt: str = ""
    prior_pictures: int = 32
    seed: int = 0
    device: str = "cpu"

    @classmethod
    def of_content(cls, checkpoint: Path, prior_prompt: str, **constants: Any) -> Lora:
        """DreamBooth's: an object, which is never cut, called {style} in prompts; `prior_prompt` names its class."""
        usual = {"prompt": "{context}", "bare_prompt": "a photo of {style}", "empty": 0.0, "prior": 1.0}
        return cls(checkpoint, prior_prompt=prior_prompt, **{**usual, "seeing": Seeing(zoom=(0.85, 1.0)), **constants})

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        looked_at.check(pictures)
        prompts = prompts_of(words, len(pictures), self.prompt, self.bare_prompt)
        if self.prior and not self.prior_prompt:
            raise WordsError('prior_prompt: got none; say what kind of thing it is, such as "a photo of a dog"')
        backbone = opened(self.checkpoint, self.device)
        source = Provenance.of(self, backbone.digest, pictures, words)
        session = Session(source.fit, self.seed, progress)
        lesson = Lesson.of(self, backbone, pictures, prompts, session)
        session.run("lora", lesson.task(), budget)
        return lesson.file(source.header(session.state.step))


@dataclass(frozen=True)
class Lesson:
    """One LoRA in training. `texts` are those of the examples' prompts, as `which` numbers them; the last is empty."""

    recipe: Lora
    backbone: Backbone
    model: PeftModel
    examples: Examples
    prior: Tensor | None

    @classmethod
    def of(
        cls, recipe: Lora, backbone: Backbone, pictures: Sequence[Picture], prompts: Sequence[str], session: Session
    ) -> Lesson:
        draws = Draws.of(recipe.seed, "views", -1)
        examples = Examples.of(backbone, pictures, prompts, recipe.seeing, draws)
        prior = session.once("prior", lambda: {"codes": painted(recipe, backbone)})["codes"] if recipe.prior else None
        return cls(recipe, backbone, adapted(recipe, backbone), examples, prior)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def task(self) -> Task:
        optimiser = torch.optim.AdamW(self.weights.values(), lr=self.recipe.rate, weight_decay=0.0)
        return Task(self.weights, optimiser, self.loss, self.preview, OneCycle(), clip=1.0)

    def loss(self, draws: Draws) -> Tensor:
        """Eq. 2: of the pictures, and of the prior where there is one."""
        recipe, backbone = self.recipe, self.backbone
        which = self.examples.draw(recipe.batch, draws)
        left_out = torch.rand(recipe.batch, generator=draws.torch) < recipe.empty
        prompts = ["" if out else self.examples.prompts[i] for i, out in zip(which, left_out, strict=True)]
        loss = backbone.loss(self.examples.codes[which], backbone.said(prompts), draws)
        if self.prior is None:
            return loss
        of_class = self.prior[torch.randint(len(self.prior), (recipe.batch,), generator=draws.torch)]
        texts = backbone.said([recipe.prior_prompt] * recipe.batch)
        return loss + recipe.prior * backbone.loss(of_class.to(loss.device), texts, draws)

    def preview(self) -> Picture:
        return self.backbone.paint(self.backbone.said(self.examples.prompts[:1]), self.recipe.seed)[0]

    def file(self, header: Mapping[str, str]) -> bytes:
        """diffusers' layout, with PEFT's config in the header."""
        graph, state = self.backbone.graph, get_peft_model_state_dict(self.model)
        tensors = {f"{graph}.{key.removeprefix('base_model.model.')}": value for key, value in state.items()}
        return dump(tensors, {METADATA: _config(self.model, graph), **header})


def adapted(recipe: Lora, backbone: Backbone) -> PeftModel:
    """The backbone's module with fresh LoRA layers in it, which change nothing yet."""
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # PEFT divides it by r, whatever it is
        target_modules=list(TARGETS[backbone.graph]),
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng():  # PEFT draws from torch's own generator
        torch.manual_seed(recipe.seed)
        model: PeftModel = get_peft_model(backbone.module, config)
    return model


def painted(recipe: Lora, backbone: Backbone) -> Tensor:
    """Codes of what the frozen checkpoint paints of the class."""
    parts: list[Picture] = []
    while len(parts) < recipe.prior_pictures:
        n = min(PAINTED_AT_ONCE, recipe.prior_pictures - len(parts))
        parts += backbone.paint(backbone.said([recipe.prior_prompt] * n), recipe.seed + len(parts))
    return backbone.codes([np.ascontiguousarray(part) for part in parts])


def _config(model: PeftModel, graph: str) -> str:
    """PEFT's, as diffusers' header has it; without the name of a folder."""
    known: dict[str, Any] = {**model.peft_config["default"].to_dict(), "base_model_name_or_path": None}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in known.items()}
    return json.dumps({f"{graph}.{key}": value for key, value in plain.items()}, indent=2, sort_keys=True, default=str)
