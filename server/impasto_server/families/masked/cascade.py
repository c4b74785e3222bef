"""Two stages, after Muse (arXiv 2301.00704): a base paints a small picture's tokens, and an upscaler those of a large
one while it looks at the small one's.

Each stage has guidance of its own: StyleDrop's rules go on with other strengths, any other rule as classifier-free
guidance. An adapter that has no part in a stage's transformer leaves it plain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from impasto_server.adapters.adapter import Delta
from impasto_server.adapters.seating import Seating
from impasto_server.backbone import Feeds, Row, samples
from impasto_server.families.masked.manifest import UPSCALE, MaskedManifest
from impasto_server.families.masked.offer import (
    BASE_IMAGE,
    TEMPERATURE,
    UPSCALE_GUIDANCE_SCALE,
    UPSCALE_STEPS,
    UPSCALE_STYLE_STRENGTH,
    UPSCALE_TEMPERATURE,
    UPSCALE_TEXT_STRENGTH,
)
from impasto_server.families.masked.stage import Painted
from impasto_server.families.spoken import hidden
from impasto_server.fields import rows as rows_of
from impasto_server.guidance import ClassifierFree, Guidance, Mix, Mixes, Rule, StyleDrop
from impasto_server.request import Request
from impasto_server.steps import BASE, Ask, Steps, at_stage
from impasto_server.worn import Worn


@dataclass(frozen=True)
class Share:
    """What of a request is a stage's."""

    steps: int
    temperature: float
    rule: Rule


def shares(request: Request) -> Mapping[str, Share]:
    """Of the stages that are run, in their order."""
    own, found = request.own, dict[str, Share]()
    if own[BASE_IMAGE.name] is None:
        found[BASE] = Share(request.steps_to_run, own[TEMPERATURE.name], request.rule)
    if own[UPSCALE_STEPS.name]:
        found[UPSCALE] = Share(own[UPSCALE_STEPS.name], own[UPSCALE_TEMPERATURE.name], _second_rule(request))
    return found


def _second_rule(request: Request) -> Rule:
    own = request.own
    if isinstance(request.rule, StyleDrop):
        style, text = own[UPSCALE_STYLE_STRENGTH.name], own[UPSCALE_TEXT_STRENGTH.name]
        return replace(request.rule, style_strength=style, text_strength=text)
    return ClassifierFree(own[UPSCALE_GUIDANCE_SCALE.name])


@dataclass(frozen=True)
class LookingAsk(Ask):
    """Of the second stage; `below` is the small picture that it looks at."""

    below: Painted | None = None


def painted(steps: Steps, stage: str, done: int, total: int, below: Painted | None = None) -> Steps:
    """A sampler of tokens as `at_stage` has it, which says of them whose they are.

    As long as there is nothing else the picture `below` is what's shown.
    """
    steps = at_stage(steps, stage, done, total)
    ask = next(steps)
    while True:
        shown = below if ask.denoised is None else Painted(stage, ask.denoised)
        said = {one.name: getattr(ask, one.name) for one in fields(Ask)}
        answer = yield LookingAsk(**{**said, "denoised": shown}, below=below)
        try:
            ask = steps.send(answer)
        except StopIteration as stop:
            return Painted(stage, stop.value)


def upscaler_feeds(rows: Sequence[Row]) -> Feeds:
    """Of rows whose asks are LookingAsks."""
    below = [row.ask.below.tokens for row in rows if isinstance(row.ask, LookingAsk) and row.ask.below is not None]
    said = [row.context.at(row.ask.timestep, 1.0) for row in rows]
    return {"input_ids": samples(rows), "low_ids": np.stack(below), "encoder_hidden_states": hidden(said)}


@dataclass(frozen=True)
class Adapting:
    """Which of what a request wears changes which stage, on a bundle's backbones."""

    manifest: MaskedManifest
    seating: Seating

    def guidance(self, stage: str, rule: Rule, worn: Worn) -> Guidance:
        """Lanes of a mix that changes nothing there are those of none."""
        graphs = (self.manifest.backbones[stage], *self.manifest.text_encoders)

        def at(mix: Mix) -> Mix:
            return mix if self.seating.changes(graphs, mix, worn.adapters) else Mix()

        return rule(worn.words, Mixes(at(worn.mixes.full), at(worn.mixes.context)))

    def names(self, stage: str, worn: Worn) -> tuple[str, ...]:
        """Adapters that change a stage's transformer, as the request names them."""
        graph = self.manifest.backbones[stage]
        return tuple(dict.fromkeys(one.name for one in worn.named if self._changes(graph, one.digest, worn)))

    def told(self, request: Request, worn: Worn) -> Mapping[str, object]:
        """What META says of the stages."""
        stages = {
            stage: {
                "steps": share.steps,
                "temperature": share.temperature,
                "guidance": share.rule.name,
                **{row.name.lower(): getattr(share.rule, name) for name, row in rows_of(type(share.rule)).items()},
                "adapters": list(self.names(stage, worn)),
            }
            for stage, share in shares(request).items()
        }
        return {} if self.manifest.upscale is None else {"stages": stages}

    def warnings(self, request: Request, worn: Worn) -> tuple[str, ...]:
        """Of each adapter that leaves the second stage plain."""
        if UPSCALE not in shares(request):
            return ()
        there = self.names(UPSCALE, worn)
        plain = [one for one in worn.named if one.name not in there]
        return tuple(
            f"{one.field}: {one.name!r} has no factors of the second stage, and paints the second stage plain; import "
            "it with both halves to have its style there"
            for one in plain
        )

    def _changes(self, graph: str, digest: str, worn: Worn) -> bool:
        """What is merged into a pinned mix alone is said to change what the mix does."""
        patch = worn.adapters[digest]
        if not isinstance(patch, Delta):
            return graph in patch.factors
        mixes = (worn.mixes.full, worn.mixes.context)
        return any(self.seating.changes((graph,), mix, worn.adapters) for mix in mixes if digest in dict(mix.parts))
