"""A cascade of two stages, after Muse (arXiv 2301.00704).

A base paints the tokens of a small picture, then an upscaler those of a large one, conditioned on the small one's.

Each stage has its own guidance. In the second, StyleDrop's rules have other strengths, and any other rule becomes
classifier-free guidance. An adapter without factors for a stage's transformer or for the text encoders leaves that
stage plain.
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
    """A stage's share of a request."""

    steps: int
    temperature: float
    rule: Rule


def shares(request: Request) -> Mapping[str, Share]:
    """The shares of the stages that are run, in order."""
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
    """An Ask of the second stage; `below` is the small picture that conditions it."""

    below: Painted | None = None


def painted(steps: Steps, stage: str, done: int, total: int, below: Painted | None = None) -> Steps:
    """As `at_stage`, for a sampler of tokens; its predicted and finished tokens become `Painted` of that stage.

    Until there are predicted tokens, the previews show `below`.
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
    """The upscaler's feeds, of rows whose asks are LookingAsks."""
    below = [row.ask.below.tokens for row in rows if isinstance(row.ask, LookingAsk) and row.ask.below is not None]
    said = [row.context.at(row.ask.timestep, 1.0) for row in rows]
    return {"input_ids": samples(rows), "low_ids": np.stack(below), "encoder_hidden_states": hidden(said)}


@dataclass(frozen=True)
class Adapting:
    """Tells which of a request's adapters change which stage of a bundle."""

    manifest: MaskedManifest
    seating: Seating

    def guidance(self, stage: str, rule: Rule, worn: Worn) -> Guidance:
        """A stage's guidance; a mix that changes nothing in the stage becomes the empty mix."""

        def at(mix: Mix) -> Mix:
            return mix if self.seating.changes(self._graphs(stage), mix, worn.adapters) else Mix()

        return rule(worn.words, Mixes(at(worn.mixes.full), at(worn.mixes.context)))

    def names(self, stage: str, worn: Worn) -> tuple[str, ...]:
        """The names of the request's adapters that change a stage's transformer, or the words that it reads."""
        return tuple(dict.fromkeys(one.name for one in worn.named if self._changes(stage, one.digest, worn)))

    def told(self, request: Request, worn: Worn) -> Mapping[str, object]:
        """META's part about the stages."""
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
        """A warning for each adapter that leaves the second stage plain."""
        if UPSCALE not in shares(request):
            return ()
        there = self.names(UPSCALE, worn)
        plain = [one for one in worn.named if one.name not in there]
        return tuple(
            f"{one.field}: {one.name!r} has no factors for the second stage and leaves it plain; import it with both "
            "halves to have its style there"
            for one in plain
        )

    def _graphs(self, stage: str) -> tuple[str, ...]:
        """The graphs that decide what a stage paints."""
        return (self.manifest.backbones[stage], *self.manifest.text_encoders)

    def _changes(self, stage: str, digest: str, worn: Worn) -> bool:
        """Whether an adapter changes a stage.

        A Delta, which only pinned mixes contain, counts as changing the words that its mix changes, since its header
        names only stages.
        """
        patch = worn.adapters[digest]
        if not isinstance(patch, Delta):
            return not patch.factors.keys().isdisjoint(self._graphs(stage))
        mixes = (worn.mixes.full, worn.mixes.context)
        heard = any(self.seating.speaks(mix, worn.adapters) for mix in mixes if digest in dict(mix.parts))
        return heard or stage in patch.stages
