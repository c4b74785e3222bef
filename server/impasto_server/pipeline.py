"""The product in one file: request → lanes → steps → image.

    submit ──► prepare (threads) ──► step loop (one thread) ──► finish (thread) ──► done

prepare   names become adapters in host memory, the guidance rule becomes lanes, their mixes become rows of the bank,
          prompts become embeds, the seed of each candidate starts a sampler, and that asks its first question. A
          request whose adapters are still loading, or for which no row is free, comes back later and keeps no thread
          waiting.
step loop every running request's questions become rows of one batch; a row carries its own sample, timestep, context
          and adapters. The answers are combined by the request's coefficients and sent back to its samplers.
          Requests join and leave between any two batches.
finish    samples become previews and encoded pictures, the best first where they are scored.

What this module doesn't know: whether latents or tokens are sampled, and which sampler, rule, adapters or engine runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters import Adapter, Embedding, Registry
from impasto_server.admission import Admission
from impasto_server.backbone import Hint, Row
from impasto_server.bank import AdaptedEngine, Bank
from impasto_server.batch import Turn, choose
from impasto_server.bundle import Bundle, DiffusionManifest, Manifest
from impasto_server.calibration import calibrated, resolve_max_lanes
from impasto_server.conditioning import Conditions
from impasto_server.content import read_whole
from impasto_server.diffusion import Diffusion
from impasto_server.engine import Engine, resolve_precision
from impasto_server.errors import (
    Cancelled,
    DeadlineExceeded,
    FieldError,
    ImpastoError,
    InvalidArgument,
    as_impasto_error,
)
from impasto_server.family import Family
from impasto_server.guidance import Guidance, Mix, Prompts, Text, combine
from impasto_server.image import encode
from impasto_server.masked import Masked
from impasto_server.names import adapter_fields, by_kind, loaded_of, mixes, named, said_by
from impasto_server.prompt import GRAPH, ClipTokenizer, Line, PromptEncoder, Staged, lines
from impasto_server.request import Request
from impasto_server.residency import Kind, Loading, Residency, Style
from impasto_server.samplers import Ask, Sample, Steps
from impasto_server.score import Scorer
from impasto_server.settings import Settings
from impasto_server.stats import Stats

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

PREPARING_THREADS = 2
SMOOTHING = 0.9


@dataclass(frozen=True)
class Result:
    """Encoded pictures, the seed of each, and what was done to make them (JSON-ready).

    With `scores`, the clip score of each, the best is first; otherwise they are in the order of their seeds.
    """

    images: tuple[bytes, ...]
    seeds: tuple[int, ...]
    meta: dict[str, object]
    scores: tuple[float, ...] | None = None

    @property
    def image(self) -> bytes:
        return self.images[0]

    @property
    def seed(self) -> int:
        return self.seeds[0]


@dataclass(frozen=True)
class Progress:
    """`step` of `steps` are done, the last will be in `eta_s` seconds.

    `previews` are a PNG for each candidate, one pixel for each latent: what the samplers take the clean pictures to be.
    """

    step: int
    steps: int
    eta_s: float
    previews: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Caller:
    """Who waits for a request. `done` is called exactly once, `progress` after steps and before `done`, in order.

    Both are called from threads of the pipeline, never from the step loop. `gone` says whether nobody waits any more;
    it's asked at every stage and before every step, by the step loop itself, so it must answer at once.
    """

    done: Callable[[Result | ImpastoError], None]
    gone: Callable[[], bool] = lambda: False
    progress: Callable[[Progress], None] | None = None


@dataclass
class Job:
    """A request on its way: what was found out about it, and when it passed each stage (seconds on one clock)."""

    request: Request
    caller: Caller
    styles: tuple[Style, ...] = ()
    loading: Loading | None = None
    conditions: Conditions = field(default_factory=Conditions)
    style_image: NDArray[np.uint8] | None = None
    warnings: tuple[str, ...] = ()
    steps_done: int = 0
    times: dict[str, float] = field(default_factory=lambda: {"submitted": perf_counter()})

    def mark(self, stage: str) -> None:
        self.times[stage] = perf_counter()

    def time_left_s(self) -> float | None:
        if self.request.timeout_s is None:
            return None
        return self.times["submitted"] + self.request.timeout_s - perf_counter()

    def check(self) -> None:
        """Raises Cancelled when nobody waits for the answer, DeadlineExceeded when it would come too late."""
        if self.caller.gone():
            raise Cancelled("the caller cancelled the request, or is gone")
        left = self.time_left_s()
        if self.request.timeout_s is not None and left is not None and left <= 0:
            raise DeadlineExceeded(self.request.timeout_s, self.steps_done, self.request.steps_to_run)


@dataclass
class Candidate:
    """One of a request's pictures in the making: its sampler, and what that asks."""

    steps: Steps
    ask: Ask


@dataclass(eq=False)
class Running:
    """A job in the step loop: prompt embeds and a slot for each lane of its guidance; and its candidates.

    `live` are the lanes that count at this step, with their coefficients. `answers` are the backbone's for this step so
    far, those of the first candidate's lanes first.
    """

    job: Job
    pinned: Sequence[int]
    guidance: Guidance
    contexts: tuple[Staged, ...]
    slots: tuple[int, ...]
    hint: Hint | None
    candidates: tuple[Candidate, ...]
    last_batch: int = 0
    answers: list[Array] = field(default_factory=list)
    live: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        self.aim()

    @property
    def ask(self) -> Ask:
        """The first candidate's; the others' differ in their samples alone."""
        return self.candidates[0].ask

    @property
    def missing(self) -> int:
        """Rows without an answer."""
        return len(self.candidates) * len(self.live) - len(self.answers)

    def aim(self) -> None:
        """Find the lanes of the step that is asked for; with no strength at all in it, one is kept."""
        strength = self.ask.progress if self.job.request.guidance_ramp else 1.0
        coefficients = list(enumerate(self.guidance.at(strength)))
        self.live = tuple(part for part in coefficients if part[1] != 0) or tuple(coefficients[:1])

    def rows(self, count: int, train_timesteps: float) -> list[Row]:
        """The next `count` rows that have no answer yet."""
        wanted = ((candidate.ask, lane) for candidate in self.candidates for lane, _ in self.live)
        return [
            Row(
                ask.sample,
                ask.timestep,
                self.contexts[lane].at(ask.timestep, train_timesteps),
                self.slots[lane],
                self.hint,
            )
            for ask, lane in islice(wanted, len(self.answers), len(self.answers) + count)
        ]

    def guided(self) -> list[Array]:
        """The answers, combined, for each candidate; all of them are there, and none is kept."""
        answers, self.answers = iter(self.answers), []
        coefficients = [coefficient for _, coefficient in self.live]
        return [combine(coefficients, list(islice(answers, len(self.live)))) for _ in self.candidates]

    def turn(self, batch: int) -> Turn[Running]:
        return Turn(
            who=self,
            lanes=self.missing,
            shape=self.ask.sample.shape,
            new=self.job.steps_done == 0,
            passed_over=batch - self.last_batch,
            remaining=self.ask.steps - self.ask.step,
            time_left_s=self.job.time_left_s(),
        )


class Pipeline:
    """One backbone, resident once, painting for everyone. `submit` from any thread."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.manifest: Manifest = bundle.manifest
        self._engine_name = settings.engine
        self._precision = resolve_precision(settings.engine, settings.precision)
        measured = calibrated(settings, bundle)
        self._max_lanes = resolve_max_lanes(settings, measured)
        self.stats = Stats()
        self._bank = Bank(self.manifest, settings.bank_rank, settings.bank_bytes, self.stats, self._precision)
        registry = Registry(settings.registry)
        self._residency = Residency(registry, self.manifest, settings.host_bytes, self.stats)

        def compiled(graph: str) -> Engine:
            return AdaptedEngine(bundle, graph, settings, self._bank)

        tokenizer = ClipTokenizer(bundle.folder, self.manifest.tokenizer)
        width = self.manifest.embedding_widths[GRAPH]
        self._prompts = PromptEncoder(tokenizer, compiled(GRAPH), width, settings.host_bytes)
        self._family = _family(bundle, compiled)
        self._scorer = None if settings.scorer is None else Scorer.open(settings.scorer, settings)

        embeds = self._prompts.encode([Line("")], {}, 0, None)[Line("")]
        self._family.warm(embeds, self._max_lanes, bundle.nbytes)
        self._admission = Admission(settings.max_requests, self.stats)
        self._preparing = ThreadPoolExecutor(PREPARING_THREADS, "prepare")
        self._finishing = ThreadPoolExecutor(1, "finish")
        self._joining: SimpleQueue[Running | None] = SimpleQueue()
        self._step_s = 0.0
        self._loop = Thread(target=self._run, name="step-loop", daemon=True)
        self._loop.start()

    @classmethod
    def load(cls, settings: Settings) -> Pipeline:
        """Open the bundle and compile its graphs. Raises SetupError."""
        return cls(Bundle.open(settings.bundle), settings)

    def submit(self, request: Request, caller: Caller) -> None:
        """Start on `request` and return; the caller hears of it from other threads.

        Adapters are those that their names stand for now. Work stops at the next step once the caller is gone or its
        time has passed. Raises Unavailable when closed, and Exhausted when as many requests are under way as
        the settings allow.
        """
        self._admission.enter()
        job = Job(request, caller)
        try:
            job.styles = tuple(self._residency.resolve(*each) for each in named(request))
        except Exception as error:
            self._preparing.submit(self._fail, job, error)
        else:
            self._preparing.submit(self._prepare, job)

    def generate(self, request: Request) -> Result:
        """Paint one picture and wait for it. Raises ImpastoError."""
        answer: Future[Result | ImpastoError] = Future()
        self.submit(request, Caller(answer.set_result))
        outcome = answer.result()
        if isinstance(outcome, ImpastoError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Take nothing new, finish what was taken, and free the threads."""
        self._admission.close()
        self._joining.put(None)
        self._loop.join()
        self._residency.close()
        self._preparing.shutdown()
        self._finishing.shutdown()

    # prepare: request → lanes

    def _prepare(self, job: Job) -> None:
        """Make a job ready to run; called again when something that it had to wait for has come about."""

        def again() -> None:
            self._preparing.submit(self._prepare, job)

        try:
            job.check()
            if job.loading is None:
                job.mark("preparing")
                job.loading = self._residency.load(job.styles)
                job.conditions = self._family.condition(job.request)
                job.style_image = self._style_image(job.request)
            unfinished = next((adapter for adapter in job.loading.values() if not adapter.done()), None)
            if unfinished is not None:
                unfinished.add_done_callback(lambda _: again())
                return
            running = self._start(job, loaded_of(job.styles, job.loading), again)
        except Exception as error:
            return self._fail(job, error)
        if running is not None:
            job.loading = None  # the bank has them now, and the host's cache alone decides what else is kept
            job.mark("prepared")
            self._joining.put(running)

    def _start(self, job: Job, loaded: Mapping[str, Kind], again: Callable[[], None]) -> Running | None:
        """None when there is no room for its adapters; `again` is then called when there may be."""
        request = job.request
        adapters, embeddings = by_kind(job.styles, loaded, request)
        said = said_by(request, job.styles, adapters, embeddings)
        guidance = request.rule(said, mixes(job.styles, adapters))
        job.warnings = self._warnings(request, guidance, said, embeddings)
        rows = self._bank.pin([lane.mix for lane in guidance.lanes], adapters, again)
        if rows is None:
            return None
        pinned = tuple(rows.values())
        try:
            samplers = [self._family.begin(request, seed, job.conditions) for seed in request.seeds]
            return Running(
                job=job,
                pinned=pinned,
                guidance=guidance,
                contexts=self._encode(guidance, rows, adapters, embeddings),
                slots=tuple(rows[lane.mix] for lane in guidance.lanes),
                hint=job.conditions.hint,
                candidates=tuple(Candidate(steps, next(steps)) for steps in samplers),
            )
        except Exception:
            self._bank.unpin(pinned)
            raise

    def _style_image(self, request: Request) -> NDArray[np.uint8] | None:
        """What candidates are compared with. Raises InvalidArgument, also where nothing here can compare."""
        if request.rerank is not None and self._scorer is None:
            raise InvalidArgument("RERANK", "this server has no scorer", "leave it out, or start it with --scorer")
        return None if request.style_image is None else read_whole(request.style_image, "STYLE_IMAGE")

    def _warnings(
        self, request: Request, guidance: Guidance, said: Prompts, embeddings: Mapping[str, Embedding]
    ) -> tuple[str, ...]:
        """What of the request's words nobody reads."""

        def field_of(text: Text) -> str:
            if text == said.null:
                return "NEGATIVE_PROMPT"
            return "CONTENT_PROMPT" if request.content_prompt is not None and text == said.context else "PROMPT"

        found = [
            self._prompts.tokenize(words, embeddings).warning(field_of(lane.text))
            for lane in guidance.lanes
            for words in lane.text.stages
        ]
        if self._scorer is not None and request.rerank == "text" and (unread := self._scorer.unread(request.prompt)):
            found.append(f"RERANK: the scorer reads less of PROMPT; not read: {unread!r}")
        return tuple(dict.fromkeys(warning for warning in found if warning))

    def _encode(
        self,
        guidance: Guidance,
        rows: Mapping[Mix, int],
        adapters: Mapping[str, Adapter],
        embeddings: Mapping[str, Embedding],
    ) -> tuple[Staged, ...]:
        """Prompt embeds of each lane, under the adapters of its own."""
        spoken = [(lines(lane.text, embeddings), lane.mix) for lane in guidance.lanes]
        embeds = {}
        for mix in {lane.mix for lane in guidance.lanes}:
            wanted = dict.fromkeys(line for stages, other in spoken if other == mix for line in stages)
            adapted = any("text_encoder" in adapters[digest].factors for digest, _ in mix.parts)
            slot, key = (rows[mix], mix) if adapted else (0, None)
            encoded = self._prompts.encode(wanted, embeddings, slot, key)
            embeds.update({(line, mix): found for line, found in encoded.items()})
        return tuple(Staged(tuple(embeds[line, mix] for line in stages)) for stages, mix in spoken)

    # step loop: lanes → steps

    def _run(self) -> None:
        running: list[Running] = []
        batch = 0
        while self._admit(running, batch):
            left = self._dismiss(running)
            waiting = [one for one in running if one not in left]
            if waiting:
                turns = [one.turn(batch) for one in waiting]
                left += self._step(choose(turns, self._max_lanes, self._step_s), batch)
            running = [one for one in running if one not in left]
            batch += 1

    def _admit(self, running: list[Running], batch: int) -> bool:
        """Let everyone in who has arrived, waiting only while there is nothing to do. False when all is done."""
        try:
            while True:
                one = self._joining.get(block=not running)
                if one is None:
                    self._joining.put(None)
                    return bool(running)
                one.job.mark("joined")
                one.last_batch = batch
                running.append(one)
        except Empty:
            return True

    def _dismiss(self, running: Sequence[Running]) -> list[Running]:
        """Drop those whom nobody waits for; their lanes are free in this very step."""
        left = []
        for one in running:
            try:
                one.job.check()
            except Exception as error:
                self._leave(one, error)
                left.append(one)
        return left

    def _step(self, chosen: Sequence[tuple[Running, int]], batch: int) -> list[Running]:
        """One forward pass, and a step of everyone whose lanes are all answered then; returns those that leave."""
        started = perf_counter()
        try:
            self._forward(chosen)
        except Exception as error:
            for one, _ in chosen:
                self._leave(one, error)
            return [one for one, _ in chosen]
        left = []
        for one, _ in chosen:
            if not one.missing:
                one.last_batch = batch
                if self._advance(one):
                    left.append(one)
        self._step_s = SMOOTHING * self._step_s + (1 - SMOOTHING) * (perf_counter() - started)
        return left

    def _forward(self, chosen: Sequence[tuple[Running, int]]) -> None:
        """Rows of one batch through the backbone, and each request's share to its answers."""
        rows = [row for one, count in chosen for row in one.rows(count, self._family.train_timesteps)]
        answers = iter(self._family.backbone.run(rows))
        self.stats.add("steps")
        self.stats.add("lanes", len(rows))
        for one, count in chosen:
            one.answers += islice(answers, count)

    def _advance(self, one: Running) -> bool:
        """Send the combined answers to the samplers; True when that was their last step."""
        one.job.steps_done += 1
        finished: list[Sample] = []
        for candidate, guided in zip(one.candidates, one.guided(), strict=True):
            try:
                candidate.ask = candidate.steps.send(guided)
            except StopIteration as stop:
                finished.append(stop.value)
        if finished:
            self._report(one.job, [])
            self._leave(one, finished)
            return True
        one.aim()
        self._report(one.job, [candidate.ask.denoised for candidate in one.candidates])
        return False

    def _leave(self, one: Running, outcome: list[Sample] | Exception) -> None:
        self._bank.unpin(one.pinned)
        one.job.mark("denoised")
        if isinstance(outcome, Exception):
            self._finishing.submit(self._fail, one.job, outcome)
        else:
            self._finishing.submit(self._finish, one.job, outcome)

    def _report(self, job: Job, denoised: Sequence[Sample | None]) -> None:
        """Have the caller told of a step, if it wants to know; the picture itself is the last step's preview."""
        if job.caller.progress is not None:
            step, steps, every = job.steps_done, job.request.steps_to_run, job.request.preview_every
            eta_s = (perf_counter() - job.times["joined"]) / step * (steps - step)
            shown = [sample for sample in denoised if sample is not None] if every and step % every == 0 else []
            self._finishing.submit(self._tell, job, Progress(step, steps, eta_s), shown)

    # finish: samples → previews and images

    def _tell(self, job: Job, progress: Progress, shown: Sequence[Sample]) -> None:
        assert job.caller.progress is not None
        try:
            previews = tuple(self._family.preview(sample) for sample in shown)
            job.caller.progress(replace(progress, previews=previews))
        except Exception as error:  # the picture itself may still reach them
            log.error("a caller could not take its progress", exc_info=error)

    def _finish(self, job: Job, samples: Sequence[Sample]) -> None:
        try:
            job.check()
            pictures = [self._family.decode(sample) for sample in samples]
            scores = self._scores(job, pictures)
            order = list(range(len(pictures)))
            if scores is not None:
                order.sort(key=lambda i: -scores[i])
            images = tuple(encode(pictures[i], job.request.format) for i in order)
            job.mark("finished")
            ranked = None if scores is None else tuple(scores[i] for i in order)
            result = Result(images, tuple(job.request.seeds[i] for i in order), self._meta(job), ranked)
        except Exception as error:
            return self._fail(job, error)
        self._settle(job, result)

    def _scores(self, job: Job, pictures: Sequence[NDArray[np.uint8]]) -> list[float] | None:
        if self._scorer is None or job.request.rerank is None:
            return None
        if job.style_image is not None:
            return self._scorer.picture(pictures, job.style_image)
        return self._scorer.text(pictures, job.request.prompt)

    def _meta(self, job: Job) -> dict[str, object]:
        request, times = job.request, job.times
        join = times["joined"] - times["prepared"]
        queue = times["preparing"] - times["submitted"] + join
        self.stats.add("join_seconds", join)
        self.stats.add("queue_seconds", queue)
        stages = {
            "queue_ms": queue,
            "encode_ms": times["prepared"] - times["preparing"],
            "denoise_ms": times["denoised"] - times["joined"],
            "decode_ms": times["finished"] - times["denoised"],
            "total_ms": times["finished"] - times["submitted"],
        }
        return {
            "warnings": list(job.warnings),
            "timings": {name: round(1000 * seconds, 3) for name, seconds in stages.items()},
            "engine": self._engine_name,
            "precision": self._precision,
            "bundle": self.manifest.digest,
            "adapters": [
                {"name": s.name, "digest": s.digest, "weight": s.weight}
                for s in job.styles
                if s.field in adapter_fields(request)
            ],
            "embeddings": [
                {"name": s.name, "digest": s.digest} for s in job.styles if s.field not in adapter_fields(request)
            ],
            "steps": request.steps_to_run,
            **_strengths(request),
            "scheduler": request.scheduler,
            "width": request.width,
            "height": request.height,
        }

    # whatever became of it

    def _fail(self, job: Job, error: Exception) -> None:
        job.loading = None
        self._settle(job, as_impasto_error(error))

    def _settle(self, job: Job, outcome: Result | ImpastoError) -> None:
        self.stats.add(_became(outcome))
        self._admission.leave()
        try:
            job.caller.done(outcome)
        except Exception as error:  # theirs, and no reason to stop serving the others
            log.error("a caller could not take its answer", exc_info=error)


def _family(bundle: Bundle, compiled: Callable[[str], Engine]) -> Family:
    manifest = bundle.manifest
    return Diffusion(manifest, compiled) if isinstance(manifest, DiffusionManifest) else Masked(manifest, compiled)


def _strengths(request: Request) -> dict[str, object]:
    """What was used of the settings that not every request has."""
    found: dict[str, object] = {"guidance": request.guidance}
    if request.styled_by_adapter:
        found |= {"style_strength": request.style_strength, "text_strength": request.text_strength}
    else:
        found["guidance_scale"] = request.guidance_scale
    if request.guidance.startswith("dreamstyler"):
        found |= {"style_guidance": request.style_guidance, "content_guidance": request.content_guidance}
    if request.content is not None:
        found |= {"content": request.content, "gamma": request.gamma}
    if request.guidance_ramp:
        found["guidance_ramp"] = True
    if request.style:
        found["style"] = list(request.style)
    if request.image is not None:
        found["strength"] = request.strength
    if request.image is not None or request.depth is not None:
        found["control_scale"] = request.control_scale
    if request.rerank is not None:
        found["rerank"] = request.rerank
    return found


def _became(outcome: Result | ImpastoError) -> str:
    """The counter an outcome belongs to."""
    if isinstance(outcome, Result):
        return "done"
    if isinstance(outcome, Cancelled):
        return "cancelled"
    if isinstance(outcome, DeadlineExceeded):
        return "expired"
    return "refused" if isinstance(outcome, FieldError) else "failed"
