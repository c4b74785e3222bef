"""A base by itself beside diffusers' pipeline, which is one stage, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from statistics import mean, median

import numpy as np
import torch
from benchmarks.common import crowd, passes, question
from benchmarks.common.backbones import NAMES, Backbone
from benchmarks.common.bars import Report
from benchmarks.common.bench import seconds
from benchmarks.common.crowd import Crowd
from benchmarks.common.draws import Decoding, Story, Verdict, compare, noted
from benchmarks.common.flat import altered
from benchmarks.common.masked_backbones import BOTTLENECKS
from benchmarks.common.reference import Reference
from benchmarks.parts.masked.bare import Bare
from benchmarks.parts.masked.peer import Peer
from benchmarks.parts.masked.pictures import Painted, equal_tokens, painted
from benchmarks.parts.masked.rounds import (
    CROWDS,
    SCALE,
    SCHEDULER,
    STEPS,
    TEMPERATURE,
    Round,
    composed,
    figures,
    guided,
    users,
)
from studio.reading.psnr import psnr_db

from impasto_server.bundle import ImageSize
from impasto_server.families import open_bundle
from impasto_server.guidance import combine
from impasto_server.pipeline import Pipeline
from impasto_server.settings import EngineName, Settings

FORWARDS = 5  # of a round, bare
SWITCHES = 32
PASS_ROUNDS = {"mini": 9, "amused256": 3}
# The large backbone takes minutes for a crowd, so the peer's alone stands beside the pipeline's.
CROWDS_OF = {"mini": CROWDS, "amused256": ("adapters", "peer")}
# How many pictures are held against diffusers', and by which engines beside the one that is asked for: f32 takes the
# large backbone minutes for each.
PARITY: dict[str, tuple[int, tuple[EngineName, ...]]] = {"mini": (8, ("onnxruntime",)), "amused256": (2, ())}


@dataclass(frozen=True)
class Side:
    """What the pipeline has in f32 by one engine: pictures, and how each was drawn."""

    pictures: Sequence[Painted]
    stories: Sequence[Story]
    wrong_adapter_tokens: float

    @classmethod
    def of(cls, settings: Settings, asked: Crowd) -> Side:
        with crowd.opened(settings) as pipeline:
            with noted() as notes:
                ours = painted(pipeline, asked)
            wrong = max(equal_tokens(painted(pipeline, crowd.wrong_adapters(asked)), ours))
        stories = [
            notes.story(request, np.random.Generator(np.random.Philox(request.seeds.seed)), picture.tokens.size)
            for request, picture in zip(asked, ours, strict=True)
        ]
        return cls(ours, stories, wrong)


def parity(
    backbone: Backbone, settings: Settings, reference: Reference, asked: Crowd, engines: Sequence[EngineName]
) -> tuple[Sequence[Painted], Report]:
    """What the pipeline paints in f32 by the first engine; and how diffusers in fp32 goes along with each."""
    torch.set_num_threads(settings.thread_count())
    sides = {engine: Side.of(replace(settings, engine=engine, precision="f32"), asked) for engine in engines}
    verdicts, worst_db = followed(Peer(backbone, torch.float32, reference), sides, asked)
    return next(iter(sides.values())).pictures, {
        "parity_draws": min(1 - len(found.wrong) / found.drawn for found in verdicts.values()),
        "parity_draws_between_sums": {engine: found.between for engine, found in verdicts.items()},
        "parity_draws_in_all": {engine: found.drawn for engine, found in verdicts.items()},
        "parity_draws_wrong": [what for found in verdicts.values() for what in found.wrong],
        "parity_psnr_db_min": worst_db,
        "wrong_adapter_tokens": max(side.wrong_adapter_tokens for side in sides.values()),
    }


def followed(peer: Peer, sides: Mapping[EngineName, Side], asked: Crowd) -> tuple[dict[EngineName, Verdict], float]:
    """All of an engine's pictures beside the peer's that they led; and the worst of the finished pictures, in dB."""
    verdicts, worst_db = dict.fromkeys(sides, Verdict()), float("inf")
    for engine, side in sides.items():
        for request, ours, story in zip(asked, side.pictures, side.stories, strict=True):
            theirs, steps = peer.follow(request, story)
            verdicts[engine] += compare(story, steps)
            worst_db = min(worst_db, psnr_db(ours.pixels, theirs.pixels))
    return verdicts, worst_db


@dataclass(frozen=True)
class Bench(question.Bench):
    def measure(self) -> Report:
        reference, parity = self._in_a_process_of_its_own(self.begin("parity in f32", 1))
        peer = Peer(self.backbone, torch.bfloat16, self.reference)
        with crowd.opened(self.settings) as pipeline:
            bf16 = self._warm_up(pipeline, peer, reference)
            rounds = self._rounds(pipeline, peer)
        return {
            **figures(rounds),
            **parity,
            **bf16,
            **self._passes(),
            "set_adapters_ms": median(peer.set_adapters_ms(SWITCHES)),
            "peer_attention_ms": peer.attention_ms,
        }

    @property
    def _image(self) -> ImageSize:
        return open_bundle(self.backbone.bundle).manifest.image

    @property
    def _compared(self) -> Crowd:
        """The users whose tokens are held against diffusers'."""
        return users(self._image, NAMES)[: PARITY[self.name][0]]

    def _in_a_process_of_its_own(self, done: Callable[[], object]) -> tuple[Sequence[Painted], Report]:
        """Parity: so that the memory of its models, in f32 and twice, is free again before anything is timed."""
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            engines = dict.fromkeys((self.settings.engine, *PARITY[self.name][1]))
            asked = self.backbone, self.settings, self.reference, self._compared, tuple(engines)
            found = process.submit(parity, *asked).result()
        done()
        return found

    # speed

    def _warm_up(self, pipeline: Pipeline, peer: Peer, reference: Sequence[Painted]) -> Report:
        """Everything once, the large parts of it in one step; and what bf16 does to tokens on either side."""
        done = self.begin("warm-up", 3)
        ours = equal_tokens(painted(pipeline, self._compared), reference)
        done()
        theirs = equal_tokens([peer.repaint(request) for request in self._compared], reference)
        done()
        for asked in self._crowds().values():
            crowd.burst(pipeline, tuple(altered(request, steps=1) for request in asked))
        for request in self._crowds()["adapters"]:
            peer.paint(altered(request, steps=1))
        pipeline.generate(composed(self._image, 1, 0))
        done()
        return {"parity_tokens_bf16": mean(ours), "parity_tokens_peer_bf16": mean(theirs)}

    def _crowds(self) -> Mapping[str, Crowd]:
        """The pipeline's; the peer has the first of them."""
        plain: list[str | None] = [None] * len(NAMES)
        names = {"adapters": NAMES, "same": NAMES[:1] * len(NAMES), "bottlenecks": BOTTLENECKS, "plain": plain}
        return {key: users(self._image, found) for key, found in names.items() if key in CROWDS_OF[self.name]}

    def _rounds(self, pipeline: Pipeline, peer: Peer) -> list[Round]:
        bare = Bare.of(pipeline)
        turns = [self._turns(pipeline, peer, bare, number) for number in range(1, self.rounds + 1)]
        done = self.begin("rounds", sum(len(one) for one in turns))
        return [self._round(one, number, done) for number, one in enumerate(turns)]

    def _round(self, turns: Mapping[str, Callable[[], object]], number: int, done: Callable[[], object]) -> Round:
        order, first = list(turns), number % len(turns)
        taken: dict[str, float] = {}
        for name in order[first:] + order[:first]:
            taken[name] = seconds(turns[name])
            done()
        return Round(
            guided={steps: taken[f"guided {steps}"] for steps in STEPS},
            forward=taken["forwards"] / FORWARDS,
            decode=taken["decode"],
            sample={steps: taken[f"sample {steps}"] for steps in STEPS},
            combine={steps: taken[f"combine {steps}"] for steps in STEPS},
            composed=taken["composed"],
            crowds={name: taken[name] for name in CROWDS_OF[self.name]},
        )

    def _turns(self, pipeline: Pipeline, peer: Peer, bare: Bare, number: int) -> Mapping[str, Callable[[], object]]:
        """What a round times, by name; nobody has seen its prompts before."""
        crowds = {name: crowd.fresh(asked, number) for name, asked in self._crowds().items()}
        logits = bare.forward()
        guiding = combine((1 - SCALE, SCALE), list(logits))
        return {
            **{f"guided {n}": partial(pipeline.generate, guided(self._image, n, 100 * number + n)) for n in STEPS},
            "composed": partial(pipeline.generate, composed(self._image, STEPS[0], 100 * number)),
            "forwards": lambda: [bare.forward() for _ in range(FORWARDS)],
            "decode": bare.decode,
            **{f"sample {n}": partial(bare.sample, guiding, Decoding(n, TEMPERATURE, SCHEDULER)) for n in STEPS},
            **{f"combine {n}": partial(bare.combine, logits, n) for n in STEPS},
            **{name: partial(crowd.burst, pipeline, asked) for name, asked in crowds.items()},
            "peer": lambda: [peer.paint(request) for request in crowds["adapters"]],
        }

    # forward passes

    def _passes(self) -> Report:
        """The adapters' price in a pass."""
        rounds = PASS_ROUNDS[self.name]
        built = passes.Passes.of(self.backbone, self.settings)
        samples = passes.time_all(built, rounds, self.begin("forward passes", rounds))
        return {**passes.taxes(built, samples), "pass_ms": samples}
