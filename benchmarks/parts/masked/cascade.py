"""Both stages beside a torch loop: eight users of a server, each with a pair of adapters of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from benchmarks.common import crowd, question
from benchmarks.common.backbones import Backbone
from benchmarks.common.bars import Report
from benchmarks.common.bench import seconds
from benchmarks.common.draws import Story, Verdict, compare, noted
from benchmarks.common.masked_backbones import PAIRS
from benchmarks.common.reference import Reference
from benchmarks.parts.masked.bare import Bare
from benchmarks.parts.masked.cascade_rounds import Parts, Round, figures
from benchmarks.parts.masked.loop import Loop
from benchmarks.parts.masked.pictures import Painted, equal_tokens, painted
from benchmarks.parts.masked.wishes import Wish, wishes
from studio.reading.psnr import psnr_db

from impasto_client import Client
from impasto_server.families.masked.manifest import UPSCALE
from impasto_server.guidance import combine
from impasto_server.ops.serve import serve
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.settings import EngineName, Settings
from impasto_server.steps import BASE

FORWARDS = 3  # of a stage and a round, bare
COMPARED = 2  # pictures that are held against the peer's, token for token
STAGES = (BASE, UPSCALE)


def request_of(pipeline: Pipeline, wish: Wish) -> Request:
    options: Mapping[str, Any] = {**wish.options}
    return pipeline.offer.request(wish.prompt, **options)


def philox(wish: Wish) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(wish.seed))


@dataclass(frozen=True)
class Side:
    """What the pipeline has in f32 by one engine: pictures, and how each was drawn at each stage."""

    pictures: Sequence[Painted]
    stories: Sequence[Mapping[str, Story]]
    wrong_pair_tokens: float

    @classmethod
    def of(cls, settings: Settings, asked: Sequence[Wish]) -> Side:
        with crowd.opened(settings) as pipeline:
            places = {stage: pipeline.family.example(stage).ask.sample.size for stage in STAGES}
            with noted() as notes:
                ours = painted(pipeline, tuple(request_of(pipeline, wish) for wish in asked))
            others = [replace(wish, pair=other.pair) for wish, other in zip(asked, [*asked[1:], asked[0]], strict=True)]
            wrong = painted(pipeline, tuple(request_of(pipeline, wish) for wish in others))
        stories = []
        for wish in asked:
            draws = philox(wish)
            told = {stage: notes.told(how, draws, places[stage]) for stage, how in wish.decodings.items()}
            stories.append(told)
        return cls(ours, stories, max(equal_tokens(wrong, ours)))


def parity(
    backbone: Backbone, settings: Settings, reference: Reference, asked: Sequence[Wish], engines: Sequence[EngineName]
) -> Report:
    """How the peer in fp32 goes along with what the pipeline paints in f32 by each engine."""
    torch.set_num_threads(settings.thread_count())
    sides = {engine: Side.of(replace(settings, engine=engine, precision="f32"), asked) for engine in engines}
    peer = Loop(backbone, torch.float32, reference, [wish.pair for wish in asked])
    verdicts = dict.fromkeys(STAGES, Verdict())
    worst_db = float("inf")
    for side in sides.values():
        for wish, ours, stories in zip(asked, side.pictures, side.stories, strict=True):
            theirs, steps = peer.follow(wish, stories, philox(wish))
            verdicts = {stage: verdicts[stage] + compare(stories[stage], steps[stage]) for stage in STAGES}
            worst_db = min(worst_db, psnr_db(ours.pixels, theirs.pixels))
    return {
        "parity_draws": min(1 - len(found.wrong) / found.drawn for found in verdicts.values()),
        "parity_draws_between_sums": {stage: found.between for stage, found in verdicts.items()},
        "parity_draws_in_all": {stage: found.drawn for stage, found in verdicts.items()},
        "parity_draws_wrong": [what for found in verdicts.values() for what in found.wrong],
        "parity_psnr_db_min": worst_db,
        "wrong_adapter_tokens": max(side.wrong_pair_tokens for side in sides.values()),
    }


@dataclass(frozen=True)
class Bench(question.Bench):
    def measure(self) -> Report:
        parity = self._in_a_process_of_its_own(self.begin("parity in f32", 1))
        peer = Loop(self.backbone, torch.bfloat16, self.reference)
        with (
            crowd.opened(self.settings) as pipeline,
            serve(self.settings) as server,
            Client(server.grpc_url) as client,
            ThreadPoolExecutor(len(PAIRS)) as users,
        ):
            turns = Turns(pipeline, client, users, peer)
            rounds = self._rounds(turns)
        asked = wishes(PAIRS, 0)
        steps = {stage: how.steps for stage, how in asked[0].decodings.items()}
        return {**figures(rounds, steps, len(asked)), **parity, "peer_attention_ms": peer.attention_ms}

    def _in_a_process_of_its_own(self, done: Callable[[], object]) -> Report:
        """Parity: so that the memory of its models, in f32 and twice, is free again before anything is timed."""
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            engines: dict[EngineName, None] = dict.fromkeys((self.settings.engine, "onnxruntime"))
            asked = wishes(PAIRS, 0)[:COMPARED]
            found = process.submit(parity, self.backbone, self.settings, self.reference, asked, tuple(engines)).result()
        done()
        return found

    def _rounds(self, turns: Turns) -> list[Round]:
        """The first one warms up."""
        done = self.begin("rounds", 1 + self.rounds)
        found = []
        for number in range(1 + self.rounds):
            found.append(turns.round(number))
            done()
        return found[1:]


@dataclass(frozen=True)
class Turns:
    """Who paints in a round."""

    pipeline: Pipeline
    client: Client
    users: Executor
    peer: Loop

    def round(self, number: int) -> Round:
        """In an order that moves on by one; nobody has seen its prompts before."""
        asked = wishes(PAIRS, number)
        bare = {stage: Bare.of(self.pipeline, stage) for stage in STAGES}
        turns = self._turns(asked, bare)
        order, first = list(turns), number % len(turns)
        taken = {name: seconds(turns[name]) for name in order[first:] + order[:first]}
        stages = {
            stage: Parts(taken[f"{stage} forwards"] / FORWARDS, taken[f"{stage} sample"], taken[f"{stage} combine"])
            for stage in STAGES
        }
        return Round(taken["picture"], stages, taken["decode"], taken["served"], taken["peer"])

    def _turns(self, asked: Sequence[Wish], bare: Mapping[str, Bare]) -> Mapping[str, Callable[[], object]]:
        one = replace(asked[0], prompt=f"{asked[0].prompt} alone", seed=asked[0].seed + len(asked))
        turns: dict[str, Callable[[], object]] = {
            "picture": partial(self.pipeline.generate, request_of(self.pipeline, one)),
            "decode": bare[UPSCALE].decode,
            "served": partial(self._served, asked),
            "peer": lambda: [self.peer.paint(wish) for wish in asked],
        }
        for stage, engines in bare.items():
            logits, how, scale = engines.forward(), one.decodings[stage], one.scales[stage]
            guiding = combine((1 - scale, scale), list(logits))
            turns[f"{stage} forwards"] = partial(_often, engines.forward)
            turns[f"{stage} sample"] = partial(engines.sample, guiding, how)
            turns[f"{stage} combine"] = partial(engines.combine, logits, how.steps)
        return turns

    def _served(self, asked: Sequence[Wish]) -> None:
        """All at once, through gRPC."""
        list(self.users.map(lambda wish: self.client.generate(wish.prompt, **wish.options), asked))


def _often(forward: Callable[[], object]) -> None:
    for _ in range(FORWARDS):
        forward()
