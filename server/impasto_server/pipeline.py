"""The product in one file: request → lanes → steps → image.

    submit ──► prepare (threads) ──► step loop (one thread) ──► finish (thread) ──► done

prepare   names become adapters in host memory, the guidance rule becomes lanes, their mixes become rows of the bank,
          prompts become embeds, the seed becomes noise, and the sampler asks its first question. A request whose
          adapters are still loading, or for which no row is free, comes back later and keeps no thread waiting.
step loop every running request's question becomes rows of one batch; a row carries its own latents, timestep,
          context and adapters. The answers are combined by the request's coefficients and sent back to its sampler.
          Requests join and leave between any two batches.
finish    latents become previews and an encoded picture.

What this module doesn't know: which sampler, rule, adapters or engine it runs.
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

from impasto_server.adapters import FIELD, Adapter, Embedding, Registry
from impasto_server.admission import Admission
from impasto_server.backbone import Backbone, Hint, Row
from impasto_server.bank import AdaptedEngine, Bank
from impasto_server.batch import Turn, choose
from impasto_server.bundle import Bundle, Manifest
from impasto_server.calibration import calibrated, resolve_max_lanes
from impasto_server.conditioning import Conditioner, Conditions
from impasto_server.engine import Engine, resolve_precision
from impasto_server.errors import (
    Cancelled,
    DeadlineExceeded,
    FieldError,
    ImpastoError,
    InvalidArgument,
    as_impasto_error,
)
from impasto_server.guidance import Guidance, Mix, Prompts, combine
from impasto_server.image import Decoder, Encoder, Previewer, encode
from impasto_server.prompt import GRAPH, ClipTokenizer, Line, PromptEncoder, Staged, lines, prompts, triggers
from impasto_server.request import Request
from impasto_server.residency import Kind, Loading, Residency, Style
from impasto_server.samplers import SAMPLERS, Ask, Schedule, Start, Steps
from impasto_server.settings import Settings
from impasto_server.stats import Stats

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

PREPARING_THREADS = 2
SMOOTHING = 0.9


@dataclass(frozen=True)
class Result:
    """An encoded picture, the seed its noise came from, and what was done to make it (JSON-ready)."""

    image: bytes
    seed: int
    meta: dict[str, object]


@dataclass(frozen=True)
class Progress:
    """`step` of `steps` are done, the last will be in `eta_s` seconds.

    `preview` is a PNG with one pixel for each latent: what the sampler takes the clean picture to be by now.
    """

    step: int
    steps: int
    eta_s: float
    preview: bytes | None = None


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


@dataclass(eq=False)
class Running:
    """A job in the step loop: for each lane a coefficient, prompt embeds and a slot; and its sampler's question.

    `answers` are the backbone's for this step so far, [C, h, w] for each of the first lanes.
    """

    job: Job
    pinned: Sequence[int]
    coefficients: tuple[float, ...]
    contexts: tuple[Staged, ...]
    slots: tuple[int, ...]
    hint: Hint | None
    steps: Steps
    ask: Ask
    last_batch: int = 0
    answers: list[Array] = field(default_factory=list)

    @property
    def lanes(self) -> int:
        return len(self.coefficients)

    def rows(self, count: int, train_timesteps: int) -> list[Row]:
        """The next `count` lanes that have no answer yet."""
        ask, done = self.ask, len(self.answers)
        return [
            Row(ask.sample, ask.timestep, context.at(ask.timestep, train_timesteps), slot, self.hint)
            for context, slot in zip(self.contexts[done : done + count], self.slots[done:], strict=False)
        ]

    def turn(self, batch: int) -> Turn[Running]:
        return Turn(
            who=self,
            lanes=self.lanes - len(self.answers),
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
        self._schedule = Schedule.of(self.manifest.scheduler)
        self.stats = Stats()
        self._bank = Bank(self.manifest, settings.bank_rank, settings.bank_bytes, self.stats, self._precision)
        registry = Registry(settings.registry)
        self._residency = Residency(registry, self.manifest, settings.host_bytes, self.stats)

        def compiled(graph: str) -> Engine:
            return AdaptedEngine(bundle, graph, settings, self._bank)

        graphs = self.manifest.graphs
        tokenizer = ClipTokenizer(bundle.folder, self.manifest.tokenizer)
        width = self.manifest.embedding_widths[GRAPH]
        self._prompts = PromptEncoder(tokenizer, compiled(GRAPH), width, settings.host_bytes)
        controlnet = compiled("controlnet") if "controlnet" in graphs else None
        self._backbone = Backbone(graphs["unet"], compiled("unet"), controlnet)
        self._decoder = Decoder(compiled("vae_decoder"), self.manifest.latents)
        self._previewer = Previewer(self._decoder, self.manifest.latents)
        encoder = Encoder(compiled("vae_encoder"), self.manifest.latents)
        self._conditioner = Conditioner(encoder, self.manifest.control)

        self._warm(bundle.nbytes)
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
            job.styles = tuple(self._residency.resolve(*named) for named in _named(request))
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

    def _warm(self, weights_bytes: int) -> None:
        """Run everything once on pictures of the usual size, and prepare the backbone for their batches."""
        size = self.manifest.image
        latents = self.noise(Request("", 0, size.width, size.height))
        self._decoder.decode(latents)
        embeds = self._prompts.encode([Line("")], {}, 0, None)[Line("")]
        row = Row(latents, 0, embeds, 0)
        self._backbone.prepare(row, self._max_lanes, weights_bytes)
        if self.manifest.control is not None:
            hint = Hint(np.zeros((3, size.height, size.width), np.float32), 1.0)
            self._backbone.run([replace(row, hint=hint)] * min(2, self._max_lanes))

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
                job.conditions = self._conditioner.read(job.request)
            unfinished = next((adapter for adapter in job.loading.values() if not adapter.done()), None)
            if unfinished is not None:
                unfinished.add_done_callback(lambda _: again())
                return
            running = self._start(job, _loaded(job.styles, job.loading), again)
        except Exception as error:
            return self._fail(job, error)
        if running is not None:
            job.loading = None  # the bank has them now, and the host's cache alone decides what else is kept
            job.mark("prepared")
            self._joining.put(running)

    def _start(self, job: Job, loaded: Mapping[str, Kind], again: Callable[[], None]) -> Running | None:
        """None when there is no room for its adapters; `again` is then called when there may be."""
        request = job.request
        adapters, embeddings = _by_kind(job.styles, loaded)
        mix = Mix.of([(style.digest, style.weight) for style in job.styles if style.digest in adapters])
        said = prompts(request.prompt, request.negative_prompt, request.style, embeddings)
        guidance = request.rule(said, mix)
        job.warnings = self._warnings(guidance, said, embeddings)
        rows = self._bank.pin([lane.mix for lane in guidance.lanes], adapters, again)
        if rows is None:
            return None
        pinned = tuple(rows.values())
        try:
            start = Start(self.noise(request), job.conditions.latents, request.strength)
            steps = SAMPLERS[request.scheduler](start, request.steps, self._schedule)
            return Running(
                job=job,
                pinned=pinned,
                coefficients=guidance.coefficients,
                contexts=self._encode(guidance, rows, adapters, embeddings),
                slots=tuple(rows[lane.mix] for lane in guidance.lanes),
                hint=job.conditions.hint,
                steps=steps,
                ask=next(steps),
            )
        except Exception:
            self._bank.unpin(pinned)
            raise

    def _warnings(self, guidance: Guidance, said: Prompts, embeddings: Mapping[str, Embedding]) -> tuple[str, ...]:
        found = [
            self._prompts.tokenize(words, embeddings).warning("NEGATIVE_PROMPT" if lane.text == said.null else "PROMPT")
            for lane in guidance.lanes
            for words in lane.text.stages
        ]
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

    def noise(self, request: Request) -> Array:
        """Unit Gaussian latents [C, h, w], a function of the seed and the size alone."""
        factor = self.manifest.latents.factor
        shape = (self.manifest.latents.channels, request.height // factor, request.width // factor)
        return np.random.Generator(np.random.Philox(request.seed)).standard_normal(shape, np.float32)

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
            if len(one.answers) == one.lanes:
                one.last_batch = batch
                if self._advance(one):
                    left.append(one)
        self._step_s = SMOOTHING * self._step_s + (1 - SMOOTHING) * (perf_counter() - started)
        return left

    def _forward(self, chosen: Sequence[tuple[Running, int]]) -> None:
        """Rows of one batch through the backbone, and each request's share to its answers."""
        train_timesteps = self.manifest.scheduler.num_train_timesteps
        rows = [row for one, count in chosen for row in one.rows(count, train_timesteps)]
        answers = iter(self._backbone.run(rows))
        self.stats.add("steps")
        self.stats.add("lanes", len(rows))
        for one, count in chosen:
            one.answers += islice(answers, count)

    def _advance(self, one: Running) -> bool:
        """Send the combined answers to the sampler; True when that was its last step."""
        guided, one.answers = combine(one.coefficients, np.stack(one.answers)), []
        one.job.steps_done += 1
        try:
            one.ask = one.steps.send(guided)
        except StopIteration as stop:
            self._report(one.job, None)
            self._leave(one, stop.value)
            return True
        self._report(one.job, one.ask.denoised)
        return False

    def _leave(self, one: Running, outcome: Array | Exception) -> None:
        self._bank.unpin(one.pinned)
        one.job.mark("denoised")
        if isinstance(outcome, Exception):
            self._finishing.submit(self._fail, one.job, outcome)
        else:
            self._finishing.submit(self._finish, one.job, outcome)

    def _report(self, job: Job, denoised: Array | None) -> None:
        """Have the caller told of a step, if it wants to know; the picture itself is the last step's preview."""
        if job.caller.progress is not None:
            step, steps, every = job.steps_done, job.request.steps_to_run, job.request.preview_every
            eta_s = (perf_counter() - job.times["joined"]) / step * (steps - step)
            shown = denoised if every and step % every == 0 else None
            self._finishing.submit(self._tell, job, Progress(step, steps, eta_s), shown)

    # finish: latents → previews and the image

    def _tell(self, job: Job, progress: Progress, latents: Array | None) -> None:
        assert job.caller.progress is not None
        try:
            if latents is not None:
                progress = replace(progress, preview=self._previewer.preview(latents))
            job.caller.progress(progress)
        except Exception as error:  # the picture itself may still reach them
            log.error("a caller could not take its progress", exc_info=error)

    def _finish(self, job: Job, latents: Array) -> None:
        try:
            job.check()
            pixels = self._decoder.decode(latents)
            image = encode(pixels, job.request.format)
            job.mark("finished")
            result = Result(image, job.request.seed, self._meta(job))
        except Exception as error:
            return self._fail(job, error)
        self._settle(job, result)

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
                {"name": s.name, "digest": s.digest, "weight": s.weight} for s in job.styles if s.field == FIELD
            ],
            "embeddings": [{"name": s.name, "digest": s.digest} for s in job.styles if s.field != FIELD],
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


def _named(request: Request) -> list[tuple[str, float, str]]:
    """Every adapter that a request names: its name, weight and the field where it stands (the first, if in several)."""
    embeddings = {
        **dict.fromkeys(triggers(request.negative_prompt), "NEGATIVE_PROMPT"),
        **dict.fromkeys(triggers(request.prompt), "PROMPT"),
        **dict.fromkeys(request.style, "STYLE"),
    }
    loras = [(name, weight, FIELD) for name, weight in request.adapters]
    return loras + [(name, 1.0, field) for name, field in embeddings.items()]


def _loaded(styles: Sequence[Style], loading: Loading) -> dict[str, Kind]:
    """What has been loaded, by digest. Raises as Registry.load, of the field where the request names the adapter."""
    loaded = {}
    for style in styles:
        if style.digest in loading:
            try:
                loaded[style.digest] = loading[style.digest].result()
            except FieldError as error:
                raise error.at(style.field) from None
    return loaded


def _by_kind(styles: Sequence[Style], loaded: Mapping[str, Kind]) -> tuple[dict[str, Adapter], dict[str, Embedding]]:
    """LoRAs by digest, embeddings by name. Raises InvalidArgument for one that stands where the other belongs."""
    adapters: dict[str, Adapter] = {}
    embeddings: dict[str, Embedding] = {}
    for style in styles:
        match loaded.get(style.digest):
            case Adapter() as adapter if style.field == FIELD:
                adapters[style.digest] = adapter
            case Embedding() as embedding if style.field != FIELD:
                embeddings[style.name] = embedding
            case Adapter():
                raise InvalidArgument(style.field, f"{style.name!r} is a LoRA", f"name it in {FIELD}")
            case Embedding():
                fix = f"name it in STYLE, or write <{style.name}> in PROMPT"
                raise InvalidArgument(FIELD, f"{style.name!r} is an embedding", fix)
    return adapters, embeddings


def _strengths(request: Request) -> dict[str, object]:
    """What was used of the settings that not every request has."""
    found: dict[str, object] = {"guidance": request.guidance, "guidance_scale": request.guidance_scale}
    if request.guidance != "cfg":
        found |= {"style_guidance": request.style_guidance, "content_guidance": request.content_guidance}
    if request.style:
        found["style"] = list(request.style)
    if request.image is not None:
        found["strength"] = request.strength
    if request.image is not None or request.depth is not None:
        found["control_scale"] = request.control_scale
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
