"""The product in one file: request → lanes → steps → image.

    submit ──► prepare (threads) ──► step loop (one thread) ──► finish (thread) ──► done

prepare   names become adapters in host memory, the guidance rule becomes lanes, their mixes take seats (rows of the
          bank, or weights that they are merged into), prompts become embeds, the seed of each candidate starts a
          sampler, and that asks its first question. A request whose adapters are still loading, or for which no row
          is free, comes back later and keeps no thread waiting.
step loop every running request's questions become rows of one batch; a row carries its own sample, timestep, context
          and seat. The answers are combined by the request's coefficients and sent back to its samplers.
          Requests join and leave between any two batches.
finish    samples become previews and encoded pictures, the best first where they are scored.

Who waits for a request and what they hear is in job.py, a job's part in the step loop in running.py. What this module
doesn't know: whether latents or tokens are sampled, and which sampler, rule, adapters or engine runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter

from impasto_server.adapters import Embedding, Patch, Registry
from impasto_server.admission import Admission
from impasto_server.backbone import Seat
from impasto_server.bank import Bank
from impasto_server.batch import choose
from impasto_server.bundle import Bundle, DiffusionManifest, Manifest
from impasto_server.calibration import calibrated, resolve_max_lanes
from impasto_server.diffusion import Diffusion
from impasto_server.drain import Closing
from impasto_server.encoder import PromptEncoder
from impasto_server.engines.engine import resolve_precision
from impasto_server.errors import (
    Cancelled,
    DeadlineExceeded,
    FieldError,
    ImpastoError,
    as_impasto_error,
)
from impasto_server.family import Family
from impasto_server.graphs import Graphs
from impasto_server.guidance import Guidance, Mix, Prompts, Text
from impasto_server.image import encode
from impasto_server.job import Caller, Job, Progress, Result
from impasto_server.masked import Masked
from impasto_server.meta import settings_of, styles_of, timings_of
from impasto_server.names import by_kind, loaded_of, mixes, named, said_by
from impasto_server.prompt import Line, Staged, lines
from impasto_server.ranking import Ranking
from impasto_server.request import Request
from impasto_server.residency import Kind, Residency
from impasto_server.running import Candidate, Running
from impasto_server.samplers import Sample
from impasto_server.score import Scorer
from impasto_server.seating import Seating
from impasto_server.settings import Settings
from impasto_server.stats import Stats

__all__ = ["Caller", "Pipeline", "Progress", "Result", "Running"]

log = logging.getLogger(__name__)

READING_THREADS, PREPARING_THREADS = 2, 2
SMOOTHING = 0.9


class Pipeline:
    """One backbone, resident once, painting for everyone. `submit` from any thread."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.manifest: Manifest = bundle.manifest
        self._engine_name = settings.engine
        self._precision = resolve_precision(settings.engine, settings.precision)
        measured = calibrated(settings, bundle)
        self._max_lanes = resolve_max_lanes(settings, measured)
        self.stats = Stats()
        bank = Bank(self.manifest, settings.bank_rank, settings.bank_bytes, self.stats, self._precision)
        self._seating = Seating(self.manifest, bank, self.stats)
        self._residency = Residency(Registry(settings.registry), self.manifest, settings.host_bytes, self.stats)
        graphs = Graphs(bundle, settings, bank)
        self._prompts = PromptEncoder.of(bundle, graphs, settings.host_bytes)
        self._family = _family(bundle, graphs)
        self._ranking = Ranking(Scorer.open(settings.scorer, settings) if settings.scorer else None)

        embeds = self._prompts.encode([Line("")], {}, Seat(), None)[Line("")]
        self._family.warm(embeds, self._max_lanes, bundle.nbytes)
        self._admission = Admission(settings.max_requests, self.stats)
        self._closing = Closing()
        self._reading = ThreadPoolExecutor(READING_THREADS, "read")
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
        job = Job(request, caller, self._closing)
        try:
            job.styles = tuple(self._residency.resolve(*each) for each in named(request))
        except Exception as error:
            self._preparing.submit(self._fail, job, error)
        else:
            # Decoding a large picture takes a while: who has none to decode doesn't wait for that.
            (self._reading if request.pictured else self._preparing).submit(self._prepare, job)

    def refused(self) -> None:
        """Count a request that could not be read, so that it was never submitted."""
        self.stats.add("refused")

    def generate(self, request: Request) -> Result:
        """Paint one picture and wait for it. Raises ImpastoError."""
        answer: Future[Result | ImpastoError] = Future()
        self.submit(request, Caller(answer.set_result))
        outcome = answer.result()
        if isinstance(outcome, ImpastoError):
            raise outcome
        return outcome

    def drain(self, grace_s: float) -> int:
        """Take nothing new, and finish what was taken; how many were told Unavailable since they took longer."""
        self._closing.within(grace_s)
        return self._admission.drain(grace_s)

    def close(self) -> None:
        """Take nothing new, finish what was taken, and free the threads."""
        self._admission.close()
        self._joining.put(None)
        self._loop.join()
        self._residency.close()
        self._reading.shutdown()
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
                job.style_image = self._ranking.reference(job.request)
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
        guidance = self._family.rule(request)(said, mixes(job.styles, adapters))
        job.warnings = self._warnings(request, guidance, said, embeddings)
        seats = self._seating.take([lane.mix for lane in guidance.lanes], adapters, job.styles, again)
        if seats is None:
            return None
        job.pinned = any(seat.weights for seat in seats.values())
        try:
            samplers = [self._family.begin(request, seed, job.conditions) for seed in request.seeds]
            return Running(
                job=job,
                guidance=guidance,
                contexts=self._encode(guidance, seats, adapters, embeddings),
                seats=seats,
                hint=job.conditions.hint,
                candidates=tuple(Candidate(steps, next(steps)) for steps in samplers),
            )
        except Exception:
            self._seating.leave(seats)
            raise

    def _warnings(
        self, request: Request, guidance: Guidance, said: Prompts, embeddings: Mapping[str, Embedding]
    ) -> tuple[str, ...]:
        """What of the request's words nobody reads."""

        def field_of(text: Text) -> str:
            if text == said.null:
                return "NEGATIVE_PROMPT"
            return "CONTENT_PROMPT" if request.content_prompt is not None and text == said.context else "PROMPT"

        found = [
            warning
            for lane in guidance.lanes
            for words in lane.text.stages
            for warning in self._prompts.unread(words, embeddings, field_of(lane.text))
        ]
        return tuple(dict.fromkeys(found + self._ranking.warnings(request)))

    def _encode(
        self,
        guidance: Guidance,
        seats: Mapping[Mix, Seat],
        adapters: Mapping[str, Patch],
        embeddings: Mapping[str, Embedding],
    ) -> tuple[Staged, ...]:
        """Prompt embeds of each lane, under the adapters of its own."""
        spoken = [(lines(lane.text, embeddings), lane.mix) for lane in guidance.lanes]
        embeds = {}
        for mix, seat in seats.items():
            wanted = dict.fromkeys(line for stages, other in spoken if other == mix for line in stages)
            taken, key = (seat, mix) if self._seating.speaks(mix, adapters) else (Seat(), None)
            encoded = self._prompts.encode(wanted, embeddings, taken, key)
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
        left = [one for one, _ in chosen if not one.missing and self._advance(one, batch)]
        self._step_s = SMOOTHING * self._step_s + (1 - SMOOTHING) * (perf_counter() - started)
        return left

    def _forward(self, chosen: Sequence[tuple[Running, int]]) -> None:
        """Rows of one batch through the backbone, and each request's share to its answers."""
        rows = [row for one, count in chosen for row in one.rows(count, self._family.train_timesteps)]
        answers = iter(self._family.backbone.run(rows))
        self.stats.add("steps", len({row.weights for row in rows}))
        self.stats.add("lanes", len(rows))
        for one, count in chosen:
            one.answers += islice(answers, count)

    def _advance(self, one: Running, batch: int) -> bool:
        """A step of one that has all its answers; True when it leaves, since that was the last, or its own failure."""
        one.last_batch = batch
        try:
            finished = one.advance()
        except Exception as error:
            self._leave(one, error)
            return True
        self._report(one.job, [] if finished else [candidate.ask.denoised for candidate in one.candidates])
        if finished:
            self._leave(one, finished)
        return bool(finished)

    def _leave(self, one: Running, outcome: list[Sample] | Exception) -> None:
        self._seating.leave(one.seats)
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
            order, scores = self._ranking.order(job.request, pictures, job.style_image)
            images = tuple(encode(pictures[i], job.request.format) for i in order)
            job.mark("finished")
            result = Result(images, tuple(job.request.seeds[i] for i in order), self._meta(job), scores)
        except Exception as error:
            return self._fail(job, error)
        self._settle(job, result)

    def _meta(self, job: Job) -> dict[str, object]:
        self.stats.add("join_seconds", job.join_s)
        self.stats.add("queue_seconds", job.queue_s)
        return {
            "warnings": list(job.warnings),
            "timings": timings_of(job),
            "engine": self._engine_name,
            "precision": self._precision,
            "bundle": self.manifest.digest,
            **styles_of(job),
            **settings_of(job.request, self.manifest),
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


def _family(bundle: Bundle, graphs: Graphs) -> Family:
    manifest = bundle.manifest
    return Diffusion(manifest, graphs) if isinstance(manifest, DiffusionManifest) else Masked(manifest, graphs)


def _became(outcome: Result | ImpastoError) -> str:
    """The counter an outcome belongs to."""
    if isinstance(outcome, Result):
        return "done"
    if isinstance(outcome, Cancelled):
        return "cancelled"
    if isinstance(outcome, DeadlineExceeded):
        return "expired"
    return "refused" if isinstance(outcome, FieldError) else "failed"
