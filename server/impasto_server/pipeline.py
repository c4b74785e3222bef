"""The product in one file: request → lanes → steps → image.

    submit ──► prepare (threads) ──► step loop (one thread) ──► finish (thread) ──► done

prepare   names become adapters in the bank, the guidance rule becomes lanes, prompts become embeds, the seed becomes
          noise, and the sampler asks its first question.
step loop every running request's question becomes rows of one batch; a row carries its own latents, timestep,
          context and adapter. The answers are combined by the request's coefficients and sent back to its sampler.
          Requests join and leave between any two batches.
finish    latents become an encoded picture.

What this module doesn't know: which sampler, rule, adapters or engine it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters import Registry
from impasto_server.admission import Admission
from impasto_server.bank import AdaptedEngine, Bank
from impasto_server.bundle import Bundle, Manifest
from impasto_server.engine import Engine, compile_graph, resolve_precision
from impasto_server.errors import Cancelled, FieldError, ImpastoError, Unavailable, as_impasto_error
from impasto_server.guidance import Lane, classifier_free, combine
from impasto_server.image import Decoder, encode
from impasto_server.prompt import ClipTokenizer, PromptEncoder
from impasto_server.request import Request
from impasto_server.residency import Pinned, Residency, Style
from impasto_server.samplers import SAMPLERS, Ask, Schedule, Steps
from impasto_server.settings import Settings
from impasto_server.stats import Stats

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

PREPARING_THREADS = 4


@dataclass(frozen=True)
class Result:
    """An encoded picture, the seed its noise came from, and what was done to make it (JSON-ready)."""

    image: bytes
    seed: int
    meta: dict[str, object]


Done = Callable[[Result | ImpastoError], None]
Gone = Callable[[], bool]


@dataclass
class Job:
    """A request on its way, and when it passed each stage (seconds on one clock).

    `gone` says whether nobody waits for it any more; it's asked at every stage and before every step.
    """

    request: Request
    done: Done
    gone: Gone
    styles: tuple[Style, ...] = ()
    warnings: tuple[str, ...] = ()
    times: dict[str, float] = field(default_factory=lambda: {"submitted": perf_counter()})

    def mark(self, stage: str) -> None:
        self.times[stage] = perf_counter()

    def check(self) -> None:
        """Raises Cancelled when nobody waits for the answer."""
        if self.gone():
            raise Cancelled("the caller cancelled the request, or is gone")


@dataclass(eq=False)
class Running:
    """A job in the step loop: lanes as rows (embeds [lanes, T, D], slots [lanes]) and its sampler's question."""

    job: Job
    pinned: Pinned
    coefficients: tuple[float, ...]
    embeds: Array
    slots: NDArray[np.int64]
    steps: Steps
    ask: Ask
    last_batch: int = -1

    @property
    def lanes(self) -> int:
        return len(self.coefficients)


class Pipeline:
    """One backbone, resident once, painting for everyone. `submit` from any thread."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.manifest: Manifest = bundle.manifest
        self._engine_name = settings.engine
        self._precision = resolve_precision(settings.engine, settings.precision)
        self._max_lanes = settings.max_lanes
        self._schedule = Schedule.of(self.manifest.scheduler)
        self.stats = Stats()
        bank = Bank(self.manifest, settings.bank_rank, settings.bank_bytes, self.stats)
        registry = Registry(settings.registry)
        self._residency = Residency(registry, self.manifest, bank, settings.host_bytes, self.stats)

        def compiled(graph: str) -> Engine:
            return AdaptedEngine(compile_graph(bundle.graph_path(graph), settings), bank, graph)

        tokenizer = ClipTokenizer(bundle.folder, self.manifest.tokenizer)
        self._prompts = PromptEncoder(tokenizer, compiled("text_encoder"), settings.host_bytes)
        self._backbone = compiled("unet")
        self._decoder = Decoder(compiled("vae_decoder"), self.manifest.latents)

        self._open = True
        self._admission = Admission(settings.max_requests, self.stats)
        self._preparing = ThreadPoolExecutor(PREPARING_THREADS, "prepare")
        self._finishing = ThreadPoolExecutor(1, "finish")
        self._joining: SimpleQueue[Running | None] = SimpleQueue()
        self._loop = Thread(target=self._run, name="step-loop", daemon=True)
        self._loop.start()

    @classmethod
    def load(cls, settings: Settings) -> Pipeline:
        """Open the bundle and compile its graphs. Raises SetupError."""
        return cls(Bundle.open(settings.bundle), settings)

    def submit(self, request: Request, done: Done, gone: Gone = lambda: False) -> None:
        """Start on `request` and return; `done` is called once, from another thread.

        `gone` is asked at every stage and before every step; work on the request stops once it says yes. Raises
        Unavailable when closed, and Exhausted when as many requests are under way as the settings allow.
        """
        if not self._open:
            raise Unavailable("the server is stopping; send the request to another one, or later")
        self._admission.enter()
        self._preparing.submit(self._prepare, Job(request, done, gone))

    def generate(self, request: Request) -> Result:
        """Paint one picture and wait for it. Raises ImpastoError."""
        answer: Future[Result | ImpastoError] = Future()
        self.submit(request, answer.set_result)
        outcome = answer.result()
        if isinstance(outcome, ImpastoError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Take nothing new, finish what was taken, and free the threads."""
        self._open = False
        self._preparing.shutdown()
        self._joining.put(None)
        self._loop.join()
        self._finishing.shutdown()

    # prepare: request → lanes

    def _prepare(self, job: Job) -> None:
        job.mark("preparing")
        try:
            job.check()
            job.styles = self._residency.resolve(job.request.adapters)
            pinned = self._residency.pin(job.styles)
        except Exception as error:
            return self._fail(job, error)
        try:
            running = self._start(job, pinned)
        except Exception as error:
            self._residency.unpin(pinned)
            return self._fail(job, error)
        job.mark("prepared")
        self._joining.put(running)

    def _start(self, job: Job, pinned: Pinned) -> Running:
        request = job.request
        guidance = classifier_free(request.prompt, request.negative_prompt, pinned.mix, request.guidance_scale)
        steps = SAMPLERS[request.scheduler](self.noise(request), request.steps, self._schedule)
        return Running(
            job=job,
            pinned=pinned,
            coefficients=guidance.coefficients,
            embeds=self._encode(job, guidance.lanes, pinned),
            slots=np.full(len(guidance.lanes), pinned.slot, np.int64),
            steps=steps,
            ask=next(steps),
        )

    def _encode(self, job: Job, lanes: Sequence[Lane], pinned: Pinned) -> Array:
        tokens = {lane.prompt: self._prompts.tokenize(lane.prompt) for lane in lanes}
        fields = {job.request.negative_prompt: "NEGATIVE_PROMPT", job.request.prompt: "PROMPT"}
        warnings = (tokens[text].warning(name) for text, name in fields.items() if text in tokens)
        job.warnings = tuple(warning for warning in warnings if warning)
        adapted = "text_encoder" in pinned.graphs
        embeds = self._prompts.encode(tokens, pinned.slot if adapted else 0, pinned.mix if adapted else None)
        return np.stack([embeds[lane.prompt] for lane in lanes])

    def noise(self, request: Request) -> Array:
        """Unit Gaussian latents [C, h, w], a function of the seed and the size alone."""
        factor = self.manifest.latents.factor
        shape = (self.manifest.latents.channels, request.height // factor, request.width // factor)
        return np.random.Generator(np.random.Philox(request.seed)).standard_normal(shape, np.float32)

    # step loop: lanes → steps

    def _run(self) -> None:
        running: list[Running] = []
        batch = 0
        while self._admit(running):
            left = self._dismiss(running)
            waiting = [one for one in running if one not in left]
            if waiting:
                left += self._step(self._choose(waiting), batch)
            running = [one for one in running if one not in left]
            batch += 1

    def _admit(self, running: list[Running]) -> bool:
        """Let everyone in who has arrived, waiting only while there is nothing to do. False when all is done."""
        try:
            while True:
                one = self._joining.get(block=not running)
                if one is None:
                    self._joining.put(None)
                    return bool(running)
                one.job.mark("joined")
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

    def _choose(self, running: Sequence[Running]) -> list[Running]:
        """Whoever waited longest, and everyone of the same latent shape behind them that fits into `max_lanes`."""
        waiting = sorted(running, key=lambda one: one.last_batch)
        chosen = [waiting[0]]
        room = self._max_lanes - waiting[0].lanes
        for one in waiting[1:]:
            if one.lanes <= room and one.ask.sample.shape == waiting[0].ask.sample.shape:
                chosen.append(one)
                room -= one.lanes
        return chosen

    def _step(self, chosen: Sequence[Running], batch: int) -> list[Running]:
        """One forward pass, one step of every chosen request; returns those that leave."""
        try:
            outputs = self._forward(chosen)
        except Exception as error:
            for one in chosen:
                self._leave(one, error)
            return list(chosen)
        left = []
        for one, output in zip(chosen, outputs, strict=True):
            one.last_batch = batch
            try:
                one.ask = one.steps.send(combine(one.coefficients, output))
            except StopIteration as stop:
                self._leave(one, stop.value)
                left.append(one)
        return left

    def _forward(self, chosen: Sequence[Running]) -> list[Array]:
        """Rows of one batch, and each request's share [lanes, C, h, w] of the backbone's output."""
        counts = [one.lanes for one in chosen]
        feeds = {
            "sample": np.repeat(np.stack([one.ask.sample for one in chosen]), counts, axis=0),
            "timestep": np.repeat(np.array([one.ask.timestep for one in chosen], np.float32), counts),
            "encoder_hidden_states": np.concatenate([one.embeds for one in chosen]),
            "slot": np.concatenate([one.slots for one in chosen]),
        }
        (output,) = self._backbone.run(feeds)
        self.stats.add("steps")
        self.stats.add("lanes", sum(counts))
        return np.split(output, np.cumsum(counts)[:-1])

    def _leave(self, one: Running, outcome: Array | Exception) -> None:
        self._residency.unpin(one.pinned)
        one.job.mark("denoised")
        if isinstance(outcome, Exception):
            self._fail(one.job, outcome)
        else:
            self._finishing.submit(self._finish, one.job, outcome)

    # finish: latents → image

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
            "adapters": [{"name": s.name, "digest": s.digest, "weight": s.weight} for s in job.styles],
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "scheduler": request.scheduler,
            "width": request.width,
            "height": request.height,
        }

    # whatever became of it

    def _fail(self, job: Job, error: Exception) -> None:
        self._settle(job, as_impasto_error(error))

    def _settle(self, job: Job, outcome: Result | ImpastoError) -> None:
        self.stats.add(_became(outcome))
        self._admission.leave()
        try:
            job.done(outcome)
        except Exception as error:  # theirs, and no reason to stop serving the others
            log.error("a caller could not take its answer", exc_info=error)


def _became(outcome: Result | ImpastoError) -> str:
    """The counter an outcome belongs to."""
    if isinstance(outcome, Result):
        return "done"
    if isinstance(outcome, Cancelled):
        return "cancelled"
    return "refused" if isinstance(outcome, FieldError) else "failed"
